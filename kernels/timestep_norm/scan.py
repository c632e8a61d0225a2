"""First-order linear recurrences over time that restart at given timesteps, in about 2 sqrt(L) vectorised steps."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def segmented_scan(
    increments: Tensor, decay: Tensor, restarts: Tensor | None, initial: Tensor, reverse: bool = False
) -> Tensor:
    """All states of `s_t = (0 where restarts_t, else decay_t s_{t-1}) + increments_t`.

    Time is cut into about `sqrt(L)` blocks. All blocks step through their timesteps together, as if each began at
    zero; then the carries step through the blocks. What lies before a restart is dropped by selection, never by
    a product with zero: neither a rounding error nor an inf or nan crosses it.

    Args:
        increments: `[B, L, G]`.
        decay: `[B, L]`, same dtype.
        restarts: `[B, L]` bool, or None for no restart.
        initial: State before the first timestep, `[B, G]`.
        reverse: Whether to run from the last timestep to the first, with `t + 1` in place of `t - 1`.

    Returns:
        `[B, L, G]`.
    """
    length = increments.shape[1]
    if length == 1:
        carried = decay * initial
        if restarts is not None:
            carried = torch.where(restarts, 0.0, carried)
        return increments + carried[:, None]

    # A power of two near sqrt(L): the usual lengths then need no padding, which would copy.
    block_length = 1 << ((length - 1).bit_length() // 2)
    num_blocks = -(-length // block_length)
    padding = num_blocks * block_length - length

    def blocks(tensor: Tensor, fill: float = 0.0) -> Tensor:
        """`[B, L, X]` to `[B, num_blocks, block_length, X]`; padding stands after the last timestep."""
        padded = F.pad(tensor, (0, 0, 0, padding), value=fill) if padding else tensor
        return padded.unflatten(1, (num_blocks, block_length))

    def cumulative(tensor: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
        """`of` over each block's timesteps in the order of the scan, on `[B, num_blocks, block_length, 1]`."""
        tensor = tensor.squeeze(3)
        return (of(tensor.flip(2)).flip(2) if reverse else of(tensor)).unsqueeze(3)

    # In reverse the padding comes first and has to hand on the initial state.
    increments, decay = blocks(increments), blocks(decay[:, :, None], 1.0)
    restart = None if restarts is None else blocks(restarts[:, :, None])
    restarted = None if restart is None else cumulative(restart, lambda flags: flags.cummax(dim=2).values)
    linked = decay if restart is None else decay.masked_fill(restart, 0.0)
    reach = cumulative(linked, lambda factors: factors.cumprod(dim=2))

    states = torch.empty_like(increments)
    steps = list(zip(increments.unbind(2), decay.unbind(2), states.unbind(2), strict=True))
    fresh = () if restart is None else restart.unbind(2)
    order = range(block_length)[:: -1 if reverse else 1]
    state = steps[order[0]][2].copy_(steps[order[0]][0])
    for step in order[1:]:
        increment, factor, destination = steps[step]
        state = torch.addcmul(increment, factor, state, out=destination)
        if restart is not None:
            torch.where(fresh[step], increment, state, out=destination)

    carries: list[Tensor] = []
    carry, last = initial, order[-1]
    ends = list(zip(state.unbind(1), reach[:, :, last].unbind(1), strict=True))
    closed = () if restarted is None else restarted[:, :, last].unbind(1)
    for block in range(num_blocks)[:: -1 if reverse else 1]:
        carries.append(carry)
        end, factor = ends[block]
        carry = torch.addcmul(end, factor, carry)
        if restarted is not None:
            carry = torch.where(closed[block], end, carry)
    carried = torch.stack(carries[::-1] if reverse else carries, dim=1)[:, :, None]
    totals = torch.addcmul(states, reach, carried)
    if restarted is not None:
        totals = torch.where(restarted, states, totals)
    return totals.flatten(1, 2)[:, :length]


def segmented_scan_backward(
    gradients: Tensor, decay: Tensor, restarts: Tensor | None, final_gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `segmented_scan` for its increments and its initial state: the same recurrence, backwards in time.

    Args:
        gradients: Direct gradients of the states, `[B, L, G]`.
        decay: `[B, L]`, as in the forward pass.
        restarts: `[B, L]` bool or None, as in the forward pass.
        final_gradient: Further gradient of the last state, `[B, G]`.

    Returns:
        Total gradients of the states, which are those of the increments, `[B, L, G]`.
        Gradient of the initial state, `[B, G]`.
    """
    # The state at t reaches t + 1 through decay_{t+1}; beyond the last timestep nothing decays and nothing restarts.
    decay_after = F.pad(decay[:, 1:], (0, 1), value=1.0)
    restarts_after = None if restarts is None else F.pad(restarts[:, 1:], (0, 1))
    totals = segmented_scan(gradients, decay_after, restarts_after, final_gradient, reverse=True)
    initial_gradient = decay[:, :1] * totals[:, 0]
    if restarts is not None:
        initial_gradient = torch.where(restarts[:, :1], 0.0, initial_gradient)
    return totals, initial_gradient
