"""The memory microscope: what the parts of a stream network do while it trains."""

from __future__ import annotations

import sys
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from gecko_lab.callbacks.tensorboard import writer
from gecko_lab.errors import ConfigurationError
from gecko_lab.microscope.alarms import Alarms
from gecko_lab.microscope.figures import draw
from gecko_lab.microscope.history import History
from gecko_lab.microscope.memory import MemorySeen
from gecko_lab.microscope.moving_average import MovingAverageSeen
from gecko_lab.microscope.probe import Probe
from gecko_lab.microscope.seen import Seen
from gecko_lab.microscope.share import ShareSeen


class Microscope(Callback):
    """Show what each layer's parts do: how long they remember, what is written and read, which gates are shut.

    Every few steps it looks at the first batch of the step, on the main process alone (of several devices it shows the
    first one's part of the batch), and logs, each as `microscope/layers.3/…`:

    - `moving_average/half_life_{min,median,max,weighted_median}` and `period_…`, in tokens, over channels and states;
      the weighted median halves the power that the states have in the output when the input is white noise;
    - `timestep_norm/{mean,variance}_horizon`, timesteps that the statistics average over;
    - `memory/write_ratio_{min,median,max}`, ρ over heads, slots and chunks where the memory held something before;
      `memory/norm_{min,median,max}`, Frobenius norm over heads; `memory/read_mass`, RMS of what is read over RMS of
      the values; `memory/readers`, share of the timesteps that read anything but zero;
    - `attention/share`, attention's norm over attention's plus memory's as the layer adds them, at those timesteps;
    - `gates/r/{closed,open,never_open}` for each gate: share of sigmoids below 0.01, above 0.99 (a SiLU counts by the
      sigmoid in it), and of features that stay below 0.01 in the whole batch. `v` are the values, `r` what multiplies
      attention, `feed_forward.W_1` the gate of the feed-forward.

    An alarm tells once, on stderr and as text in TensorBoard, that a part is dead: nothing is written to a head (ρ
    below the memory's resolution), a state never forgets (|q| > 1 − 1e-6), a gate never opens in a batch, or, three
    measurements in a row, nothing is read, or attention or memory has less than a thousandth of the share.
    `microscope/alarms` counts them, `microscope/dead_parts` those that are still so.

    Of compiled layers only moving average and timestep norm are seen. Nothing here changes what is trained.

    Args:
        every_n_steps: steps from one measurement to the next; 0: never.
        draw_every_n_steps: steps from one set of figures in TensorBoard to the next (half-lives and write ratios by
            layer, attention's share over time), which are also drawn at the end; 0: never.
    """

    def __init__(self, *, every_n_steps: int = 100, draw_every_n_steps: int = 1000) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("draw_every_n_steps", draw_every_n_steps)):
            if value < 0:
                raise ConfigurationError(f"microscope.{name}: must not be negative, got {value}")
        self.every_n_steps, self.draw_every_n_steps = every_n_steps, draw_every_n_steps
        self.alarms, self.history = Alarms(), History()
        self._probe: Probe | None = None  # while a step is measured
        self._noticed = False

    def state_dict(self) -> dict[str, Any]:
        """Alarms and history, for a checkpoint."""
        return {"alarms": self.alarms.state_dict(), "history": self.history.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stood."""
        self.alarms.load_state_dict(state_dict["alarms"])
        self.history.load_state_dict(state_dict["history"])

    def _due(self, trainer: Trainer) -> bool:
        every = self.every_n_steps
        return every > 0 and trainer.is_global_zero and (trainer.global_step + 1) % every == 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to look, at the first batch of a step."""
        if self._probe is None and self._due(trainer):
            self._probe = Probe(getattr(pl_module, "network", pl_module))
            self._probe.install()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """End to look, before checkpointing computes anything again."""
        if self._probe is not None:
            self._probe.remove()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Log."""
        if self._probe is None:
            return
        probe, self._probe = self._probe, None
        probe.remove()
        if probe.hidden:
            self._show_hidden(probe, sharded=isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy)))
        step = trainer.global_step + 1  # as `metrics.csv` counts: the steps that were taken
        results = probe.results()
        places = {f"{layer}/{part}": seen for layer, parts in results.items() for part, seen in parts.items()}
        new = self.alarms.judge({place: seen.findings() for place, seen in places.items()})
        metrics = {f"microscope/{place}/{k}": x for place, seen in places.items() for k, x in seen.metrics().items()}
        metrics["microscope/alarms"] = float(len(self.alarms.raised))
        metrics["microscope/dead_parts"] = float(len(self.alarms.dead))
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
            logger.save()
        board = writer(trainer)
        for sentence in new:
            print(f"gecko-lab: microscope at step {step:,}: {sentence}", file=sys.stderr, flush=True)
            if board is not None:
                board.add_text("microscope/alarms", sentence, global_step=step)
        self._remember(step, results)
        if self.draw_every_n_steps > 0 and step % self.draw_every_n_steps < self.every_n_steps:
            self._draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._forget()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave no hook behind: the last step's batches may be incomplete. Draw what was measured last."""
        self._forget()
        drawn = self.draw_every_n_steps > 0 and self.history.step % self.draw_every_n_steps < self.every_n_steps
        if self.draw_every_n_steps > 0 and self.history.step > 0 and not drawn:
            self._draw(trainer)

    def _forget(self) -> None:
        if self._probe is not None:
            self._probe.remove()
            self._probe = None

    def _show_hidden(self, probe: Probe, *, sharded: bool) -> None:
        """Look at what can be seen of compiled layers, and say once what cannot."""
        if not sharded:
            probe.look_at_parameters()
        if not self._noticed:
            self._noticed = True
            shown = "nothing" if sharded else "only moving average and timestep norm"
            print(
                f"gecko-lab: microscope: of compiled layers ({', '.join(probe.hidden)}) it sees {shown}",
                file=sys.stderr,
                flush=True,
            )

    def _remember(self, step: int, results: dict[str, dict[str, Seen]]) -> None:
        history = self.history
        history.step, shares = step, {}
        history.half_lives, history.write_ratios = {}, {}
        for layer, parts in results.items():
            for part, seen in parts.items():
                if isinstance(seen, ShareSeen) and (share := seen.metrics()):
                    shares[layer] = share["share"]
                elif isinstance(seen, MovingAverageSeen):
                    history.half_lives[_label(layer, part)] = seen.histogram()
                elif isinstance(seen, MemorySeen) and (bins := seen.histogram()) is not None:
                    history.write_ratios[_label(layer, part)] = bins
        if shares:
            history.add_shares(step, shares)

    def _draw(self, trainer: Trainer) -> None:
        board = writer(trainer)
        if board is None:
            return
        for name, figure in draw(self.history).items():
            board.add_figure(f"microscope/{name}", figure, global_step=self.history.step)


def _label(layer: str, part: str) -> str:
    """The layer's name in a figure, with the part's where it is not the usual one."""
    return layer if part in ("moving_average", "memory") else f"{layer}/{part}"
