"""`gecko-lab fit|validate|test|predict`: LightningCLI on our modules and data."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning import Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from gecko_lab.allocator import keep_freed_memory
from gecko_lab.assembly import resolve
from gecko_lab.callbacks import (
    LossByPosition,
    Microscope,
    Norms,
    Predictions,
    Progress,
    Stability,
    Summary,
    TextSample,
    Throughput,
)
from gecko_lab.configuration import Invocation, read_invocation
from gecko_lab.data.text import TextDataModule
from gecko_lab.errors import ConfigurationError, UserError
from gecko_lab.modules import MODULES, find_module
from gecko_lab.parser import HintingMixin, numbers_first, one_line
from gecko_lab.runs import loops, restoring
from gecko_lab.runs.checkpoint_folder import CheckpointFolder, check_readable, step_of
from gecko_lab.runs.checkpoint_io import DirectCheckpointIO
from gecko_lab.runs.checkpoints import Checkpoints, cannot_write
from gecko_lab.runs.event_files import StepTensorBoardLogger, keep_until
from gecko_lab.runs.exact_resume import ExactResume
from gecko_lab.runs.files import write_yaml
from gecko_lab.runs.folder import RunFolder, find_place, numbered
from gecko_lab.runs.metrics_log import MetricsLog
from gecko_lab.runs.record import Record
from gecko_lab.runs.record_file import CONFIG_FILE
from gecko_lab.runs.signals import Interrupted

DESCRIPTION = """
Every option is a key of the YAML and a flag: `--config FILE.yaml` (several are merged, the last wins; files of
experiments/ are found from anywhere), `--model.network.size 15m`, `--model.network.layer.memory AdditiveMemory`,
`--data.sources FOLDER`, `--trainer.max_steps 1000`. `--run DIR` names the run's folder; the same command again goes on
where the run stopped, and `--fresh` starts over beside it. `--print_config` prints every option with its value.

Example: gecko-lab fit --config quickstart.yaml --model.network.layer.memory.capacity 2 --run runs/capacity-2
"""


class TrainingParser(HintingMixin, LightningArgumentParser):
    """LightningCLI's parser with messages of ours."""


class Finished(Exception):
    """There is nothing to do: the run was trained to its end before."""


@dataclass
class Place:
    """Where a verb works, known once its options are: for cleaning up after an error.

    Attributes:
        path: the folder; none for a trial run.
        run: a training's folder, held by this process.
    """

    path: Path | None = None
    run: RunFolder | None = None


