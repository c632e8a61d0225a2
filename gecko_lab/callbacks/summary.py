"""A run in a few lines and one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from gecko_lab.cost import network_cost
from gecko_lab.runs.metrics_file import read_metrics

# What a validation is summed up by: the first that it has.
_UNITS = {
    "accuracy/validation": "accuracy of the answers",
    "bits_per_byte/validation": "bits per byte",
    "loss/validation": "nats per token",
}


class Summary(Callback):
    """Print what is trained, and at the end how the validation fell; draw `curves.png` into the run's folder.

    Args:
        baseline: fit an order-2 byte model with add-one smoothing on the same training text, and compare.
    """

    def __init__(self, baseline: bool = False) -> None:
        self.baseline = baseline
        self.validations: list[tuple[int, dict[str, float]]] = []  # step, metrics

    def state_dict(self) -> dict[str, Any]:
        """The validations so far, for a checkpoint."""
        return {"validations": [[step, metrics] for step, metrics in self.validations]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the validations before a checkpoint."""
        self.validations = [(step, metrics) for step, metrics in state_dict["validations"]]

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
        if getattr(data, "padding", 0) > 0:
            print(f"padding      {data.padding:.1%} of the tokens that are read")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the metrics of a validation."""
        if not trainer.sanity_checking:
            metrics = {name: float(x) for name, x in trainer.callback_metrics.items() if "/validation" in name}
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

        key, unit = next((key, unit) for key, unit in _UNITS.items() if key in self.validations[0][1])
        table = Table(title=f"Validation, {unit}")
        table.add_column("")
        table.add_column("step", justify="right")
        table.add_column(unit, justify="right")
        for label, (step, metrics) in (("first", self.validations[0]), ("last", self.validations[-1])):
            table.add_row(label, f"{step:,}", f"{metrics[key]:.3f}")
        level, data = None, trainer.datamodule  # type: ignore[attr-defined]
        if self.baseline and key == "bits_per_byte/validation" and data is not None:
            level = "order-2 byte model, add-one smoothing, same training text", data.ngram_bits_per_byte(order=2)
        elif key == "accuracy/validation":
            level = "guessing", data.evaluation_task.chance
        if level is not None:
            table.add_row(level[0], "", f"{level[1]:.3f}")
        console = Console()
        console.print(table)
        picture = draw_curves(folder, key, unit, level)
        if picture is not None:
            console.print(f"curves       {picture}", soft_wrap=True)
        console.print(f"run folder   {folder}", soft_wrap=True)
        console.print(f"TensorBoard  tensorboard --logdir {folder}", soft_wrap=True)


def draw_curves(folder: Path, key: str, unit: str, level: tuple[str, float] | None) -> Path | None:
    """Draw training and validation against tokens from `metrics.csv` into `curves.png`.

    Args:
        folder: of the run.
        key: the validation metric; the training metric is its namesake.
        unit: of the metric.
        level: what to compare with: its name and value.

    Returns:
        The picture, or none where the run logged no metrics.
    """
    from matplotlib.figure import Figure

    rows = read_metrics(folder)
    if not rows:
        return None
    tokens: dict[str, float] = {row["step"]: float(row["tokens"]) for row in rows if row.get("tokens")}
    per_step = max((count / float(step) for step, count in tokens.items()), default=1.0)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, style in ((key.replace("/validation", "/train"), "-"), (key, "o-")):
        points = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
        if points:
            axes.plot([step * per_step for step, _ in points], [v for _, v in points], style, label=name.split("/")[1])
    if level is not None:
        axes.axhline(level[1], linestyle="--", color="gray", label=level[0].split(",")[0])
    axes.set(xlabel="tokens", ylabel=unit)
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder / "curves.png"
    aside = folder / ".curves.png"
    figure.savefig(aside, dpi=120, format="png")
    aside.rename(path)
    return path
