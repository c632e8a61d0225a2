"""The gated attention layer of Gecko and Megalodon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gecko_lab.components.attention.sliding_chunk import SlidingChunkAttention
from gecko_lab.components.feed_forward.swiglu import SwiGLU
from gecko_lab.components.linear import Linear
from gecko_lab.components.memory.adaptive import AdaptiveWorkingMemory
from gecko_lab.components.moving_average.complex_ema import ComplexEMA
from gecko_lab.components.norm import GroupLayerNorm, GroupRMSNorm
from gecko_lab.components.timestep_norm.decay import TimestepDecayNorm
from gecko_lab.components.timestep_norm.rms_norm import RMSNorm
from gecko_lab.kernels.gated import gated
from gecko_lab.kernels.head_norm import head_norm
from gecko_lab.slots import Attention, FeedForward, Gate, Layer, Memory, MovingAverage, Size, TimestepNormalization
from gecko_lab.state import Segments


class GeckoLayerState(NamedTuple):
    """The states of the parts; none where a part is absent."""

    timestep_norm: Any
    moving_average: Any
    attention: Any
    memory: Any


class GeckoLayer(Layer):
    """Moving-average gated attention with a working memory, then a feed-forward (Gecko, arXiv 2601.06463).

    Megalodon (arXiv 2404.08801) is the same layer with other parts: `timestep_norm: TimestepNorm`,
    `moving_average: {class_path: ComplexEMA, init_args: {learned_skip: true, scaled: true}}`,
    `attention: ChunkAttention`, `memory: null`, `two_hop_residual: true`.

    Args:
        timestep_norm: normalises the layer's input along time.
        moving_average: mixes each channel with its past.
        attention: recalls what is near.
        memory: recalls what attention has left behind.
        feed_forward: mixes the channels of a timestep.
        num_heads: heads of attention and memory, H; by default the size's.
        z_dim: queries and keys of all heads together, H·S; by default the size's.
        value_dim: values of all heads together, H·V; by default the size's.
        hidden_dim: features inside the feed-forward; by default the size's.
        chunk_size: timesteps of a chunk of attention and memory; by default the size's.
        norm_num_groups: groups of the RMS norm and the layer norm.
        norm_eps: ε of the RMS norms and the layer norm.
        norm_affine: whether the RMS norm and the layer norm have weights.
        two_hop_residual: end by adding the layer's input instead of the attention branch's output.
        rescale: multiply the feed-forward branch by a learned vector that starts at 0.1 · 0.5^layer.
        dropout: on the outputs of both branches.
        hidden_dropout: on the normalised moving average, on the gated attention and inside the feed-forward.
        attention_dropout: on attention weights.
    """

    sizes: ClassVar[Mapping[str, Size]] = {
        "tiny": Size(4, 128, 2, 64, 256, 256, 128),
        "15m": Size(8, 384, 2, 96, 768, 768, 512),
        "125m": Size(12, 768, 2, 192, 1536, 1536, 2048),
        "350m": Size(24, 1024, 2, 256, 2048, 2048, 2048),
        "760m": Size(24, 1536, 2, 384, 3072, 3072, 2048),
        "1.3b": Size(24, 2048, 2, 512, 4096, 4096, 2048),
        "7b": Size(32, 4096, 4, 1024, 8192, 8192, 2048),
    }

    def __init__(
        self,
        size: Size,
        index: int,
        /,
        *,
        timestep_norm: Callable[[int], TimestepNormalization] | None = TimestepDecayNorm,
        moving_average: Callable[[int], MovingAverage] | None = ComplexEMA,
        attention: Callable[[int, int, int, int, float], Attention] | None = SlidingChunkAttention,
        memory: Callable[[int, int, int, int], Memory] | None = AdaptiveWorkingMemory,
        feed_forward: Callable[[int, int, float], FeedForward] | None = SwiGLU,
        num_heads: int | None = None,
        z_dim: int | None = None,
        value_dim: int | None = None,
        hidden_dim: int | None = None,
        chunk_size: int | None = None,
        norm_num_groups: int = 1,
        norm_eps: float = 1e-5,
        norm_affine: bool = True,
        two_hop_residual: bool = False,
        rescale: bool = False,
        dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        model_dim = size.model_dim
        num_heads = size.num_heads if num_heads is None else num_heads
        z_dim = size.z_dim if z_dim is None else z_dim
        value_dim = size.value_dim if value_dim is None else value_dim
        hidden_dim = size.hidden_dim if hidden_dim is None else hidden_dim
        chunk_size = size.chunk_size if chunk_size is None else chunk_size
        for name, dim in (("z_dim", z_dim), ("value_dim", value_dim)):
            if num_heads < 1 or dim % num_heads:
                raise ValueError(f"GeckoLayer: {name} {dim} does not divide among {num_heads} heads (num_heads)")
        self.model_dim, self.num_heads, self.key_dim, self.index = model_dim, num_heads, z_dim // num_heads, index
        self.norm_eps, self.two_hop_residual = norm_eps, two_hop_residual
        self.dropout, self.hidden_dropout = dropout, hidden_dropout
        dims = (num_heads, self.key_dim, value_dim // num_heads, chunk_size)
        self._timestep_norm_factory = timestep_norm

        self.timestep_norm = None if timestep_norm is None else timestep_norm(model_dim)
        self.moving_average = None if moving_average is None else moving_average(model_dim)
        self.attention = None if attention is None else attention(*dims, attention_dropout)
        self.memory = None if memory is None else memory(*dims)
        self.rms_norm = GroupRMSNorm(model_dim, num_groups=norm_num_groups, eps=norm_eps, affine=norm_affine)
        readers = (self.attention is not None) + (self.memory is not None)
        if readers:
            self.to_z = Linear(model_dim, z_dim, bias=True)
            self.gamma = nn.Parameter(torch.zeros(2 * readers, z_dim))
            self.beta = nn.Parameter(torch.zeros(2 * readers, z_dim))
            self.to_value = Linear(model_dim, value_dim, bias=True)
            self.from_value = Linear(value_dim, model_dim)
        if self.attention is not None:
            self.to_gate = Linear(model_dim, value_dim, bias=True)
        self.to_output = Linear(model_dim, model_dim, bias=True)

        self.feed_forward = None if feed_forward is None else feed_forward(model_dim, hidden_dim, hidden_dropout)
        if self.feed_forward is not None:
            self.layer_norm = GroupLayerNorm(model_dim, num_groups=norm_num_groups, eps=norm_eps, affine=norm_affine)
        self.feed_forward_scale = (
            nn.Parameter(torch.empty(model_dim)) if rescale and self.feed_forward is not None else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start the layer's own vectors; the parts start themselves."""
        if self.attention is not None or self.memory is not None:
            nn.init.zeros_(self.gamma)
            nn.init.zeros_(self.beta)
        if self.feed_forward_scale is not None:
            nn.init.constant_(self.feed_forward_scale, 0.1 * 0.5**self.index)

    def forward(
        self, x: Tensor, state: GeckoLayerState | None = None, segments: Segments | None = None
    ) -> tuple[Tensor, GeckoLayerState]:
        """`x` `[B, L, D]` to `[B, L, D]`."""
        if state is None:
            state = GeckoLayerState(None, None, None, None)
        normed, norm_state = x, None
        if self.timestep_norm is not None:
            normed, norm_state = self.timestep_norm(x, state.timestep_norm, segments)
        averaged, average_state = normed, None
        if self.moving_average is not None:
            averaged, average_state = self.moving_average(normed, state.moving_average, segments)
        m = torch.dropout(self.rms_norm(averaged), self.hidden_dropout, self.training)
        branch = self.to_output(m)
        recalled, attention_state, memory_state = self._recall(normed, m, state, segments)
        if recalled is not None:
            branch = branch + self.from_value(torch.dropout(recalled, self.hidden_dropout, self.training))
        y = torch.dropout(branch, self.dropout, self.training) + x
        out = y
        if self.feed_forward is not None:
            branch = torch.dropout(self.feed_forward(self.layer_norm(y)), self.dropout, self.training)
            if self.feed_forward_scale is not None:
                branch = branch * self.feed_forward_scale.to(branch.dtype)
            out = branch + (x if self.two_hop_residual else y)
        return out, GeckoLayerState(norm_state, average_state, attention_state, memory_state)

    def _recall(
        self, normed: Tensor, m: Tensor, state: GeckoLayerState, segments: Segments | None
    ) -> tuple[Tensor | None, Any, Any]:
        """`a ⊙ r + w` `[B, L, H·V]` and the states of attention and memory."""
        if self.attention is None and self.memory is None:
            return None, None, None
        rotation = self.attention and self.attention.rotation(m.shape[1], state.attention, m.device)
        cos, sin, num_rope_heads = rotation or (None, None, None)
        queries_keys = head_norm(
            self.to_z(m),
            self.gamma,
            self.beta,
            cos,
            sin,
            num_heads=self.num_heads,
            num_rope_heads=num_rope_heads,
            eps=self.norm_eps,
        )
        v = F.silu(self.to_value(normed)).unflatten(-1, (self.num_heads, -1))
        attention_state, memory_state, remembered, recalled = None, None, None, None
        if self.memory is not None:
            q, k = queries_keys[-2:]
            remembered, memory_state = self.memory(q, k, v, state.memory, segments)
            recalled = remembered = remembered.flatten(-2)
        if self.attention is not None:
            q, k = queries_keys[:2]
            attended, attention_state = self.attention(q, k, v, state.attention, segments)
            recalled = gated(self.to_gate(m), attended.flatten(-2), remembered)
        return recalled, attention_state, memory_state

    def final_norm(self) -> TimestepNormalization:
        """The layer's own timestep norm; an RMS norm where it has none."""
        factory = RMSNorm if self._timestep_norm_factory is None else self._timestep_norm_factory
        return factory(self.model_dim)

    def flops_per_token(self, length: int) -> float:
        """The parts' and the linear maps'."""
        maps = (getattr(self, name, None) for name in ("to_z", "to_value", "from_value", "to_gate", "to_output"))
        linear = sum(2 * layer.weight.numel() for layer in maps if layer is not None)
        return linear + sum(part.flops_per_token(length) for part in self.parts())

    def state_bytes(self, length: int, itemsize: int) -> int:
        """The parts'."""
        return sum(part.state_bytes(length, itemsize) for part in self.parts())

    def parts(self) -> list[Any]:
        """The slots that are filled."""
        slots = (self.timestep_norm, self.moving_average, self.attention, self.memory, self.feed_forward)
        return [part for part in slots if part is not None]

    def list_gates(self) -> dict[str, Gate]:
        """`v = silu(W_v x̂ + b_v)`, what there is to recall, and `r = silu(W_r m + b_r)`, which multiplies attention."""
        maps = {"v": getattr(self, "to_value", None), "r": getattr(self, "to_gate", None)}
        return {name: Gate(linear, "silu") for name, linear in maps.items() if linear is not None}

    def summands(self) -> dict[str, tuple[nn.Module, Gate | None]]:
        """`a ⊙ r + w`."""
        if self.attention is None or self.memory is None:
            return {}
        return {"attention": (self.attention, self.list_gates()["r"]), "memory": (self.memory, None)}
