"""Normalisation of one timestep over its features, in groups."""

from gecko_lab.kernels.grouped_norm.op import grouped_norm

__all__ = ["grouped_norm"]
