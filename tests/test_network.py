"""Networks as a whole: sizes, costs, what is refused, generation, recomputation."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gecko_lab import build, generate
from gecko_lab.components.layer.gecko import GeckoLayer
from gecko_lab.cost import network_cost
from gecko_lab.families import FAMILIES
from gecko_lab.recomputation import Recomputation
from gecko_lab.slots import Attention, Memory, MovingAverage
from tests.components.catalogue import starts_at
from tests.networks import NETWORKS, VOCAB_SIZE, C, small, tokens_of
from tests.tolerances import TOLERANCE, compare

every_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.mark.parametrize(("family", "size"), [*itertools.product(FAMILIES, GeckoLayer.sizes)])
def test_every_size_of_every_family_builds_on_meta(family: str, size: str) -> None:
    with torch.device("meta"):
        network = build(f"{family}-{size}")
    assert all(parameter.is_meta for parameter in network.parameters())
    nominal = {"tiny": 1e6, "7b": 7e9, "1.3b": 1.3e9}.get(size, float(size[:-1]) * 1e6 if size[-1] == "m" else 0)
    without_vocabulary = network.num_parameters() - 2 * network.embedding.weight.numel()
    assert 0.5 * nominal < without_vocabulary < 1.6 * nominal
    assert network_cost(network, 4096).parameters == network.num_parameters()


def test_gecko_7b_is_the_authors() -> None:
    with torch.device("meta"):
        network = build("gecko-7b")
    assert round(network.num_parameters() / 1e5) == 73858
    assert network.num_parameters() - network.num_parameters(embedding=False) == 32_000 * 4096


@every_network
def test_tied_weights_count_once(name: str) -> None:
    tied, untied = small(name, tied_embedding=True), small(name, tied_embedding=False)
    assert untied.num_parameters() - tied.num_parameters() == VOCAB_SIZE * 8


@every_network
def test_reset_after_the_meta_device_draws_what_building_draws(name: str) -> None:
    options = {"num_layers": 2, "model_dim": 8, "vocab_size": VOCAB_SIZE} | NETWORKS[name]
    what = options.pop("what")
    torch.manual_seed(1)
    expected = build(what, **options)
    with torch.device("meta"):
        network = build(what, **options)
    network.to_empty(device="cpu")
    torch.manual_seed(1)
    network.reset_parameters()
    compare(dict(network.named_parameters()), dict(expected.named_parameters()), 0.0)
    assert (network.output.weight is network.embedding.weight) == network.tied_embedding


@every_network
def test_recomputation_gives_the_same_gradients(name: str) -> None:
    """With dropout, in two pieces with documents, the gradient flowing through the state."""
    layer = NETWORKS[name]["layer"]
    if isinstance(layer, dict):
        layer = layer | {"dropout": 0.2, "hidden_dropout": 0.2}
    tokens, starts = tokens_of(3 * C + 1), starts_at(3 * C + 1, [2, 2 * C], [])
    found = []
    choices: tuple[Recomputation, ...] = (False, True, "selective")
    for recompute in choices:
        network = small(name, layer=layer, dropout=0.2, checkpoint_layers=recompute)
        torch.manual_seed(3)
        first, state = network(tokens[:, : C + 1], document_starts=starts[:, : C + 1])
        second, _ = network(tokens[:, C + 1 :], state, starts[:, C + 1 :])
        torch.cat((first, second), dim=1).square().sum().backward()
        found.append({key: parameter.grad for key, parameter in network.named_parameters()})
    compare(found[1], found[0], TOLERANCE[torch.float32].forward)
    compare(found[2], found[0], TOLERANCE[torch.float32].forward)


@every_network
def test_flops_of_the_linear_maps_are_those_counted(name: str) -> None:
    """All linear maps, output projection included, against the products that PyTorch executes for `nn.Linear` modules.

    What is compared is `flops_per_token` less that of attention, memory and moving average, which no linear map does.
    """
    network, length = small(name), 3 * C + 1
    mixing = [m for m in network.modules() if isinstance(m, (Attention, Memory, MovingAverage))]
    expected = network.flops_per_token(length) - sum(m.flops_per_token(length) for m in mixing)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(tokens_of(length))
    counts = counter.get_flop_counts()
    names = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)]
    counted = sum(sum(counts[f"Network.{key}"].values()) for key in names)
    assert counted == pytest.approx(expected * length * 2, rel=1e-12)


def test_flops_of_full_attention_are_half_of_the_square() -> None:
    """PyTorch counts all pairs; causally there are (L + 1) / 2L of them."""
    network, length = small("llama"), 32
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        network(tokens_of(length, batch=1))
    square = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
    attention = sum(m.flops_per_token(length) for m in network.modules() if isinstance(m, Attention)) * length
    assert attention == square * (length + 1) / (2 * length)


@every_network
def test_greedy_generation_is_the_argmax_of_the_whole(name: str) -> None:
    network, prompt = small(name), tokens_of(C + 2)
    starts = starts_at(C + 2, [0, 3], [1])
    added = generate(network, prompt, 2 * C + 1, temperature=0, document_starts=starts)
    assert added.shape == (2, 2 * C + 1)
    whole = torch.cat((prompt, added), dim=1)
    all_starts = torch.cat((starts, torch.zeros_like(added, dtype=torch.bool)), dim=1)
    with torch.no_grad():
        logits, _ = network.eval()(whole, document_starts=all_starts)
    assert torch.equal(logits[:, C + 1 : -1].argmax(dim=-1), added)


def test_generation_leaves_mode_and_global_randomness_alone() -> None:
    network = small("gecko", dropout=0.5).train()
    before = torch.get_rng_state()
    draws = [generate(network, tokens_of(3), 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert network.training
    assert network.embedding.training
    assert torch.equal(torch.get_rng_state(), before)


def test_generation_projects_the_last_token_of_a_prompt_alone() -> None:
    network = small("gecko")
    projected: list[torch.Size] = []
    network.output.register_forward_hook(lambda module, inputs, output: projected.append(output.shape))
    generate(network, tokens_of(C + 1), 2)
    assert [shape[1] for shape in projected] == [1, 1]


def test_low_temperature_is_greedy() -> None:
    network = small("gecko")
    greedy = generate(network, tokens_of(3), 6, temperature=0)
    assert torch.equal(generate(network, tokens_of(3), 6, temperature=1e-4), greedy)


def test_logits_are_in_at_least_float32() -> None:
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        logits, _ = small("gecko").to(dtype)(tokens_of(C + 1))
        assert logits.dtype == expected
        assert logits.isfinite().all()


def test_autocast_is_near_float32() -> None:
    """Networks train so on GPUs: bfloat16 products, float32 states."""
    network, tokens = small("gecko"), tokens_of(5 * C + 1)
    with torch.no_grad():
        expected, _ = network(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, state = network(tokens)
    assert state.layers[0].memory.memory.dtype == state.layers[0].moving_average.dtype == torch.float32
    compare({"logits": logits}, {"logits": expected}, 5e-2)


@pytest.mark.parametrize(
    ("tokens", "starts", "message"),
    [
        (torch.zeros(3, dtype=torch.long), None, r"tokens must be \[batch, length ≥ 1\], got \[3\]"),
        (torch.zeros(2, 0, dtype=torch.long), None, r"got \[2, 0\]"),
        (tokens_of(3), torch.zeros(2, 4, dtype=torch.bool), r"must be bool \[2, 3\] .* got torch.bool \[2, 4\]"),
        (tokens_of(3), torch.zeros(2, 3), r"must be bool \[2, 3\] .* got torch.float32 \[2, 3\]"),
    ],
)
def test_wrong_inputs_are_refused(tokens: torch.Tensor, starts: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("gecko")(tokens, document_starts=starts)


def test_the_state_of_another_depth_is_refused() -> None:
    _, state = small("gecko")(tokens_of(3))
    with pytest.raises(ValueError, match="the state is of 2 layers, the network has 3"):
        small("gecko", num_layers=3)(tokens_of(3), state)
