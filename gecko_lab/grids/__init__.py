"""Grids: many runs that differ in named ways, planned together, trained side by side, compared at the end."""
