"""Training through the command line: what a run leaves behind, and that its numbers are what they say."""

import csv
import functools
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from gecko_lab import LanguageModel, TextDataModule
from gecko_lab.__main__ import main
from gecko_lab.assembly import resolve
from gecko_lab.errors import ConfigurationError
from gecko_lab.kernels.linear_cross_entropy import linear_cross_entropy
from gecko_lab.network import Network
from tests.training import BATCH_SIZE, NETWORK, SEQUENCE_LENGTH, TOKENS_PER_BATCH, arguments, run_tiny

STEPS = 24
OPTIMIZER = {"model__optimizer__lr": 0.01, "model__optimizer__warmup": f"{2 * TOKENS_PER_BATCH} tokens"}
GECKO = "gecko_lab.components.layer.gecko.GeckoLayer"
TRANSFORMER = {"class_path": "TransformerLayer", "init_args": {"num_heads": 2, "hidden_dim": 16}}
LOGGED = {
    *(f"{name}/{split}" for name in ("loss", "perplexity", "bits_per_byte") for split in ("train", "validation")),
    *("learning_rate", "gradient_norm", "tokens", "tokens_per_second", "model_flops_per_second", "peak_memory_bytes"),
    *("loader_wait", "skipped_steps"),
}
MAY_BE_ZERO = {"skipped_steps"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("language_model")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A training of a few steps, validated twice."""
    return run_tiny("fit", folder, "run", trainer__max_steps=STEPS, trainer__val_check_interval=STEPS // 2, **OPTIMIZER)


@pytest.fixture(scope="module")
def checkpoint(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def data(folder: Path, run: Path) -> TextDataModule:
    """The text as the run saw it."""
    data = TextDataModule(
        sources=str(folder / "text.jsonl"),
        cache_folder=str(folder / "cache"),
        sequence_length=SEQUENCE_LENGTH,
        batch_size=BATCH_SIZE,
        validation_fraction=0.2,
        progress=False,
    )
    data.setup()
    return data


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def column(run: Path, name: str) -> list[float]:
    return [float(row[name]) for row in rows(run) if row.get(name)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def validation_losses(network: Network, data: TextDataModule) -> tuple[float, float]:
    """Nats per token and per byte over the validation, from whole logits."""
    nats, tokens, num_bytes = 0.0, 0, 0
    for batch in data.val_dataloader():
        inputs, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        with torch.no_grad():
            logits, _ = network.eval()(inputs, document_starts=inputs == data.bos_id)
        nats += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        tokens += targets.numel()
        num_bytes += int((targets != data.bos_id).sum())
    return nats / tokens, nats / num_bytes


def test_fit_lowers_the_loss(run: Path) -> None:
    train, validation = column(run, "loss/train"), column(run, "loss/validation")
    assert len(train) == STEPS
    assert train[-1] < 0.7 * train[0]
    assert len(validation) == 2
    assert validation[1] < validation[0]


def test_fit_logs_every_metric_to_csv(run: Path) -> None:
    assert set(rows(run)[0]) >= LOGGED
    for name in LOGGED:
        values = column(run, name)
        assert values, name
        assert all(0 <= value < math.inf if name in MAY_BE_ZERO else 0 < value < math.inf for value in values), name
    assert column(run, "tokens") == [TOKENS_PER_BATCH * (step + 1) for step in range(STEPS)]
    for split in ("train", "validation"):
        losses = column(run, f"loss/{split}")
        assert column(run, f"perplexity/{split}") == pytest.approx([math.exp(loss) for loss in losses], rel=1e-4)


def test_fit_logs_the_learning_rate_of_the_schedule(run: Path) -> None:
    rates = column(run, "learning_rate")
    assert rates[:3] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01])  # the warmup is two batches of tokens
    assert rates[-1] == pytest.approx(0.001)
    assert all(a >= b for a, b in itertools.pairwise(rates[2:]))


def test_fit_logs_scalars_text_and_image_to_tensorboard(run: Path) -> None:
    events = EventAccumulator(str(run), size_guidance={"tensors": 0, "images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) >= LOGGED
    assert [event.value for event in events.Scalars("loss/train")] == pytest.approx(column(run, "loss/train"))
    samples = events.Tensors("sample/text_summary")
    assert [sample.step for sample in samples] == [STEPS // 2, STEPS]
    images = events.Images("loss_by_position")
    assert [image.step for image in images] == [STEPS // 2, STEPS]
    assert all(image.encoded_image_string.startswith(b"\x89PNG") for image in images)


def test_fit_leaves_a_run_folder(run: Path) -> None:
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["network"] == resolve(NETWORK)
    assert config["trainer"]["max_steps"] == STEPS
    assert config["model"]["optimizer"]["betas"] == [0.9, 0.95]
    assert config["data"]["sequence_length"] == SEQUENCE_LENGTH
    names = {path.name for path in run.iterdir()} - {"hparams.yaml"}
    assert {name for name in names if not name.startswith("events.")} == {
        *(".lock", "checkpoints", "config.yaml", "curves.png", "loss_by_position.json", "metrics.csv", "run.json")
    }


def test_load_from_checkpoint_without_data_gives_the_same_loss(
    run: Path, checkpoint: Path, data: TextDataModule
) -> None:
    model = LanguageModel.load_from_checkpoint(checkpoint, weights_only=True)
    assert model.bos_id == data.bos_id
    per_token, per_byte = validation_losses(model.network, data)
    assert column(run, "loss/validation")[-1] == pytest.approx(per_token, rel=1e-5)
    assert column(run, "bits_per_byte/validation")[-1] == pytest.approx(per_byte / math.log(2), rel=1e-5)


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_validate_and_test_from_a_checkpoint(verb: str, folder: Path, run: Path, checkpoint: Path) -> None:
    again = run_tiny(verb, folder, verb, "--ckpt_path", str(checkpoint))
    split = "validation" if verb == "validate" else "test"
    assert column(again, f"loss/{split}") == pytest.approx(column(run, "loss/validation")[-1:], rel=1e-6)


def test_predict_from_a_checkpoint(folder: Path, run: Path, checkpoint: Path, data: TextDataModule) -> None:
    written = load_file(
        run_tiny("predict", folder, "predict", "--ckpt_path", str(checkpoint)) / "predictions-0.safetensors"
    )
    tokens = torch.cat([batch["tokens"] for batch in data.val_dataloader()])
    assert torch.equal(written["tokens"], tokens)
    assert written["losses"].shape == (len(tokens), SEQUENCE_LENGTH)
    assert written["losses"].mean().item() == pytest.approx(column(run, "loss/validation")[-1], rel=1e-5)


class Trap:
    """Runs code where it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sprung,)


