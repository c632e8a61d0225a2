"""The pre-norm transformer layer of Llama."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gecko_lab.components.attention.full import FullAttention
from gecko_lab.components.feed_forward.swiglu import SwiGLU
from gecko_lab.components.norm import GroupRMSNorm
from gecko_lab.components.timestep_norm.rms_norm import RMSNorm
from gecko_lab.kernels.rotary import rotate
from gecko_lab.slots import Attention, FeedForward, Layer, Size
from gecko_lab.state import Segments


class LlamaLinear(nn.Linear):
    """A linear map without bias, `W ~ N(0, 0.02²)`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.normal_(self.weight, std=0.02)


class TransformerLayer(Layer):
    """Attention and a feed-forward, each behind an RMS norm and a residual (Llama, arXiv 2302.13971).

    Args:
        attention: recalls the past.
        feed_forward: mixes the channels of a timestep.
        num_heads: query heads; by default the size's.
        num_key_value_heads: heads of keys and values, which query heads share in groups; by default as many.
        hidden_dim: features inside the feed-forward; by default the size's.
        chunk_size: timesteps of a chunk, for attentions that have them; by default the size's.
        norm_eps: ε of the RMS norms.
        dropout: on the outputs of both branches.
        hidden_dropout: inside the feed-forward.
        attention_dropout: on attention weights.
    """

    sizes: ClassVar[Mapping[str, Size]] = {
        "tiny": Size(4, 128, 4, 128, 128, 352, 128),
        "15m": Size(8, 384, 6, 384, 384, 1024, 512),
        "125m": Size(12, 768, 12, 768, 768, 2048, 2048),
        "350m": Size(24, 1024, 16, 1024, 1024, 2816, 2048),
        "760m": Size(24, 1536, 16, 1536, 1536, 4096, 2048),
        "1.3b": Size(24, 2048, 16, 2048, 2048, 5504, 2048),
        "7b": Size(32, 4096, 32, 4096, 4096, 11008, 2048),
    }

    def __init__(
        self,
        size: Size,
        index: int,
        /,
        *,
        attention: Callable[[int, int, int, int, float], Attention] = FullAttention,
        feed_forward: Callable[[int, int, float], FeedForward] = SwiGLU,
        num_heads: int | None = None,
        num_key_value_heads: int | None = None,
        hidden_dim: int | None = None,
        chunk_size: int | None = None,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        model_dim = size.model_dim
        num_heads = size.num_heads if num_heads is None else num_heads
        num_key_value_heads = num_heads if num_key_value_heads is None else num_key_value_heads
        hidden_dim = size.hidden_dim if hidden_dim is None else hidden_dim
        chunk_size = size.chunk_size if chunk_size is None else chunk_size
        if num_heads < 1 or model_dim % num_heads:
            raise ValueError(
                f"TransformerLayer: model_dim {model_dim} does not divide among {num_heads} heads (num_heads)"
            )
        if num_key_value_heads < 1 or num_heads % num_key_value_heads:
            raise ValueError(
                f"TransformerLayer: {num_heads} query heads (num_heads) do not divide among "
                f"{num_key_value_heads} key heads (num_key_value_heads)"
            )
        self.model_dim, self.num_heads, self.norm_eps, self.dropout = model_dim, num_heads, norm_eps, dropout
        self.head_dim = head_dim = model_dim // num_heads
        self.num_key_value_heads = num_key_value_heads

        self.attention_norm = GroupRMSNorm(model_dim, eps=norm_eps)
        self.to_query = LlamaLinear(model_dim, num_heads * head_dim)
        self.to_key = LlamaLinear(model_dim, num_key_value_heads * head_dim)
        self.to_value = LlamaLinear(model_dim, num_key_value_heads * head_dim)
        self.attention = attention(num_heads, head_dim, head_dim, chunk_size, attention_dropout)
        self.to_output = LlamaLinear(num_heads * head_dim, model_dim)
        self.feed_forward_norm = GroupRMSNorm(model_dim, eps=norm_eps)
        self.feed_forward = feed_forward(model_dim, hidden_dim, hidden_dropout)

    def forward(self, x: Tensor, state: Any = None, segments: Segments | None = None) -> tuple[Tensor, Any]:
        """`x` `[B, L, D]` to `[B, L, D]`; the state is the attention's."""
        normed = self.attention_norm(x)
        q, k, v = (
            project(normed).unflatten(-1, (-1, self.head_dim))
            for project in (self.to_query, self.to_key, self.to_value)
        )
        q = q * self.head_dim**-0.5
        rotation = self.attention.rotation(x.shape[1], state, x.device)
        if rotation is not None:
            q, k = rotate(q, k, *rotation)
        attended, state = self.attention(q, k, v, state, segments)
        x = x + torch.dropout(self.to_output(attended.flatten(-2)), self.dropout, self.training)
        hidden = self.feed_forward(self.feed_forward_norm(x))
        return x + torch.dropout(hidden, self.dropout, self.training), state

    def final_norm(self) -> RMSNorm:
        """An RMS norm."""
        return RMSNorm(self.model_dim, eps=self.norm_eps)

    def flops_per_token(self, length: int) -> float:
        """The linear maps', the attention's and the feed-forward's."""
        maps = (self.to_query, self.to_key, self.to_value, self.to_output)
        linear = sum(2 * layer.weight.numel() for layer in maps)
        return linear + self.attention.flops_per_token(length) + self.feed_forward.flops_per_token(length)

    def state_bytes(self, length: int, itemsize: int) -> int:
        """The attention's, of the heads that have keys of their own."""
        return self.attention.state_bytes(length, itemsize) * self.num_key_value_heads // self.num_heads
