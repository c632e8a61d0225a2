"""Attention by Triton's kernels: strip after strip of queries, whose weights lie in a workspace of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from gecko_lab.kernels.attention.pattern import Pattern, document_bounds, first_visible, last_visible, reach
from gecko_lab.kernels.attention.triton_launches import Launch, Problem
from gecko_lab.kernels.attention.triton_products import columns_kernel, rows_kernel
from gecko_lab.kernels.attention.triton_weights import log_sum_exp_kernel, row_dot_kernel, weights_kernel

WORKSPACE_BYTES = 2**29
"""For attention weights and their gradients, never for all of them; more only where one tile of queries needs it."""


def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_segments: Tensor | None,
    pattern: Pattern,
    size: int,
) -> tuple[Tensor, Tensor]:
    """Attention, and the logarithms of its softmax's sums.

    Args:
        q: `[B, L, H, S]`, float32, bfloat16 or float16.
        k: `[B, M, K, S]`.
        v: `[B, M, K, V]`.
        key_segments: int64 `[B, M]`, contiguous documents.
        pattern: which keys a query sees.
        size: chunk size or window.

    Returns:
        `[B, L, H, V]` and, in float32, `[B, H, L]`.
    """
    y = torch.empty(*q.shape[:3], v.shape[3], dtype=v.dtype, device=q.device)
    log_sum_exp = torch.empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32, device=q.device)
    shape = _Shape.of(q, k, v, pattern, size)
    first, _ = _documents(key_segments, q.shape[1])
    plan = _plan(shape, lag=0, budget=WORKSPACE_BYTES)
    with torch.cuda.device_of(q):
        workspace = _workspace(plan, shape, v)
        for batch in _split(shape.batch, plan.batch):
            strips = _Strips(shape, plan, first[batch] if first is not None else None, batch.stop - batch.start)
            inputs = [x[batch].contiguous() for x in (q, k, v)]
            strips.log_sum_exp(inputs[0], inputs[1], log_sum_exp[batch])
            for begin in range(0, shape.tiles, plan.strip):
                end = min(begin + plan.strip, shape.tiles)
                strips.weights(inputs, None, log_sum_exp[batch], None, workspace, None, begin, end)
                strips.rows(workspace, inputs[2], y[batch], begin, end)
    return y, log_sum_exp


def attention_backward(
    dy: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    log_sum_exp: Tensor,
    key_segments: Tensor | None,
    pattern: Pattern,
    size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `q`, `k` and `v`; arguments as those and the results of `attention_forward`."""
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    shape = _Shape.of(q, k, v, pattern, size)
    first, last = _documents(key_segments, q.shape[1])
    lag = shape.num_keys if pattern == "full" else (reach(pattern, size) + 2 * (shape.block - 1)) // shape.block
    plan = _plan(shape, lag, budget=WORKSPACE_BYTES // 2)
    with torch.cuda.device_of(q):
        weights, dscores = _workspace(plan, shape, v), _workspace(plan, shape, v)
        for batch in _split(shape.batch, plan.batch):
            bounds = (None, None) if first is None or last is None else (first[batch], last[batch])
            strips = _Strips(shape, plan, bounds[0], batch.stop - batch.start)
            inputs = [x[batch].contiguous() for x in (q, k, v)]
            grad = dy[batch].contiguous()
            delta = strips.row_dot(y[batch], grad)
            dtype = torch.float32 if plan.accumulate else v.dtype
            make = torch.zeros_like if plan.accumulate else torch.empty_like
            dk_part, dv_part = make(inputs[1], dtype=dtype), make(inputs[2], dtype=dtype)
            done = 0
            for begin in range(0, shape.tiles, plan.strip):
                end = min(begin + plan.strip, shape.tiles)
                strips.weights(inputs, grad, log_sum_exp[batch], delta, weights, dscores, begin, end)
                strips.rows(dscores, inputs[1], dq[batch], begin, end)
                if plan.accumulate:
                    keys, rows = shape.key_tiles_seen(begin, end), (begin, end)
                else:
                    keys, rows = range(done, shape.key_tiles_complete(end, done)), (0, shape.tiles)
                    done = keys.stop
                strips.columns(dscores, inputs[0], dk_part, bounds[1], keys, rows)
                strips.columns(weights, grad, dv_part, bounds[1], keys, rows)
            dk[batch], dv[batch] = dk_part, dv_part
    return dq, dk, dv


class _Shape(NamedTuple):
    """The sizes of a call."""

    problem: Problem
    batch: int
    length: int
    num_keys: int

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, size: int) -> _Shape:
        size = 0 if pattern == "full" else size  # which kernels are compiled for
        problem = Problem(v.dtype, pattern, size, q.shape[2], k.shape[2], q.shape[3], v.shape[3])
        return cls(problem, q.shape[0], q.shape[1], k.shape[1])

    @property
    def block(self) -> int:
        return self.problem.block

    @property
    def offset(self) -> int:
        """Keys before those of the first query."""
        return self.num_keys - self.length

    @property
    def tiles(self) -> int:
        """Of queries."""
        return triton.cdiv(self.length, self.block)

    @property
    def width(self) -> int:
        """The most keys, in whole tiles, that the queries of a tile see."""
        pattern, size = self.problem.pattern, self.problem.size
        seen = self.num_keys if pattern == "full" else min(reach(pattern, size) + self.block, self.num_keys)
        return triton.cdiv(seen + self.block - 1, self.block) * self.block

    def key_tiles_seen(self, begin: int, end: int) -> range:
        """Tiles of keys that the query tiles `[begin, end)` see."""
        first = first_visible(self.offset + begin * self.block, self.problem.pattern, self.problem.size)
        return range(first // self.block, triton.cdiv(min(self.offset + end * self.block, self.num_keys), self.block))

    def key_tiles_complete(self, end: int, done: int) -> int:
        """The first key tile, from `done` on, that queries from tile `end` on still see."""
        tiles = triton.cdiv(self.num_keys, self.block)
        while done < tiles:
            youngest = min((done + 1) * self.block, self.num_keys) - 1
            last = last_visible(youngest, self.num_keys, self.problem.pattern, self.problem.size)
            if last - self.offset >= end * self.block:
                break
            done += 1
        return done


class _Plan(NamedTuple):
    """How the work is cut.

    Attributes:
        batch: batch entries at a time.
        slots: query tiles of each head whose weights the workspace holds, the last ones.
        strip: query tiles that are computed at a time.
        accumulate: whether the gradients of keys are summed over strips in memory, since no workspace holds all
            queries that see a key; else the keys' turn comes when their last query's has.
    """

    batch: int
    slots: int
    strip: int
    accumulate: bool


def _plan(shape: _Shape, lag: int, budget: int) -> _Plan:
    """For keys that are seen by the `lag` query tiles after the first one that sees them."""
    slot = shape.problem.num_heads * shape.block * shape.width * shape.problem.dtype.itemsize
    useful = min(shape.tiles, max(2 * lag, 16))
    batch = min(max(budget // (slot * useful), 1), shape.batch)
    slots = min(max(budget // (slot * batch), 1), shape.tiles)
    if slots == shape.tiles:
        return _Plan(batch, slots, slots, accumulate=False)
    accumulate = slots <= lag
    return _Plan(batch, slots, slots if accumulate else slots - lag, accumulate)


def _workspace(plan: _Plan, shape: _Shape, like: Tensor) -> Tensor:
    """`[B·H, slots, BLOCK_Q, width]`."""
    return like.new_empty(plan.batch * shape.problem.num_heads, plan.slots, shape.block, shape.width)


def _split(total: int, part: int) -> Iterator[slice]:
    return (slice(begin, min(begin + part, total)) for begin in range(0, total, part))


def _documents(segments: Tensor | None, length: int) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Int32: the first key of each query's document `[B, L]`, the last query of each key's `[B, M]`."""
    if segments is None:
        return None, None
    first, last = document_bounds(segments)
    return first[:, segments.shape[1] - length :].int().contiguous(), last.int()


class _Strips:
    """The kernels with what does not change between strips."""

    def __init__(self, shape: _Shape, plan: _Plan, document_first: Tensor | None, batch: int) -> None:
        self.shape, self.problem, self.plan, self.batch = shape, shape.problem, plan, batch
        self.document_first = document_first
        self.heads = batch * self.problem.num_heads
        self.sizes: dict[str, Any] = {"length": shape.length, "num_keys": shape.num_keys}
        self.places = {"slots": plan.slots, "width": shape.width}

    def log_sum_exp(self, q: Tensor, k: Tensor, out: Tensor) -> None:
        grid = (self.shape.tiles, self.heads)
        options = self.problem.log_sum_exp().options
        log_sum_exp_kernel[grid](q, k, self.document_first, out, **self.sizes, **options)

    def row_dot(self, y: Tensor, dy: Tensor) -> Tensor:
        launch = self.problem.row_dot()
        delta = y.new_empty(self.batch, self.problem.num_heads, self.shape.length, dtype=torch.float32)
        grid = (triton.cdiv(self.shape.length, launch.constants["BLOCK_Q"]), self.heads)
        row_dot_kernel[grid](y, dy, delta, self.shape.length, **launch.options)
        return delta

    def weights(
        self,
        inputs: list[Tensor],
        dy: Tensor | None,
        log_sum_exp: Tensor,
        delta: Tensor | None,
        weights: Tensor,
        dscores: Tensor | None,
        begin: int,
        end: int,
    ) -> None:
        """Of the query tiles `[begin, end)`."""
        q, k, v = inputs
        grid = (self.shape.width // self.shape.block, end - begin, self.heads)
        values = None if dy is None else v
        tensors = (q, k, values, dy, self.document_first, log_sum_exp, delta, weights, dscores)
        options = self.problem.weights().options
        weights_kernel[grid](*tensors, **self.sizes, first_tile=begin, **self.places, **options)

    def rows(self, weights: Tensor, x: Tensor, out: Tensor, begin: int, end: int) -> None:
        """`out` `[B, L, H, D]` of the query tiles `[begin, end)`, from `x` `[B, M, K, D]`."""
        launch = self.problem.rows(x.shape[3])
        grid = (self._features(launch), end - begin, self.heads)
        places = {"first_tile": begin, **self.places}
        rows_kernel[grid](weights, x, out, self.document_first, **self.sizes, **places, **launch.options)

    def columns(
        self,
        weights: Tensor,
        x: Tensor,
        out: Tensor,
        document_last: Tensor | None,
        keys: range,
        rows: tuple[int, int],
    ) -> None:
        """`out` `[B, M, K, D]` of the key tiles `keys`, from `x` `[B, L, H, D]` of the query tiles `[begin, end)`."""
        if not keys:
            return
        launch = self.problem.columns(x.shape[3], accumulate=self.plan.accumulate)
        grid = (self._features(launch), len(keys), self.batch * self.problem.num_key_heads)
        places = {
            "first_key_tile": keys.start,
            "row_begin": rows[0] * self.shape.block,
            "row_end": min(rows[1] * self.shape.block, self.shape.length),
            **self.places,
        }
        columns_kernel[grid](weights, x, out, document_last, **self.sizes, **places, **launch.options)

    @staticmethod
    def _features(launch: Launch) -> int:
        """Programs that share the features."""
        return triton.cdiv(launch.constants["DIM"], launch.constants["BLOCK_D"])
