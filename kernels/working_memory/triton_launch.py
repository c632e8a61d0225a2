"""How the kernels are launched: block sizes, warps and stages by shape, dtype and target."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from gecko_lab.kernels.backends import is_interpreting

_TRITON_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class Launch(NamedTuple):
    """What a kernel is launched with, beside its arguments."""

    blocks: dict[str, int]
    num_warps: int
    num_stages: int

    @property
    def options(self) -> dict[str, int]:
        """For the call."""
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages}


class Launches(NamedTuple):
    """By kernel."""

    time_log_norm: Launch
    softmax: Launch
    over_time: Launch
    over_features: Launch
    d_features: Launch
    softmax_gradient: Launch
    dk: Launch
    normaliser: Launch
    scan: Launch
    scan_backward: Launch
    normaliser_backward: Launch


def choose_launches(
    timesteps: int, key_dim: int, value_dim: int, dtype: torch.dtype, *, amd: bool = torch.version.hip is not None
) -> Launches:
    """The launches for chunks of `timesteps`.

    Args:
        timesteps: of a chunk, or of a piece of one.
        key_dim: of a head.
        value_dim: of a head.
        dtype: of the operands of products, which are taken on tensor cores if it is a half.
        amd: whether for a GPU of AMD, which has fewer scalar registers for the addresses of loads ahead.
    """
    half = dtype.itemsize == 2
    side, depth, stages = (128, 64, 3) if half else (64, 32, 2)
    block_s, block_v, block_t = _block(key_dim, side), _block(value_dim, side), _block(timesteps, side)
    # Tiles with all features: what fits into registers shrinks as their number grows.
    all_s = max(16, triton.next_power_of_2(key_dim))
    if half:
        rows = _block(timesteps, min(128, max(16, 16384 // all_s)))
        scanned = _block(value_dim, max(16, 8192 // all_s))
    else:
        rows = _block(timesteps, min(32, max(16, 8192 // all_s)))
        scanned = _block(value_dim, min(32, max(16, 4096 // all_s)))
    ahead = 1 if amd or not half else 2
    gradient = {"BLOCK_T": rows, "BLOCK_S": all_s, "BLOCK_V": _block(value_dim, 32)}
    return Launches(
        time_log_norm=Launch({"BLOCK_T": 16, "BLOCK_S": _block(key_dim, 64)}, 4, 2),
        softmax=Launch({"BLOCK_T": _block(timesteps, max(16, 8192 // all_s)), "BLOCK_S": all_s}, 8, 2),
        over_time=_tile({"BLOCK_S": block_s, "BLOCK_V": block_v, "BLOCK_T": _block(timesteps, depth)}, stages),
        over_features=_tile({"BLOCK_T": block_t, "BLOCK_V": block_v, "BLOCK_S": _block(key_dim, depth)}, stages),
        d_features=_tile(
            {"BLOCK_S": _block(key_dim, 64), "BLOCK_F": _block(key_dim, 64), "BLOCK_V": _block(value_dim, depth)},
            stages,
        ),
        softmax_gradient=Launch(gradient, 8, stages),
        dk=Launch(gradient, 8, stages),
        normaliser=Launch({"BLOCK_S": _block(key_dim, 64)}, 2, 1),
        scan=Launch({"BLOCK_S": all_s, "BLOCK_V": scanned, "BLOCK_F": _block(key_dim, 32)}, 8, 1 if amd else 2),
        scan_backward=Launch({"BLOCK_S": all_s, "BLOCK_V": scanned, "BLOCK_F": _block(key_dim, depth // 2)}, 8, ahead),
        normaliser_backward=Launch({"BLOCK_S": _block(key_dim, 64)}, 2, 1),
    )


def _tile(blocks: dict[str, int], stages: int) -> Launch:
    """Eight warps where the result, of the first two blocks, is large."""
    first, second, _ = blocks.values()
    return Launch(blocks, 8 if first * second >= 128 * 128 else 4, stages)


def _block(size: int, limit: int) -> int:
    """The power of two that covers `size`, at least the 16 of a product's side, at most `limit`."""
    return min(max(16, triton.next_power_of_2(size)), limit)


def product_options(dtype: torch.dtype) -> dict[str, Any]:
    """What a kernel's products need to know: the dtype of operands and the precision of those in float32."""
    # The interpreter multiplies bfloat16 wrongly.
    operands = tl.float32 if dtype == torch.float32 or is_interpreting() else _TRITON_DTYPES[dtype]
    tensor_cores = dtype != torch.float32 or torch.get_float32_matmul_precision() != "highest"
    return {"DOT_DTYPE": operands, "PRECISION": "tf32" if tensor_cores else "ieee"}


def time_scale(dtype: torch.dtype) -> float:
    """What the softmax over time is multiplied with as an operand of products.

    Its weights are about one over the number of timesteps written, which float16 does not resolve. They are at most 1.
    """
    return 2.0**15 if dtype == torch.float16 else 1.0
