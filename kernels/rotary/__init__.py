"""Rotary position embedding."""

from gecko_lab.kernels.rotary.op import rotary, rotary_angles

__all__ = ["rotary", "rotary_angles"]
