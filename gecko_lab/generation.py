"""Sampling from a network, one token at a time, through its state."""

from __future__ import annotations

import torch
from torch import Tensor

from gecko_lab.network import Network


@torch.no_grad()
def generate(
    network: Network,
    prompt: Tensor,
    num_tokens: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    document_starts: Tensor | None = None,
) -> Tensor:
    """Continue a prompt.

    Args:
        network: used in evaluation mode and left in the mode it was in.
        prompt: int64 `[B, L]`, L ≥ 1.
        num_tokens: tokens to add.
        temperature: divides the logits; 0 takes the likeliest token.
        generator: source of randomness, on the prompt's device; the global one is not touched where it is given.
        document_starts: bool `[B, L]` of the prompt.

    Returns:
        The tokens added, `[B, num_tokens]`.
    """
    training = network.training
    network.eval()
    try:
        piece, state, added = prompt, None, []
        for _ in range(num_tokens):
            logits, state = network(piece, state, document_starts)
            document_starts = None
            piece = _choose(logits[:, -1], temperature, generator)
            added.append(piece)
        return torch.cat(added, dim=1)
    finally:
        network.train(training)


def _choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """One token `[B, 1]` of each row of logits `[B, vocab_size]`."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator)
