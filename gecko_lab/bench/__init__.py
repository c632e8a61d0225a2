"""`gecko-lab bench`: what is fast beside its reference, checked, interleaved, in one run."""

from gecko_lab.bench.data_command import data
from gecko_lab.bench.kernels_command import kernels

__all__ = ["data", "kernels"]
