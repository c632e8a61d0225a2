"""Rotary position embedding."""

from gecko_lab.kernels.rotary.angles import rotary_angles
from gecko_lab.kernels.rotary.op import rotary, rotate

__all__ = ["rotary", "rotary_angles", "rotate"]