def test_validate_does_not_unpickle_code(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": Trap(sprung)}, tmp_path / "trap.ckpt")
    options = ["--ckpt_path", str(tmp_path / "trap.ckpt"), "--run", str(tmp_path / "run")]
    assert main(["validate", *arguments(folder), *options]) == 2
    assert "--ckpt_path" in capsys.readouterr().err
    assert not sprung.exists()


def test_fit_accumulates_batch_tokens_to_the_update_of_one_large_batch(folder: Path) -> None:
    common: dict[str, Any] = {"trainer__limit_val_batches": 0, "model__optimizer__schedule": "constant"}
    tokens = 4 * TOKENS_PER_BATCH
    many = run_tiny("fit", folder, "many", trainer__max_steps=2, model__optimizer__batch_tokens=tokens, **common)
    large = run_tiny("fit", folder, "large", trainer__max_steps=2, data__batch_size=4 * BATCH_SIZE, **common)
    assert column(many, "tokens")[-1] == column(large, "tokens")[-1] == 2 * tokens
    assert column(many, "gradient_norm") == pytest.approx(column(large, "gradient_norm"), rel=1e-3)
    expected = weights(large)
    for name, value in weights(many).items():
        # Adam divides by the gradient's size: where that is near zero, rounding decides the sign of a step
        off = (value - expected[name]).abs() > 1e-5
        assert off.float().mean() < 0.02, name


def test_fit_validates_every_so_many_steps_where_the_batch_is_in_tokens(folder: Path) -> None:
    options = {"trainer__max_steps": 4, "trainer__val_check_interval": 2, "trainer__limit_val_batches": 1}
    done = run_tiny("fit", folder, "val_steps", model__optimizer__batch_tokens=3 * TOKENS_PER_BATCH, **options)
    assert [int(row["step"]) for row in rows(done) if row["loss/validation"]] == [2, 4]


def test_fit_takes_as_many_tokens_in_each_step(folder: Path, data: TextDataModule) -> None:
    epoch = len(data.train_dataloader())
    batches = next(count for count in range(3, epoch) if epoch % count)  # a pass is no whole number
    options = {"trainer__max_steps": epoch // batches + 2, "trainer__limit_val_batches": 0}
    done = run_tiny("fit", folder, "whole", model__optimizer__batch_tokens=batches * TOKENS_PER_BATCH, **options)
    assert column(done, "tokens") == [batches * TOKENS_PER_BATCH * (n + 1) for n in range(epoch // batches + 2)]
    assert column(done, "epoch")[-1] == 1


def test_fit_ends_after_a_duration_in_tokens(folder: Path) -> None:
    duration = f"{3 * TOKENS_PER_BATCH} tokens"
    done = run_tiny("fit", folder, "duration", model__optimizer__duration=duration, trainer__limit_val_batches=0)
    assert column(done, "tokens") == [TOKENS_PER_BATCH * step for step in (1, 2, 3)]
    assert column(done, "learning_rate")[-1] == pytest.approx(1e-4)


def test_fit_goes_on_over_epochs_with_an_interval_of_steps(folder: Path, data: TextDataModule) -> None:
    epoch = len(data.train_dataloader())
    done = run_tiny("fit", folder, "epochs", trainer__max_steps=epoch + 2, trainer__val_check_interval=epoch + 1)
    assert [float(row["step"]) for row in rows(done) if row["loss/validation"]] == [epoch + 1]


@pytest.mark.parametrize("limit", [0.0, 0.01])
def test_fit_logs_the_norm_before_clipping(limit: float, folder: Path) -> None:
    options = {"trainer__max_steps": 1, "trainer__limit_val_batches": 0, "model__optimizer__gradient_clip": limit}
    done = run_tiny("fit", folder, f"clip{limit}", **options)
    assert column(done, "gradient_norm")[0] > 0.1


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bf16", {"trainer__precision": "bf16-mixed"}),
        ("checkpointing", {"model__network": {**NETWORK, "checkpoint_layers": True}}),
        ("compile", {"model__compile": True, "model__network": {**NETWORK, "layer": TRANSFORMER}}),
        ("full_path", {"model__network": {**NETWORK, "layer": {"class_path": GECKO, "init_args": NETWORK["layer"]}}}),
        ("hybrid", {"model__network": {**NETWORK, "num_layers": 2, "layer": [NETWORK["layer"], TRANSFORMER]}}),
    ],
)
def test_fit_runs_with_option(name: str, options: dict[str, Any], folder: Path) -> None:
    done = run_tiny("fit", folder, name, trainer__max_steps=1, trainer__limit_val_batches=1, **options)
    assert column(done, "loss/train")[0] == pytest.approx(math.log(257), rel=0.4)
    assert all(torch.isfinite(value).all() for value in weights(done).values())
    assert all(value.dtype == torch.float32 for value in weights(done).values())


def test_token_losses_of_pieces_equal_whole_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(network={**NETWORK, "vocab_size": 31}, bos_id=0)
    model.configure_model()
    tokens = torch.randint(31, (3, 10))
    logits, _ = model(tokens[:, :-1], document_starts=tokens[:, :-1] == 0)
    expected = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    torch.testing.assert_close(model.token_losses(tokens), expected)
    pieces = functools.partial(linear_cross_entropy, rows=4)
    monkeypatch.setattr("gecko_lab.language_model.linear_cross_entropy", pieces)
    torch.testing.assert_close(model.token_losses(tokens), expected)
    monkeypatch.setattr(model, "log", lambda *arguments, **options: None)  # there is no trainer
    torch.testing.assert_close(model.training_step({"tokens": tokens}, 0), expected.mean())


def test_bytes_counts_no_byte_for_bos(data: TextDataModule) -> None:
    model = LanguageModel(network=NETWORK)
    model._trainer = type("Trainer", (), {"datamodule": data})()  # type: ignore[assignment]
    assert model._bytes(torch.tensor([[65, 256, 66, 67]])).tolist() == [[1, 0, 1, 1]]


@pytest.mark.parametrize("tokens", [TOKENS_PER_BATCH - 1, TOKENS_PER_BATCH + 1, TOKENS_PER_BATCH // 2, 0, -1])
def test_fit_refuses_batch_tokens_that_are_no_multiple(
    tokens: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(folder, trainer__max_steps=1, model__optimizer__batch_tokens=tokens)
    assert main(["fit", "--run", str(folder / "refused"), *words]) == 2
    message = capsys.readouterr().err
    for part in ("model.optimizer.batch_tokens", str(tokens), str(TOKENS_PER_BATCH)):
        assert part in message
    assert not (folder / "refused").exists()  # the name is free again


def test_fit_asks_how_long_the_training_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--run", str(folder / "endless"), *arguments(folder)]) == 2
    assert "how long is the training" in capsys.readouterr().err


def test_language_model_asks_for_a_vocabulary_without_data() -> None:
    with pytest.raises(ConfigurationError, match=r"model\.network\.vocab_size"):
        LanguageModel(network=NETWORK).configure_model()


def test_training_step_counts_the_targets_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(network={**NETWORK, "vocab_size": 31}, bos_id=0)
    model.configure_model()
    monkeypatch.setattr(model, "log", lambda *arguments, **options: None)  # there is no trainer
    tokens, mask = torch.randint(31, (3, 10)), torch.rand(3, 9) < 0.5
    expected = model.token_losses(tokens)[mask].mean()
    torch.testing.assert_close(model.training_step({"tokens": tokens, "mask": mask}, 0), expected)


def test_fit_validates_each_source_of_a_mixture(folder: Path) -> None:
    (folder / "other.txt").write_text("omega " * 300 + "\n", encoding="utf-8")
    mixture = {
        "words": {"sources": str(folder / "text.jsonl"), "weight": 3},
        "omega": {"sources": str(folder / "other.txt"), "weight": 1},
    }
    options: dict[str, Any] = {"data__mixture": mixture, "data__sources": None, "trainer__max_steps": 8}
    done = run_tiny("fit", folder, "mixture", trainer__val_check_interval=8, **options)
    data = TextDataModule(
        mixture=mixture,  # type: ignore[arg-type]
        cache_folder=str(folder / "cache"),
        sequence_length=SEQUENCE_LENGTH,
        batch_size=BATCH_SIZE,
        validation_fraction=0.2,
        progress=False,
    )
    model = LanguageModel.load_from_checkpoint(done / "checkpoints" / "last.ckpt", weights_only=True).eval()
    sums = torch.zeros(2, 3, dtype=torch.float64)
    with torch.no_grad():
        for batch in data.val_dataloader():
            for losses, tokens, source in zip(
                model.token_losses(batch["tokens"]), batch["tokens"][:, 1:], batch["sources"], strict=True
            ):
                sums[source] += torch.tensor([losses.sum(), losses.numel(), (tokens != data.bos_id).sum()])
    for name, (nats, tokens, num_bytes) in zip(("/words", "/omega", ""), [*sums, sums.sum(dim=0)], strict=True):
        assert column(done, f"loss/validation{name}") == pytest.approx([float(nats / tokens)], rel=1e-5)
        bits = float(nats / num_bytes) / math.log(2)
        assert column(done, f"bits_per_byte/validation{name}") == pytest.approx([bits], rel=1e-5)
    assert column(done, "loss/validation/omega") != column(done, "loss/validation/words")


@pytest.mark.parametrize("packing", ["best_fit", "carried"])
def test_fit_trains_with_packing(packing: str, folder: Path) -> None:
    done = run_tiny("fit", folder, packing, trainer__max_steps=10, data__packing=packing, **OPTIMIZER)
    losses = column(done, "loss/train")
    assert len(losses) == 10
    assert losses[-1] < 0.9 * losses[0]
