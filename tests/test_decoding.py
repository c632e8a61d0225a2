"""Decoding with a state at fixed addresses: the stream's logits, and one sequence of operations a kind of step."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from gecko_lab import generation
from gecko_lab.bench.decoding import fast_forward
from gecko_lab.components.attention.chunk import ChunkAttention
from gecko_lab.components.attention.sliding_window import SlidingWindowAttention
from gecko_lab.components.layer.gecko import GeckoLayer
from gecko_lab.components.layer.transformer import TransformerLayer
from gecko_lab.components.memory.adaptive import AdaptiveWorkingMemory
from gecko_lab.components.memory.additive import AdditiveMemory
from gecko_lab.components.moving_average.complex_ema import ComplexEMA
from gecko_lab.components.moving_average.real_ema import RealEMA
from gecko_lab.components.timestep_norm.cumulative import TimestepNorm
from gecko_lab.decoding import Decoder, obstacle
from gecko_lab.generation import generate
from gecko_lab.network import Network, NetworkState
from gecko_lab.slots import Size
from tests.tolerances import TOLERANCE, rms_error

C = 4
VOCAB_SIZE = 11
SIZE = Size(num_layers=2, model_dim=8, num_heads=2, z_dim=8, value_dim=12, hidden_dim=10, chunk_size=C)
llama_layer = partial(TransformerLayer, num_heads=4, num_key_value_heads=2)
# Without `gecko_lab.build`, so that a machine with little more than PyTorch can run this file.
FAMILIES: dict[str, list[Any]] = {
    "gecko": [GeckoLayer],
    "megalodon": [
        partial(
            GeckoLayer,
            timestep_norm=TimestepNorm,
            moving_average=partial(ComplexEMA, learned_skip=True, scaled=True),
            attention=ChunkAttention,
            memory=None,
            two_hop_residual=True,
        )
    ],
    "llama": [llama_layer],
    "hybrid": [
        GeckoLayer,
        partial(llama_layer, attention=SlidingWindowAttention),
        partial(GeckoLayer, attention=None, moving_average=RealEMA, memory=partial(AdaptiveWorkingMemory, capacity=2)),
    ],
    "other chunks": [GeckoLayer, partial(GeckoLayer, chunk_size=7)],
    "additive, window and rope": [
        partial(
            GeckoLayer,
            attention=partial(SlidingWindowAttention, window=5, num_rope_heads=1),
            memory=AdditiveMemory,
        )
    ],
    "nothing but averages": [partial(GeckoLayer, attention=None, memory=None)],
}

every_family = pytest.mark.parametrize("family", FAMILIES)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")


def network_of(family: str, dtype: torch.dtype = torch.float64) -> Network:
    """A network, the same at every call: no parameter is zero or at its start."""
    torch.manual_seed(0)
    layers = FAMILIES[family]
    size = dataclasses.replace(SIZE, num_layers=max(len(layers), 2))
    network = Network(layers, size, vocab_size=VOCAB_SIZE)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return network.eval().to(dtype)


def tokens_of(length: int, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB_SIZE, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def read(network: Network, prompt: Tensor) -> NetworkState:
    state: NetworkState
    _, state = network(prompt)
    return state


@torch.no_grad()
def stream(network: Network, state: NetworkState | None, tokens: Tensor) -> Tensor:
    """Logits `[B, L, vocab_size]`, token by token, by the network itself."""
    logits = []
    for token in tokens.split(1, dim=1):
        one, state = network(token, state)
        logits.append(one)
    return torch.cat(logits, dim=1)


def decoded(decoder: Decoder, tokens: Tensor) -> Tensor:
    return torch.cat([decoder(token) for token in tokens.split(1, dim=1)], dim=1)


def addresses(decoder: Decoder) -> list[Any]:
    return [(x.data_ptr(), x.shape, x.stride(), x.dtype) for x in decoder.state_tensors()]


class Recording(TorchDispatchMode):
    """Every operation with its arguments, to compare and to run again on what stands at the same addresses then.

    That is what a CUDA graph does: numbers, shapes and addresses stay, the values in memory are those of the replay.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def described(self) -> list[str]:
        """One line an operation: its name, its numbers, and its tensors' shapes, dtypes and, where fixed, addresses."""

        def describe(x: Any) -> Any:
            return f"{x.dtype}{list(x.shape)}" if isinstance(x, Tensor) else repr(x)

        return [
            f"{func} {[describe(x) for x in pytree.tree_leaves((args, kwargs, out))]}"
            for func, args, kwargs, out in self.calls
        ]

    def replay(self, result: Tensor) -> None:
        """Run all of it again, and write what then takes the place of `result` there."""
        now: dict[int, Tensor] = {}
        for func, args, kwargs, out in self.calls:
            args, kwargs = pytree.tree_map_only(Tensor, lambda x: now.get(id(x), x), (args, kwargs))
            again = func(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(out), pytree.tree_leaves(again), strict=True):
                if isinstance(old, Tensor):
                    now[id(old)] = new
        result.copy_(now[id(result)])


