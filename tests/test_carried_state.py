"""Training whose rows go on from batch to batch: it is one long stream, and a checkpoint keeps where it stood."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gecko_lab import LanguageModel, TextDataModule
from gecko_lab.carried_state import CarriedState
from gecko_lab.data.errors import DataError
from gecko_lab.errors import ConfigurationError
from gecko_lab.optimizer import OptimizerSettings
from tests.training import NETWORK, write_text

TRANSFORMER = {"class_path": "TransformerLayer", "init_args": {"num_heads": 2, "hidden_dim": 16, "chunk_size": 8}}
SLIDING = {**TRANSFORMER, "init_args": {**TRANSFORMER["init_args"], "attention": "SlidingWindowAttention"}}
LAYERS: dict[str, Any] = {"gecko": NETWORK["layer"], "transformer": TRANSFORMER, "hybrid": [NETWORK["layer"], SLIDING]}
BOS = 0


def model_of(layer: str, bos_id: int | None = BOS) -> LanguageModel:
    """A model of tokens 0 to 30 without a trainer, the same at every call."""
    torch.manual_seed(0)
    model = LanguageModel(network={**NETWORK, "layer": LAYERS[layer], "num_layers": 2, "vocab_size": 31}, bos_id=bos_id)
    model.configure_model()
    model.setup("validate")
    model.log = lambda *arguments, **options: None  # type: ignore[method-assign,assignment]
    return model


def batches_of(fresh: list[list[bool]], length: int) -> list[dict[str, Tensor]]:
    """Batches of random tokens whose rows continue but for those that are fresh."""
    rows = len(fresh[0])
    stream = torch.randint(31, (rows, len(fresh) * length + 1))
    return [
        {"tokens": stream[:, i * length : (i + 1) * length + 1], "fresh": torch.tensor(new)}
        for i, new in enumerate(fresh)
    ]


FRESH = [[True, True, True], [False, False, False], [False, True, False], [True, False, False], [False] * 3]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("length", [1, 5, 16])
@pytest.mark.parametrize("bos_id", [BOS, None])
def test_training_over_lanes_is_one_long_stream(layer: str, length: int, bos_id: int | None) -> None:
    model = model_of(layer, bos_id)
    batches = batches_of(FRESH, length)
    losses = [model.training_step(batch, i) for i, batch in enumerate(batches)]
    inputs = torch.cat([batch["tokens"][:, :-1] for batch in batches], dim=1)
    targets = torch.cat([batch["tokens"][:, 1:] for batch in batches], dim=1)
    starts = torch.zeros_like(inputs, dtype=torch.bool) if bos_id is None else inputs == bos_id
    starts[:, ::length] |= torch.tensor(FRESH).T
    logits, _ = model.network(inputs, document_starts=starts)
    whole = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    expected = whole.unfold(1, length, length).mean(dim=(0, 2))
    torch.testing.assert_close(torch.stack(losses), expected, rtol=1e-5, atol=1e-6)
    alone = torch.stack([model.token_losses(batch["tokens"]).mean() for batch in batches])
    assert (alone - expected).abs()[1] > 1e-4, "the state makes a difference"


def test_no_gradient_flows_into_the_batch_before() -> None:
    model = model_of("gecko")
    first, second = batches_of(FRESH[:2], 8)
    model.training_step(first, 0)
    loss = model.training_step(second, 1)
    loss.backward()  # would fail or be another one through the freed graph of the first
    alone = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    fresh = model_of("gecko")
    with torch.no_grad():
        fresh.training_step(first, 0)
    fresh.training_step(second, 1).backward()
    assert all(torch.equal(p.grad, alone[name]) for name, p in fresh.named_parameters() if p.grad is not None)


@pytest.mark.parametrize("layer", LAYERS)
def test_checkpoint_keeps_the_rows_of_every_rank(layer: str, tmp_path: Path) -> None:
    model = model_of(layer)
    first, second = batches_of(FRESH[:2], 5)
    model.training_step(first, 0)
    expected = pytree.tree_leaves(model._carried._state)
    leaves = model._carried.leaves(lambda tensor: torch.cat([tensor, 2 * tensor]))  # two ranks
    assert leaves is not None
    torch.save(leaves, tmp_path / "leaves")
    leaves = torch.load(tmp_path / "leaves", weights_only=True)
    inputs = second["tokens"][:, :-1]
    for rank in range(2):
        carried = CarriedState()
        carried.load(leaves, 3 * rank, 3 * rank + 3)
        untouched = carried.leaves(lambda tensor: tensor)
        random_state = torch.get_rng_state()
        state = carried.before(model.network, inputs, inputs == BOS)
        assert torch.equal(torch.get_rng_state(), random_state)
        assert model.network.training
        found = pytree.tree_leaves(state)
        for leaf, again, wanted in zip(found, untouched or [], expected, strict=True):
            if isinstance(wanted, Tensor):
                assert leaf.dtype == again.dtype == wanted.dtype
                assert torch.equal(leaf, again)
                assert torch.equal(leaf, wanted * (rank + 1))
            else:
                assert leaf == again == wanted
        model.network.hidden(inputs, state, inputs == BOS)  # the tree is that of a state


def test_nothing_is_kept_of_a_loss_that_is_not_finite() -> None:
    model = model_of("gecko")
    first, second = batches_of(FRESH[:2], 8)
    weight = model.network.output.weight
    with torch.no_grad():
        before = weight.clone()
        weight.fill_(torch.nan)
        assert not torch.isfinite(model.training_step(first, 0))
        weight.copy_(before)
        loss = model.training_step(second, 1)
    torch.testing.assert_close(loss, model.token_losses(second["tokens"]).mean())


class Losses(L.Callback):
    """Keeps the loss of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].item())


