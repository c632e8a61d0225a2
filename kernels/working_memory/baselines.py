"""The authors' form of the memory, chunk by chunk with autograd: what the vectorised one is compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def loop(q: Tensor, k: Tensor, v: Tensor, *, chunk_size: int) -> Tensor:
    """M' = M + rho (K~ (V - Q~ M) - M) for one document from the stream's beginning, no state (arXiv 2601.06463).

    Args:
        q, k: [B, L, H, S]; v: [B, L, H, V]; float32 or float64.
        chunk_size: timesteps of a chunk; a last chunk that is not whole is read and not written.

    Returns:
        y [B, L, H, V].
    """
    batch, length, heads, key_dim = q.shape
    memory = next_memory = q.new_zeros(batch, heads, key_dim, v.shape[-1])
    log_norm = q.new_full((batch, heads, key_dim, 1), -torch.inf)
    outputs = []
    for start in range(0, length, chunk_size):
        queries, keys, values = (x[:, start : start + chunk_size].transpose(1, 2) for x in (q, k, v))
        outputs.append((queries.softmax(dim=-1) @ memory).transpose(1, 2))
        if start + chunk_size > length:
            break
        chunk_log_norm = keys.logsumexp(dim=2).unsqueeze(-1)
        log_norm = torch.logaddexp(log_norm, chunk_log_norm)
        rho = (chunk_log_norm - log_norm).exp()
        memory, innovation = next_memory, values - keys.softmax(dim=-1) @ next_memory
        next_memory = memory + rho * (keys.softmax(dim=2).mT @ innovation - memory)
    return torch.cat(outputs, dim=1)
