"""How attention's kernels are launched: tiles and pipelines for a problem, and what a launch needs beside tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from gecko_lab.kernels.attention.pattern import Pattern
from gecko_lab.kernels.backends import is_interpreting

DOT_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True)
class Launch:
    """The constants of a kernel and how its programs run."""

    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int

    @property
    def options(self) -> dict[str, Any]:
        """As keyword arguments of a kernel."""
        return {**self.constants, "num_warps": self.num_warps, "num_stages": self.num_stages}


@dataclass(frozen=True)
class Problem:
    """What decides how the kernels compile.

    Attributes:
        dtype: of queries, keys and values: float32, bfloat16 or float16.
        pattern: which keys a query sees.
        size: chunk or window; 0 for `full`.
        num_heads: of queries.
        num_key_heads: of keys and values; divides `num_heads`.
        key_dim: of a head.
        value_dim: of a head.
    """

    dtype: torch.dtype
    pattern: Pattern
    size: int
    num_heads: int
    num_key_heads: int
    key_dim: int
    value_dim: int

    @property
    def block(self) -> int:
        """Queries of a tile and keys of a tile: no more than a chunk or window needs."""
        largest = 64 if self.dtype == torch.float32 else 128
        return largest if self.pattern == "full" else min(largest, max(triton.next_power_of_2(self.size), 16))

    def log_sum_exp(self) -> Launch:
        """The whole key dim at once, so shorter tiles of keys."""
        width = max(triton.next_power_of_2(self.key_dim), 16)
        block_k = min(self.block, 32 if self.dtype == torch.float32 else 2**14 // width)
        constants = {"KEY_DIM": self.key_dim, "BLOCK_K": block_k, "BLOCK_D": width}
        return self._launch(constants, self.block * width > 2**11, stages=2)

    def row_dot(self) -> Launch:
        """A pass over memory."""
        block_d = min(max(triton.next_power_of_2(self.value_dim), 16), 512)
        constants = {"HEADS": self.num_heads, "VALUE_DIM": self.value_dim, "BLOCK_Q": 8, "BLOCK_D": block_d}
        return Launch(constants, num_warps=4, num_stages=1)

    def weights(self) -> Launch:
        """One tile of scores, or two."""
        even = self.key_dim % 32 == 0 and self.value_dim % 32 == 0
        constants = {
            "KEY_DIM": self.key_dim,
            "VALUE_DIM": self.value_dim,
            "BLOCK_K": self.block,
            # Masks take registers that large tiles do not leave.
            "BLOCK_D": 32 if even or self.block <= 64 else 16,
        }
        return self._launch(constants, self.block > 64)

    def rows(self, dim: int) -> Launch:
        """Weights of query tiles times keys or values."""
        return self._product(dim)

    def columns(self, dim: int, *, accumulate: bool) -> Launch:
        """Weights of key tiles, transposed, times queries or output gradients."""
        launch = self._product(dim)
        return Launch({**launch.constants, "ACCUMULATE": accumulate}, launch.num_warps, launch.num_stages)

    def _product(self, dim: int) -> Launch:
        widest = 64 if self.dtype == torch.float32 else 256
        block_d = min(widest, max(triton.next_power_of_2(dim), 16))
        constants = {
            "DIM": dim,
            "BLOCK_K": self.block,
            "BLOCK_R": min(self._reduction, self.block),
            "BLOCK_D": block_d,
        }
        return self._launch(constants, self.block * block_d > 2**13, stages=2 if block_d == 256 else 3)

    @property
    def _reduction(self) -> int:
        """Terms of a matrix product that are loaded at a time."""
        return 32 if self.dtype == torch.float32 else 64

    def _launch(self, constants: Mapping[str, Any], large: bool, stages: int = 3) -> Launch:
        tensor_cores = self.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
        shared = {
            "PATTERN": self.pattern,
            "SIZE": self.size,
            "HEADS": self.num_heads,
            "REPEATS": self.num_heads // self.num_key_heads,
            "BLOCK_Q": self.block,
            "DOT_DTYPE": tl.float32 if is_interpreting() else DOT_DTYPES[self.dtype],
            "PRECISION": "tf32" if tensor_cores else "ieee",
        }
        return Launch({**shared, **constants}, num_warps=8 if large else 4, num_stages=stages)