def fit(
    folder: Path, steps: int, checkpoint: Path | None = None, *, compile: bool = False, **options: Any
) -> tuple[list[float], L.Trainer]:
    """Train to a step; the losses from where it began."""
    L.seed_everything(0, verbose=False)
    losses = Losses()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        callbacks=[losses],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        limit_val_batches=1,
        num_sanity_val_steps=1,
    )
    data = TextDataModule(
        **{
            "sources": str(folder / "text.jsonl"),
            "cache_folder": str(folder / "cache"),
            "sequence_length": 160,
            "packing": "carried",
            "batch_size": 4,
            "progress": False,
            **options,
        }
    )
    settings = OptimizerSettings(lr=0.01, schedule="constant", warmup=0)
    network = {**NETWORK, "layer": LAYERS["hybrid"], "num_layers": 2}
    model = LanguageModel(network=network, optimizer=settings, compile=compile)
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return losses.losses, trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("carried")
    write_text(folder)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> list[float]:
    """The losses of 20 steps, which is more than one pass, without a stop."""
    return fit(folder, 20)[0]


@pytest.mark.parametrize("steps", [1, 7, 12])
def test_resumed_training_is_the_same_bit_for_bit(folder: Path, whole: list[float], steps: int) -> None:
    first, trainer = fit(folder, steps)
    path = folder / f"{steps}.ckpt"
    trainer.save_checkpoint(path)
    second, _ = fit(folder, 20, path)
    assert first + second == whole
    assert torch.load(path, weights_only=True)["carried_state"]


def test_carrying_makes_a_difference(folder: Path, whole: list[float]) -> None:
    differs = [a != b for a, b in zip(whole, fit(folder, 20, seed=1)[0], strict=True)]
    assert all(differs)
    assert len(set(itertools.pairwise(whole))) == 19


def test_other_lanes_are_refused(folder: Path) -> None:
    _, trainer = fit(folder, 1)
    trainer.save_checkpoint(folder / "lanes.ckpt")
    with pytest.raises(DataError, match=r"carries the state of 4 rows, and batch_size 2 x 1 devices is 2"):
        fit(folder, 2, folder / "lanes.ckpt", batch_size=2)


def test_compiling_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.compile does not go with data\.packing carried"):
        fit(folder, 1, compile=True)
