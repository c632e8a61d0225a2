"""The models that are compared: of the same parameters, whichever they are, and with a right count of FLOPs."""

from importlib.util import find_spec

import pytest
import torch

from gecko_lab.bench import models
from gecko_lab.bench.models import NAMES, OWN_LOSS, Recipe, build, matched, parameters
from gecko_lab.errors import ConfigurationError

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


@needs_transformers
@pytest.mark.parametrize(("size", "vocab_size"), [("tiny", 257), ("15m", 32_000)])
def test_matched_gives_all_models_the_parameters_of_the_first(size: str, vocab_size: int) -> None:
    asked = [*NAMES, OWN_LOSS]
    recipes, remarks = matched(asked, size, vocab_size, None)
    assert [recipe.name for recipe in recipes] == asked
    assert [recipe.own_loss for recipe in recipes] == [name == OWN_LOSS for name in asked]
    assert not remarks
    target = parameters(recipes[0])
    for recipe in recipes:
        assert recipe.vocab_size == vocab_size
        assert abs(parameters(recipe) - target) <= 0.01 * target


def test_matched_takes_our_llama_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    recipes, remarks = matched(["gecko", "llama", "mamba2", OWN_LOSS], "tiny", 257, 32)
    assert [(recipe.name, recipe.family, recipe.chunk_size) for recipe in recipes] == [
        ("gecko", "gecko", 32),
        ("llama", "llama", 32),
    ]
    assert abs(parameters(recipes[1]) - parameters(recipes[0])) <= 0.01 * parameters(recipes[0])
    assert len(remarks) == 3
    assert all("gecko-lab[bench]" in remark for remark in remarks)


def test_matched_refuses_what_cannot_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    monkeypatch.setattr(models, "TOLERANCE", 1e-12)
    with pytest.raises(ConfigurationError, match=r"--models: no widths give llama the [\d,]+ parameters"):
        matched(["gecko", "llama"], "tiny", 257, None)


@needs_transformers
def test_llama_counts_flops_as_our_own() -> None:
    ours, theirs = (build(Recipe("llama", family, "tiny", 257)) for family in ("llama", "transformers-llama"))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    for length in (1, 100, 4096):
        assert theirs.flops_per_token(length) == ours.flops_per_token(length)


@needs_transformers
@pytest.mark.parametrize(
    ("family", "own_loss"),
    [("gecko", False), *((f"transformers-{name}", own) for name in ("llama", "mamba2") for own in (False, True))],
)
def test_loss_is_that_of_the_next_tokens(family: str, own_loss: bool) -> None:
    model = build(Recipe(family, family, "tiny", 31, own_loss=own_loss)).eval()
    tokens = torch.randint(31, (2, 18))
    with torch.no_grad():
        losses = []
        for length in range(1, 18):  # the logits after each prefix, from the beginning every time
            logits, _ = model.step(tokens[:, :length], None)
            losses.append(torch.nn.functional.cross_entropy(logits, tokens[:, length]))
        expected = torch.stack(losses).mean()
        assert model.loss(tokens) == pytest.approx(expected.item(), rel=1e-4)


def test_build_gives_the_same_weights_every_time() -> None:
    recipe = Recipe("gecko", "gecko", "tiny", 31, 16, (("hidden_dim", 40),))
    first, second = build(recipe), build(recipe)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
