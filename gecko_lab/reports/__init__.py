"""Reports over run folders and grids: every number traced to the run that it comes from."""
