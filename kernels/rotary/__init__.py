"""Rotary position embedding."""

from gecko_lab.kernels.rotary.angles import Rotation, rotary_angles
from gecko_lab.kernels.rotary.op import rotary, rotate

__all__ = ["Rotation", "rotary", "rotary_angles", "rotate"]