class TrainingCLI(LightningCLI):
    """LightningCLI that keeps each run in a folder, and goes on with the run that is there."""

    def __init__(self, verb: str, invocation: Invocation, place: Place) -> None:
        self._invocation, self._place = invocation, place
        self._main_process = getattr(rank_zero_only, "rank", 0) == 0
        self._resumed_step: int | None = None
        module = find_module(invocation.module)
        network = json.dumps(resolve(invocation.network))
        super().__init__(
            module,
            getattr(module, "data_class", TextDataModule),
            save_config_callback=None,
            trainer_defaults={
                "callbacks": [Throughput(), LossByPosition(), Predictions(), ExactResume()],
                "log_every_n_steps": 10,
                "enable_model_summary": False,  # `Summary` says more, and counts our FLOPs
            },
            seed_everything_default=0,
            parser_class=TrainingParser,
            parser_kwargs={"prog": "gecko-lab", "description": DESCRIPTION, "allow_abbrev": False},
            auto_configure_optimizers=False,
            args=[verb, *invocation.arguments, "--model.network", network],
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks that have options worth a key."""
        parser.add_argument(
            "--module",
            default=self._invocation.module,
            help=f"What is learned: {', '.join(MODULES)}, or the import path of a LightningModule of your own.",
        )
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(TextSample, "text_sample")
        parser.add_lightning_class_args(Summary, "summary")
        parser.add_lightning_class_args(Stability, "stability")
        parser.add_lightning_class_args(Norms, "norms")
        parser.add_lightning_class_args(Microscope, "microscope")
        numbers_first(parser)

    def _parse_ckpt_path(self) -> None:
        """Lightning takes the network's options from the checkpoint here: look at it first."""
        checkpoint = str(self.config[self.config["subcommand"]].get("ckpt_path") or "")
        if checkpoint and "://" not in checkpoint:
            check_readable(Path(checkpoint).expanduser())
        super()._parse_ckpt_path()

    def before_instantiate_classes(self) -> None:
        """Look for mistakes that would show late; settings that follow from others; the run's folder."""
        settings = self.config[str(self.subcommand)]
        trainer, checkpoint = settings.trainer, settings.get("ckpt_path") or ""
        if self.subcommand != "fit" and not checkpoint:
            raise ConfigurationError("--ckpt_path: which checkpoint? They stand in a run's folder under checkpoints/")
        if trainer.default_root_dir is not None:
            raise ConfigurationError("trainer.default_root_dir: name the run's folder with --run instead")
        if settings.get("weights_only") is None:  # Lightning would unpickle what it fetches from afar
            settings.weights_only = True
        if trainer.max_epochs is None and trainer.max_steps == -1 and trainer.max_time is None:
            if self.subcommand == "fit" and settings.model.optimizer.duration is None and not trainer.fast_dev_run:
                raise ConfigurationError(
                    "how long is the training? Give trainer.max_steps, trainer.max_epochs or model.optimizer.duration"
                )
            trainer.max_epochs = -1  # not Lightning's 1000: the duration ends it
        if isinstance(trainer.val_check_interval, int) and trainer.check_val_every_n_epoch == 1:
            trainer.check_val_every_n_epoch = None  # batches are counted on from epoch to epoch
        if not trainer.fast_dev_run:  # a trial run leaves nothing behind
            self._take_folder(settings)

    def _take_folder(self, settings: Any) -> None:
        """Find the folder, and what is to be gone on with."""
        resolved = yaml.safe_load(self._parser(self.subcommand).dump(settings, skip_none=False))
        if self.subcommand == "fit":
            self._take_training_folder(settings, resolved)
            return
        name = f"{self.subcommand}-{self._invocation.name}"
        path = self._invocation.run or next(path for path in numbered(Path("runs") / name) if not path.exists())
        if self._main_process:
            if path.exists() and any(path.iterdir()):
                raise ConfigurationError(f"--run: {path} holds a run already; name another folder")
            path.mkdir(parents=True, exist_ok=True)
            write_yaml(path / CONFIG_FILE, resolved)
        self._place.path = path

    def _take_training_folder(self, settings: Any, resolved: dict[str, Any]) -> None:
        fresh, main_process = self._invocation.fresh, self._main_process
        path = find_place(self._invocation.run, self._invocation.name, resolved, fresh=fresh, main_process=main_process)
        self._place.path = path
        if not main_process:
            checkpoint = CheckpointFolder(path / "checkpoints").newest(set_aside=False)
            settings.ckpt_path = str(checkpoint) if checkpoint is not None else settings.get("ckpt_path")
            return
        self._place.run = run = RunFolder(path, resolved)
        run.claim(["gecko-lab", *sys.argv[1:]])
        if run.is_finished:
            raise Finished(_finished(run))
        if run.checkpoint is not None:
            settings.ckpt_path = str(run.checkpoint)
        if len(run.record["starts"]) > 1:
            self._resumed_step = 0 if run.checkpoint is None else step_of(run.checkpoint)
            where = (
                "the beginning: there is no checkpoint" if run.checkpoint is None else f"step {self._resumed_step:,}"
            )
            print(f"run folder   {path}, going on from {where}", flush=True)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Lightning's trainer in the run's folder, which the configuration does not name: it can be used again."""
        trainer = self._get(self.config_init, "trainer")
        if trainer.enable_progress_bar is not False:
            self.trainer_defaults["callbacks"].append(Progress())
        if self._place.path is not None:
            kwargs["default_root_dir"] = str(self._place.path)
            if trainer.logger in (None, True):
                fitting = self.subcommand == "fit"
                if self._main_process and fitting:
                    keep_until(self._place.path, self._resumed_step or 0)
                kwargs["logger"] = [
                    StepTensorBoardLogger(self._place.path, first_step=int(fitting)),
                    MetricsLog(self._place.path, self._resumed_step, first_step=int(fitting)),
                ]
        given = trainer.plugins if isinstance(trainer.plugins, list) else [trainer.plugins] if trainer.plugins else []
        kwargs["plugins"] = [*given, DirectCheckpointIO()]
        if self._place.run is not None:
            self.trainer_defaults["callbacks"].append(Record(self._place.run))
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except ValueError as error:
            raise ConfigurationError(f"trainer: {one_line(str(error))}") from error
        if trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        loops.install(trainer)
        restoring.install(trainer)
        return trainer


def run(verb: str, arguments: list[str]) -> int:
    """Run one of Lightning's verbs.

    Returns:
        The exit code: 0, or 128 and the number of the signal that interrupted a training.

    Raises:
        UserError: for a user's mistake, before any work; for what stops a training for good.
    """
    _silence()
    place = Place()
    try:
        TrainingCLI(verb, read_invocation(arguments), place)
    except Finished as finished:
        print(finished)
    except Interrupted as interrupted:
        if place.run is not None:
            with suppress(OSError):
                place.run.end("interrupted")
            where = "no checkpoint" if interrupted.step is None else f"a checkpoint of step {interrupted.step:,}"
            print(f"gecko-lab: stopped by {interrupted} with {where}; the same command goes on", file=sys.stderr)
        return 128 + interrupted.signum
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        told = _as_user_error(error, place)
        _close(place.run, told)
        if told is error:
            raise
        raise told from error
    return 0


def _as_user_error(error: BaseException, place: Place) -> BaseException:
    """The one message for what Lightning, PyTorch and the disk say about a user's mistake; else the error itself."""
    if isinstance(error, MisconfigurationException):
        return ConfigurationError(one_line(str(error)))
    if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
        return KeyboardInterrupt()  # Lightning has made an exit code of it
    if isinstance(error, OSError) and place.path is not None:
        storage = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO)
        named = Path(os.fsdecode(error.filename or "/")).absolute()
        inside = named.is_relative_to(place.path.absolute())
        if error.errno in storage or inside:
            return cannot_write(place.path, error)
    return error


