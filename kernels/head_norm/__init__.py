"""Head normalisation: RMS norm of each head, the affine maps of queries and keys, rotary positions."""

from gecko_lab.kernels.head_norm.op import head_norm

__all__ = ["head_norm"]
