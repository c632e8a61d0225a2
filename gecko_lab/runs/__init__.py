"""Runs as folders that can be stopped at any moment and go on as if they had not been."""
