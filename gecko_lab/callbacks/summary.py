"""A run in a few lines and one picture."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from gecko_lab.cost import network_cost


class Summary(Callback):
    """Print what is trained, and at the end how the validation fell; draw `curves.png` into the run's folder.

    Args:
        baseline: fit an order-2 byte model with add-one smoothing on the same training text, and compare.
    """

    def __init__(self, baseline: bool = False) -> None:
        self.baseline = baseline
        self.validations: list[tuple[int, dict[str, float]]] = []  # step, metrics

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what is trained and what it costs."""
        data: Any = getattr(trainer, "datamodule", None)
        network: Any = pl_module.network
        if not trainer.is_global_zero or data is None:
            return
        cost = network_cost(network, data.sequence_length)
        layers = ", ".join(dict.fromkeys(type(layer).__name__ for layer in network.layers))
        print(
            f"network      {len(network.layers)} × {layers}, {cost.parameters / 1e6:.2f}M parameters, "
            f"{cost.flops_per_token / 1e6:.2f} MFLOP per token forward, {cost.state_bytes / 1e6:.2f} MB of state per "
            f"stream ({data.sequence_length:,} tokens, bfloat16)"
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the metrics of a validation."""
        if not trainer.sanity_checking:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.validations.append((trainer.global_step, metrics))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and draw."""
        if not self.validations or getattr(trainer, "fast_dev_run", False):
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # all ranks ask together: it is broadcast
        if not trainer.is_global_zero:
            return
        from rich.console import Console
        from rich.table import Table

        per_byte = "bits_per_byte/validation" in self.validations[0][1]
        key, unit = ("bits_per_byte/validation", "bits per byte") if per_byte else ("loss/validation", "nats per token")
        table = Table(title=f"Validation, {unit}")
        table.add_column("")
        table.add_column("step", justify="right")
        table.add_column(unit, justify="right")
        for label, (step, metrics) in (("first", self.validations[0]), ("last", self.validations[-1])):
            table.add_row(label, f"{step:,}", f"{metrics[key]:.3f}")
        baseline = None
        data: Any = getattr(trainer, "datamodule", None)
        if self.baseline and per_byte and data is not None:
            baseline = data.ngram_bits_per_byte(order=2)
            table.add_row("order-2 byte model, add-one smoothing, same training text", "", f"{baseline:.3f}")
        console = Console()
        console.print(table)
        picture = draw_curves(folder, key, unit, baseline)
        if picture is not None:
            console.print(f"curves       {picture}", soft_wrap=True)
        console.print(f"run folder   {folder}", soft_wrap=True)
        console.print(f"TensorBoard  tensorboard --logdir {folder}", soft_wrap=True)


def draw_curves(folder: Path, key: str, unit: str, baseline: float | None) -> Path | None:
    """Draw training and validation against tokens from `metrics.csv` into `curves.png`.

    Args:
        folder: of the run.
        key: the validation metric; the training metric is its namesake.
        unit: of the metric.
        baseline: a level to compare with.

    Returns:
        The picture, or none where the run logged no metrics.
    """
    from matplotlib.figure import Figure

    metrics = folder / "metrics.csv"
    if not metrics.is_file():
        return None
    with metrics.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tokens: dict[str, float] = {row["step"]: float(row["tokens"]) for row in rows if row.get("tokens")}
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, style in ((key.replace("/validation", "/train"), "-"), (key, "o-")):
        points = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
        per_step = max((tokens[s] / (float(s) + 1) for s in tokens), default=1.0)
        axes.plot([(s + 1) * per_step for s, _ in points], [v for _, v in points], style, label=name.split("/")[1])
    if baseline is not None:
        axes.axhline(baseline, linestyle="--", color="gray", label="order-2 byte model")
    axes.set(xlabel="tokens", ylabel=unit)
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder / "curves.png"
    aside = folder / ".curves.png"
    figure.savefig(aside, dpi=120, format="png")
    aside.rename(path)
    return path