def _close(folder: RunFolder | None, error: BaseException) -> None:
    """Write down how a run ended; leave nothing where it never began."""
    if folder is None or (isinstance(error, SystemExit) and error.code in (0, None)):
        return
    with suppress(OSError):
        if folder.is_untouched:
            folder.forget()
        elif isinstance(error, UserError):
            folder.end("failed", error=str(error))
        elif isinstance(error, (SystemExit, KeyboardInterrupt)):
            folder.end("interrupted")
        else:
            folder.end("failed", error=f"{type(error).__name__}: {error}")


def _finished(folder: RunFolder) -> str:
    progress, metrics = folder.record.get("progress", {}), folder.record.get("metrics", {})
    reached = f", validation loss {metrics['loss/validation']:.4f}" if "loss/validation" in metrics else ""
    folder.release()
    return (
        f"run folder   {folder.path}: finished, {progress.get('step', 0):,} steps, {progress.get('tokens', 0):,} "
        f"tokens{reached}; --fresh trains it again beside this one"
    )


def _silence() -> None:
    """Keep advice and warnings that do not concern the user to ourselves."""
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    # Lightning 2.6 calls what jsonargparse 5 will not have; pyproject.toml holds it below 5
    warnings.filterwarnings("ignore", message=r"(?s).* was deprecated in v4\.\d+\.\d+")
    warnings.filterwarnings("ignore", message=r"\s*By default only one JsonargparseDeprecationWarning")
    warnings.filterwarnings("ignore", message=r".isinstance\(treespec, LeafSpec\). is deprecated")
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)  # config.yaml says the seed
    advertisement = "\N{ELECTRIC LIGHT BULB} Tip:"
    lightning = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    lightning.addFilter(lambda record: not record.getMessage().startswith(advertisement))
