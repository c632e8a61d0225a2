"""Attention over chunks, windows and everything."""

from gecko_lab.kernels.attention.op import attention
from gecko_lab.kernels.attention.pattern import Pattern

__all__ = ["Pattern", "attention"]