class RecordingDecoder(Decoder):
    """Replays its own recordings on CPU instead of CUDA graphs; counts them."""

    recordings = 0
    steps = 0

    def _capture(self) -> tuple[Callable[[], object], Tensor]:
        self._compute()  # as when warming up: nothing of it may be left
        before = [x.clone() for x in self.state_tensors()]
        with Recording() as recording:
            logits = self._step()
        for held, old in zip(self.state_tensors(), before, strict=True):  # a capture computes nothing
            held.copy_(old)
        self.recordings += 1

        def replay() -> None:
            self.steps += 1
            recording.replay(logits)

        return replay, logits


def recording_decoder(network: Network, state: NetworkState, num_tokens: int) -> RecordingDecoder:
    decoder = RecordingDecoder(network, state, num_tokens=num_tokens)
    decoder.graph = True
    return decoder


@every_family
@pytest.mark.parametrize(
    ("dtype", "batch"), [(torch.float64, 1), (torch.float64, 3), (torch.float32, 3)], ids=["64-1", "64-3", "32-3"]
)
def test_decoder_gives_the_logits_of_the_stream(family: str, dtype: torch.dtype, batch: int) -> None:
    network, tokens = network_of(family, dtype), tokens_of(7 * C, batch)
    expected = stream(network, None, tokens)
    for length in (1, C - 1, C, C + 1, 3 * C + 2):
        state = read(network, tokens[:, :length])
        stop = length + 3 * C + 2
        decoder = Decoder(network, state, num_tokens=stop - length)
        before, kept = addresses(decoder), pytree.tree_map_only(Tensor, Tensor.clone, state)
        logits = decoded(decoder, tokens[:, length:stop])
        assert logits.dtype == expected.dtype
        assert rms_error(logits, expected[:, length:stop]) < TOLERANCE[dtype].forward, f"a prompt of {length}"
        assert addresses(decoder) == before
        for old, new in zip(pytree.tree_leaves(kept), pytree.tree_leaves(state), strict=True):  # the prompt's own
            assert torch.equal(old, new) if isinstance(old, Tensor) else old == new


