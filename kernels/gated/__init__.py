"""Gates: `silu(gate) ⊙ x`, with or without something added."""

from gecko_lab.kernels.gated.op import gated

__all__ = ["gated"]
