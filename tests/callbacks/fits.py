"""Tiny trainings by Lightning's trainer alone: random tokens, little network, chosen callbacks."""

import csv
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gecko_lab import LanguageModel
from gecko_lab.optimizer import OptimizerSettings
from tests.training import NETWORK

VOCAB_SIZE = 31
BATCH_SIZE = 2
NETWORK_OPTIONS: dict[str, Any] = {**NETWORK, "num_layers": 3, "vocab_size": VOCAB_SIZE}


class Samples(Dataset[dict[str, Tensor]]):
    """Random tokens; sample i says that it is sample i, of source i mod 2."""

    def __init__(self, count: int = 64, length: int = 20) -> None:
        self.tokens = torch.randint(VOCAB_SIZE, (count, length + 1), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"tokens": self.tokens[index], "samples": torch.tensor(index), "sources": torch.tensor(index % 2)}


def tiny_model(network: dict[str, Any] | None = None, **optimizer: Any) -> LanguageModel:
    """A language model of three layers, the same at each call."""
    torch.manual_seed(0)
    settings = OptimizerSettings(lr=0.01, schedule="constant", **optimizer)
    model = LanguageModel(network={**NETWORK_OPTIONS, **(network or {})}, optimizer=settings, bos_id=0)
    model.configure_model()
    return model


def fit(folder: Path, model: LanguageModel, callbacks: list[Callback], **options: Any) -> L.Trainer:
    """Train, by default for four steps with a checkpoint after each, and return the trainer."""
    resume = options.pop("resume", None)
    trainer = L.Trainer(
        **{
            "default_root_dir": folder,
            "logger": CSVLogger(folder, name="", version=""),
            "callbacks": [*callbacks, ModelCheckpoint(folder / "checkpoints", every_n_train_steps=1, save_top_k=-1)],
            "max_steps": 4,
            "accelerator": "cpu",
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 0,
            **options,
        }
    )
    loader = DataLoader(Samples(), batch_size=BATCH_SIZE)
    trainer.fit(model, loader, loader, ckpt_path=resume, weights_only=True)
    return trainer


def logged(folder: Path, name: str) -> dict[int, float]:
    """The values of a metric by step."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}
