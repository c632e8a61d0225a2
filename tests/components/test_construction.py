"""Making, moving and copying every component of the catalogue; its gradients in float64, its states in bfloat16."""

import copy

import pytest
import torch
from torch import Tensor, nn

from gecko_lab.slots import Size, Slot
from tests.components.catalogue import CASES, C, Case, every, floating, run, run_in_pieces, starts_at
from tests.tolerances import BFLOAT16_COMPONENT, compare

TINY = Size(num_layers=1, model_dim=4, num_heads=2, z_dim=4, value_dim=2, hidden_dim=3, chunk_size=2)


def reset(module: nn.Module) -> None:
    """Draw every parameter anew, as a network does."""
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()


def built(case: Case, seed: int) -> Slot:
    torch.manual_seed(seed)
    return case.build()


@every(CASES)
def test_a_seed_determines_the_parameters(case: Case) -> None:
    compare(built(case, 1).state_dict(), built(case, 1).state_dict(), 0.0)
    first, other = dict(built(case, 1).named_parameters()), dict(built(case, 2).named_parameters())
    drawn = [name for name, parameter in first.items() if len(parameter.unique()) > 1]
    assert [name for name in drawn if torch.equal(first[name], other[name])] == []


@every(CASES)
def test_reset_after_the_meta_device_draws_what_building_draws(case: Case) -> None:
    with torch.device("meta"):
        module = case.build()
    assert all(parameter.is_meta for parameter in module.parameters())
    module = module.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    torch.manual_seed(1)
    reset(module)
    expected = built(case, 1)
    compare(dict(module.named_parameters()), dict(expected.named_parameters()), 0.0)
    assert [p.requires_grad for p in module.parameters()] == [p.requires_grad for p in expected.parameters()]
    assert not list(module.buffers())  # what is not a parameter would have stayed empty


@every(CASES)
def test_copies_and_state_dicts_compute_the_same(case: Case) -> None:
    module, inputs = case.trained(), case.inputs(2 * C + 1)
    y, _ = run(module, inputs)
    copied = copy.deepcopy(module)
    loaded = built(case, 7)
    loaded.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(run(copied, inputs)[0], y)
    assert torch.equal(run(loaded, inputs)[0], y)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(run(module, inputs)[0], y)


@every(CASES)
def test_copied_states_go_on_alike(case: Case) -> None:
    module, inputs = case.trained(), case.inputs(3 * C)
    prefix = {name: x[:, : 2 * C + 1] for name, x in inputs.items()}
    rest = {name: x[:, 2 * C + 1 :] for name, x in inputs.items()}
    with torch.no_grad():
        _, state = run(module, prefix)
        assert torch.equal(run(module, rest, copy.deepcopy(state))[0], run(module, rest, state)[0])


@every(CASES)
def test_evaluation_mode_computes_the_same_without_dropout(case: Case) -> None:
    module, inputs = case.trained(), case.inputs(2 * C + 1)
    assert torch.equal(run(module, inputs)[0], run(module.eval(), inputs)[0])


@every(CASES)
@pytest.mark.parametrize("documents", [False, True])
def test_bfloat16_keeps_its_states_in_float32(case: Case, documents: bool) -> None:
    """All but attention's keys and values, which are activations."""
    length, module = 5 * C + 2, case.trained(torch.bfloat16)
    inputs = case.inputs(length, dtype=torch.bfloat16)
    starts = starts_at(length, [5], [C, 2 * C + 1]) if documents else None
    y, state = run_in_pieces(module, inputs, [C + 1, length - C - 1], starts)
    assert y.dtype == torch.bfloat16
    for name, leaf in floating(state).items():
        cached = name.endswith((".keys", ".values"))
        assert leaf.dtype == (torch.bfloat16 if cached else torch.float32), name
    wide = {name: x.float() for name, x in inputs.items()}
    expected, _ = run_in_pieces(module.float(), wide, [length], starts)
    compare({"y": y}, {"y": expected}, BFLOAT16_COMPONENT)


@every(CASES)
def test_gradcheck(case: Case) -> None:
    """In two pieces with documents, so that the gradient through the state is checked too."""
    torch.manual_seed(5)
    module = case.build(TINY).double()
    parameters = {name: (p + 0.3 * torch.randn_like(p)).detach() for name, p in module.named_parameters()}
    heads, key_dim, value_dim = TINY.num_heads, TINY.z_dim // TINY.num_heads, TINY.value_dim // TINY.num_heads
    names = list(case.inputs(1))
    widths = {"x": (TINY.model_dim,), "q": (heads, key_dim), "k": (heads, key_dim), "v": (heads, value_dim)}
    length = 7
    inputs = [torch.randn(1, length, *widths[name], dtype=torch.float64) for name in names]
    leaves = [x.requires_grad_() for x in (*inputs, *parameters.values())]

    class Pieces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.component = module

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            named = dict(zip(names, inputs, strict=True))
            y, state = run_in_pieces(module, named, [3, length - 3], starts_at(length, [2]))
            return tuple(x for x in (y, *floating(state).values()) if x.requires_grad)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip((f"component.{name}" for name in parameters), tensors[len(names) :], strict=True))
        return torch.func.functional_call(Pieces(), values, tensors[: len(names)])

    assert torch.autograd.gradcheck(function, leaves, fast_mode=case.slot == "layer")
