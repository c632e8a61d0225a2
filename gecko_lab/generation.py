"""Sampling from a network, one token at a time, through its state."""

from __future__ import annotations

import torch
from torch import Tensor

from gecko_lab.decoding import Decoder, obstacle
from gecko_lab.network import Network, NetworkState

_FEWEST_STEPS = 8
"""For which a CUDA graph is captured: that costs several of them."""


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
    """Continue a prompt; on a GPU by a `Decoder`, where the state and the absence of documents allow it.

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
        piece, added = prompt, list[Tensor]()
        state: NetworkState | None = None
        decoder: Decoder | None = None
        for steps in range(num_tokens, 0, -1):
            if decoder is None:
                hidden, state = network.hidden(piece, state, document_starts)
                logits = network.logits(hidden[:, -1:])  # those of a long prompt would take more memory than all else
            else:
                logits = decoder(piece)
            if not added and state is not None and (decoder := _decoder(network, state, steps - 1)) is not None:
                state = None  # which need not be kept
            document_starts = None
            piece = _choose(logits[:, -1], temperature, generator)
            added.append(piece)
        return torch.cat(added, dim=1)
    finally:
        network.train(training)


def _decoder(network: Network, state: NetworkState, steps: int) -> Decoder | None:
    """What goes on from a prompt's state; none where the network does so as well."""
    on_gpu = network.output.weight.is_cuda
    if not on_gpu or steps < _FEWEST_STEPS or obstacle(network, state) is not None:
        return None
    return Decoder(network, state, num_tokens=steps)


def _choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """One token `[B, 1]` of each row of logits `[B, vocab_size]`."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator)