@every_family
@pytest.mark.parametrize("length", [1, 2 * C + 1])
def test_replayed_steps_give_the_logits_of_the_stream(family: str, length: int) -> None:
    """A recording that is run again has the same operations, numbers and addresses, as a CUDA graph has."""
    network, tokens = network_of(family), tokens_of(6 * C, 2, seed=1)
    state = read(network, tokens_of(length))
    decoder = recording_decoder(network, state, tokens.shape[1])
    logits = decoded(decoder, tokens)
    assert rms_error(logits, stream(network, state, tokens)) < TOLERANCE[torch.float64].forward
    chunk_sizes = decoder._chunk_sizes
    ordinary = [
        position
        for position in range(length, length + tokens.shape[1])
        if all(position % chunk_size not in (0, chunk_size - 1) for chunk_size in chunk_sizes)
    ]
    assert decoder.steps == len(ordinary)
    kinds = {tuple(min(position // chunk_size, 2) for chunk_size in chunk_sizes) for position in ordinary}
    assert decoder.recordings == len(kinds) > 0


@every_family
def test_all_steps_of_a_kind_are_the_same_operations(family: str) -> None:
    """No branch, number or shape of a step depends on where in a chunk, or in which chunk, it stands."""
    network = network_of(family)
    decoder = Decoder(network, read(network, tokens_of(1)), num_tokens=40)
    of_kind: dict[Any, list[str]] = {}
    seen = 0
    for token in tokens_of(40).split(1, dim=1):
        kind = decoder._kind()
        with Recording() as recording:
            decoder(token)
        found = recording.described()
        text = " ".join(found)
        assert "_local_scalar_dense" not in text, "the step waits for the device"
        assert "lift_fresh" not in text, "the step copies a number of Python to the device"
        if kind is not None:
            seen += 1
            assert found == of_kind.setdefault(kind, found), f"position {decoder.position - 1}"
    assert seen > 2 * len(of_kind) > 0


def test_the_steps_left_out_are_other_operations() -> None:
    """Those that begin and end a chunk, so that what the comparison above finds equal is not equal whatever happens."""
    network = network_of("gecko")
    decoder = Decoder(network, read(network, tokens_of(2 * C)))
    found = []
    for token in tokens_of(C).split(1, dim=1):
        with Recording() as recording:
            decoder(token)
        found.append(recording.described())
    assert found[1] == found[2]
    assert found[0] != found[1] != found[3]


@every_family
def test_decoder_goes_on_far_in_a_stream(family: str) -> None:
    network, tokens = network_of(family), tokens_of(3 * C, seed=1)
    if family == "llama":
        pytest.skip("full attention at 4,000,000 is a cache of as many keys")
    # Further by whole chunks, also by chunks of 7: the memory reads what it holds.
    state = fast_forward(read(network, tokens_of(28 + C + 1)), 3_999_968)
    logits = decoded(recording_decoder(network, state, tokens.shape[1]), tokens)
    assert rms_error(logits, stream(network, state, tokens)) < TOLERANCE[torch.float64].forward


@every_family
def test_a_warm_up_leaves_the_state_where_it_is(family: str) -> None:
    network, tokens = network_of(family), tokens_of(2 * C, seed=1)
    for length in (C + 1, 3 * C + 2):
        state = read(network, tokens_of(length))
        decoder = Decoder(network, state, num_tokens=tokens.shape[1])
        logits = []
        for token in tokens.split(1, dim=1):
            for _ in range(3):
                with torch.no_grad():
                    decoder._compute()  # of another token
            logits.append(decoder(token))
        assert rms_error(torch.cat(logits, 1), stream(network, state, tokens)) < TOLERANCE[torch.float64].forward


@every_family
def test_load_goes_on_from_another_state_at_the_same_addresses(family: str) -> None:
    network, tokens = network_of(family), tokens_of(3 * C, seed=1)
    first, second = read(network, tokens_of(3 * C + 1)), read(network, tokens_of(2 * C + 3, seed=2))
    decoder = recording_decoder(network, first, tokens.shape[1])
    before = addresses(decoder)
    for state in (first, second, first):
        decoder.load(state)
        logits = decoded(decoder, tokens)
        assert rms_error(logits, stream(network, state, tokens)) < TOLERANCE[torch.float64].forward
    assert addresses(decoder) == before
    assert decoder.recordings == 1


def test_decoder_runs_in_bfloat16_and_with_autocast() -> None:
    tokens = tokens_of(3 * C, seed=1)
    for dtype in (torch.bfloat16, torch.float32):
        network = network_of("gecko", dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
            state = read(network, tokens_of(5))
            logits = decoded(recording_decoder(network, state, tokens.shape[1]), tokens)
            expected = stream(network, state, tokens)
        assert rms_error(logits, expected) < 4 * TOLERANCE[torch.bfloat16].forward


def test_decoder_says_what_is_in_the_way() -> None:
    network = network_of("gecko")
    state, token = read(network, tokens_of(5)), tokens_of(1)
    starts = torch.zeros(2, 5, dtype=torch.bool)
    with torch.no_grad():
        _, documents = network(tokens_of(5), None, starts)
    assert obstacle(network, state) is None
    with pytest.raises(ValueError, match="the stream has documents"):
        Decoder(network, documents)
    with pytest.raises(ValueError, match="a ring holds the keys of one document"):
        network.layers[0].attention.ring(documents.layers[0].attention, 1)
    odd = state._replace(final_norm=3)
    with pytest.raises(ValueError, match="the state holds 3, which may change"):
        Decoder(network, odd)
    with pytest.raises(ValueError, match=r"tokens must be \[2, 1\], got \[3, 1\]"):
        Decoder(network, state)(tokens_of(1, 3))
    with pytest.raises(ValueError, match=r"a part of the state is torch.int64 \[1\], the decoder's torch.int64 \[2\]"):
        Decoder(network, state).load(read(network, tokens_of(5, 1)))
    with pytest.raises(ValueError, match="training mode"):
        Decoder(network.train(), state)
    network.eval()
    decoder = Decoder(network, state, num_tokens=2)
    for _ in range(2):
        decoder(token)
    with pytest.raises(ValueError, match="made for 2 tokens"):
        decoder(token)
    llama = network_of("llama")
    with pytest.raises(ValueError, match="full attention needs to know"):
        Decoder(llama, read(llama, tokens_of(5)))
    decoder = Decoder(llama, read(llama, tokens_of(5)), num_tokens=4)
    with pytest.raises(ValueError, match="10 slots are needed, the ring has 9"):
        decoder.load(read(llama, tokens_of(6)))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="a CUDA graph needs a GPU"):
            Decoder(network, state, graph=True)


def test_a_ring_takes_one_timestep_of_one_document() -> None:
    attention = network_of("gecko").layers[0].attention
    q = torch.randn(2, 2, 2, 4, dtype=torch.float64)
    _, state = attention(q, q, torch.randn(2, 2, 2, 6, dtype=torch.float64))
    ring = attention.ring(state, 1)
    with pytest.raises(ValueError, match="one timestep a call, of one document, got 2 timesteps"):
        attention(q, q, torch.randn(2, 2, 2, 6, dtype=torch.float64), ring)


@every_family
@pytest.mark.parametrize("num_tokens", [1, 3 * C])
def test_generation_by_a_decoder_is_that_without(family: str, num_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, prompt, made = network_of(family), tokens_of(5), []

    def decoder(network: Network, state: NetworkState, steps: int) -> Decoder:
        made.append(recording_decoder(network, state, steps))
        return made[-1]

    expected = generate(network, prompt, num_tokens, temperature=0)
    monkeypatch.setattr(generation, "_decoder", decoder)
    assert torch.equal(generate(network, prompt, num_tokens, temperature=0), expected)
    assert [one.position == one._last for one in made] == [True]  # all of its steps were taken


@needs_gpu
@every_family
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_captured_steps_give_the_logits_of_the_stream(family: str, dtype: torch.dtype) -> None:
    network = network_of(family, dtype).cuda()
    for length in (1, C + 1, 3 * C):
        state, tokens = read(network, tokens_of(length).cuda()), tokens_of(8 * C, seed=1).cuda()
        decoder = Decoder(network, state, num_tokens=tokens.shape[1])
        assert decoder.graph
        before = addresses(decoder)
        logits = decoded(decoder, tokens)
        assert rms_error(logits.cpu(), stream(network, state, tokens).cpu()) < TOLERANCE[dtype].forward
        assert addresses(decoder) == before
        assert decoder._captured is not None


@needs_gpu
def test_captured_steps_under_autocast_outlive_it() -> None:
    network, tokens = network_of("gecko", torch.float32).cuda(), tokens_of(6 * C, seed=1).cuda()
    state = read(network, tokens_of(9).cuda())
    decoder = Decoder(network, state)
    logits = []
    for token in tokens.split(1, dim=1):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits.append(decoder(token))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        expected = stream(network, state, tokens)
    assert rms_error(torch.cat(logits, 1).cpu(), expected.cpu()) < 4 * TOLERANCE[torch.bfloat16].forward


@needs_gpu
@every_family
def test_generation_on_a_gpu_is_that_on_cpu(family: str) -> None:
    network, prompt = network_of(family), tokens_of(5)
    expected = generate(network, prompt, 4 * C, temperature=0)
    assert torch.equal(generate(network.cuda(), prompt.cuda(), 4 * C, temperature=0).cpu(), expected)
