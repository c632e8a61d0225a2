"""Complex exponential moving average (CEMA): the operation."""

from gecko_lab.kernels.cema.op import cema

__all__ = ["cema"]
