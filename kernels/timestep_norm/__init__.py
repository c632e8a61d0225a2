"""Timestep normalisation: group statistics accumulated over time, with decay (Gecko) or over everything (Megalodon)."""

from gecko_lab.kernels.timestep_norm.op import timestep_norm
from gecko_lab.kernels.timestep_norm.statistics import TimestepStatistics

__all__ = ["TimestepStatistics", "timestep_norm"]
