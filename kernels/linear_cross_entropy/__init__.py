"""Cross-entropy of a linear map, in pieces."""

from gecko_lab.kernels.linear_cross_entropy.op import linear_cross_entropy

__all__ = ["linear_cross_entropy"]
