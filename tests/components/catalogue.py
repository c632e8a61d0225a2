"""Every component of the catalogue, with the option variants worth testing, on small shapes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gecko_lab.components.attention.sliding_window import SlidingWindowAttention
from gecko_lab.cost import dimensions
from gecko_lab.registry import SLOTS, components
from gecko_lab.slots import Attention, FeedForward, Size, Slot
from gecko_lab.state import Segments

C = 4
SIZE = Size(num_layers=1, model_dim=8, num_heads=2, z_dim=8, value_dim=12, hidden_dim=10, chunk_size=C)
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A component and its options.

    Attributes:
        slot: the key of its slot.
        component: the class.
        options: keywords of its constructor.
    """

    slot: str
    component: type[Slot]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Name and options, for the test's name."""
        shown = {k: getattr(v, "__name__", v) for k, v in self.options.items()}
        return "-".join([self.component.__name__, *(f"{k}={v}" for k, v in shown.items())])

    @property
    def grows(self) -> bool:
        """Whether the state's size grows with what has been read: full attention's alone may."""
        attention = self.options.get("attention")
        return self.component.__name__ in ("FullAttention", "TransformerLayer") and attention is None

    @property
    def attends(self) -> bool:
        """Whether there is a softmax over masked keys, where 0 · NaN is NaN."""
        return self.slot in ("attention", "layer")

    @property
    def chunked(self) -> bool:
        """Whether outputs depend on where in the stream a chunk begins."""
        names = ("ChunkAttention", "SlidingChunkAttention", "GeckoLayer")
        return self.component.__name__ in names or self.slot == "memory"

    def build(self, size: Size = SIZE) -> Slot:
        """The component as its constructor leaves it."""
        return self.component(*dimensions(SLOTS[self.slot], size), **self.options)

    def trained(self, dtype: torch.dtype = torch.float32) -> Slot:
        """The component after something like training, every time the same: no parameter is zero or at its start."""
        torch.manual_seed(0)
        module = self.build().to(dtype)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
        return module

    def inputs(self, length: int, batch: int = 2, dtype: torch.dtype = torch.float32, seed: int = 1) -> Inputs:
        """Random inputs by name, `[batch, length, ...]`."""
        generator = torch.Generator().manual_seed(seed)
        heads, key_dim, value_dim = SIZE.num_heads, SIZE.z_dim // SIZE.num_heads, SIZE.value_dim // SIZE.num_heads
        shapes: dict[str, tuple[int, ...]] = {"x": (SIZE.model_dim,)}
        if self.slot in ("attention", "memory"):
            shapes = {"q": (heads, key_dim), "k": (heads, key_dim), "v": (heads, value_dim)}
        return {
            name: torch.randn(batch, length, *shape, generator=generator, dtype=torch.float64).to(dtype)
            for name, shape in shapes.items()
        }


def run(module: Slot, inputs: Inputs, state: Any = None, segments: Segments | None = None) -> tuple[Tensor, Any]:
    """Outputs and state of a component of any slot."""
    if isinstance(module, FeedForward):
        return module(*inputs.values()), None
    y, state = module(*inputs.values(), state, segments)
    return y, state


def run_in_pieces(
    module: Slot, inputs: Inputs, pieces: list[int], document_starts: Tensor | None = None
) -> tuple[Tensor, Any]:
    """As `run`, one piece after the other, each with the documents counted as a network counts them."""
    outputs, state, begin, before = [], None, 0, None
    for length in pieces:
        piece, segments = slice(begin, begin + length), None
        if document_starts is not None:
            segments = Segments.of(document_starts[:, piece], before)
            before = segments.ids[:, -1]
        y, state = run(module, {name: x[:, piece] for name, x in inputs.items()}, state, segments)
        outputs.append(y)
        begin += length
    return torch.cat(outputs, dim=1), state


def starts_at(length: int, *rows: list[int]) -> Tensor:
    """Bool `[rows, length]`, true at the positions of each row."""
    starts = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, positions in enumerate(rows):
        starts[row, positions] = True
    return starts


def floating(state: Any) -> dict[str, Tensor]:
    """The floating-point tensors of a state by their place in it; what is infinite (an empty logarithm) as zero."""
    leaves, _ = pytree.tree_flatten_with_path(state)
    return {
        f"state{pytree.keystr(path)}": torch.where(leaf.isfinite(), leaf, 0)
        for path, leaf in leaves
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    }


def _window(size: int) -> Callable[..., Attention]:
    def attention(*arguments: Any) -> Attention:
        return SlidingWindowAttention(*arguments, window=size)

    attention.__name__ = f"window{size}"
    return attention


VARIANTS: dict[str, list[dict[str, Any]]] = {
    "ComplexEMA": [{"learned_skip": True, "scaled": True}, {"num_dims": 3}],
    "RealEMA": [{"learned_skip": True, "scaled": True}],
    "TimestepDecayNorm": [{"num_groups": 2, "beta1": 0.8, "beta2": 0.9}],
    "TimestepNorm": [{"num_groups": 2, "eps": 1e-3}],
    "AdaptiveWorkingMemory": [{"capacity": 0.5}, {"capacity": 2.0}],
    "AdditiveMemory": [{"capacity": 2.0}],
    "SlidingChunkAttention": [{"num_rope_heads": 1}, {"num_rope_heads": 0}],
    "SlidingWindowAttention": [{"window": 1}, {"window": 5}],
    "GeckoLayer": [
        {"two_hop_residual": True, "rescale": True, "norm_num_groups": 2, "memory": None},
        {"timestep_norm": None, "moving_average": None, "attention": None, "feed_forward": None},
        {"norm_affine": False, "memory": None, "attention": None},
    ],
    "TransformerLayer": [{"num_key_value_heads": 1}, {"attention": _window(5)}],
}
CASES = [
    Case(slot, component, options)
    for slot, base in SLOTS.items()
    for name, component in components(base).items()
    for options in [{}, *VARIANTS.get(name, [])]
]
STREAMING = [case for case in CASES if case.slot != "feed_forward"]


def every(cases: list[Case]) -> pytest.MarkDecorator:
    """Parametrise a test by cases."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)
