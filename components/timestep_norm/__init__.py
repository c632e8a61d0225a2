"""Timestep normalisations."""
