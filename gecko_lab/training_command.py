"""`gecko-lab fit|validate|test|predict`: LightningCLI on our model and data."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from gecko_lab.assembly import resolve
from gecko_lab.callbacks import LossByPosition, Predictions, Progress, Summary, TextSample, Throughput
from gecko_lab.configuration import Invocation, read_invocation
from gecko_lab.data.text import TextDataModule
from gecko_lab.errors import ConfigurationError, UserError
from gecko_lab.language_model import LanguageModel
from gecko_lab.parser import HintingMixin, one_line

DESCRIPTION = """
Every option is a key of the YAML and a flag: `--config FILE.yaml` (several are merged, the last wins; files of
experiments/ are found from anywhere), `--model.network.size 15m`, `--model.network.layer.memory AdditiveMemory`,
`--data.sources FOLDER`, `--trainer.max_steps 1000`. `--run DIR` names the run's folder; `--print_config` prints every
option with its value and stops.

Example: gecko-lab fit --config quickstart.yaml --model.network.layer.memory.capacity 2 --run runs/capacity-2
"""


class TrainingParser(HintingMixin, LightningArgumentParser):
    """LightningCLI's parser with messages of ours."""


class TrainingCLI(LightningCLI):
    """LightningCLI that keeps each run in a folder."""

    def __init__(self, invocation: Invocation, arguments: list[str]) -> None:
        self._run = invocation.run
        super().__init__(
            LanguageModel,
            TextDataModule,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "callbacks": [Throughput(), LossByPosition(), Predictions()],
                "log_every_n_steps": 10,
                "enable_model_summary": False,  # `Summary` says more, and counts our FLOPs
            },
            seed_everything_default=0,
            parser_class=TrainingParser,
            parser_kwargs={"prog": "gecko-lab", "description": DESCRIPTION, "allow_abbrev": False},
            auto_configure_optimizers=False,
            args=arguments,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks that have options worth a key."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": True})
        parser.add_lightning_class_args(TextSample, "text_sample")
        parser.add_lightning_class_args(Summary, "summary")

    def before_instantiate_classes(self) -> None:
        """Look for mistakes that would show late; settings that follow from others."""
        settings = self.config[str(self.subcommand)]
        trainer, checkpoint = settings.trainer, settings.get("ckpt_path") or ""
        if self.subcommand != "fit" and not checkpoint:
            raise ConfigurationError("--ckpt_path: which checkpoint? They stand in a run's folder under checkpoints/")
        if settings.get("weights_only") is None:  # Lightning would unpickle what it fetches from afar
            settings.weights_only = True
        if trainer.fast_dev_run:  # a trial run leaves nothing behind
            settings.checkpoint.save_last = False
        if trainer.max_epochs is None and trainer.max_steps == -1 and trainer.max_time is None:
            if self.subcommand == "fit" and settings.model.optimizer.duration is None and not trainer.fast_dev_run:
                raise ConfigurationError(
                    "how long is the training? Give trainer.max_steps, trainer.max_epochs or model.optimizer.duration"
                )
            trainer.max_epochs = -1  # not Lightning's 1000: the duration ends it
        if isinstance(trainer.val_check_interval, int) and trainer.check_val_every_n_epoch == 1:
            trainer.check_val_every_n_epoch = None  # batches are counted on from epoch to epoch
        named = checkpoint in ("", "best", "last", "hpc") or checkpoint.startswith("registry") or "://" in checkpoint
        if not named and not Path(checkpoint).expanduser().exists():
            raise ConfigurationError(f"--ckpt_path: there is no checkpoint {checkpoint}")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Lightning's trainer in the run's folder, which the configuration does not name: it can be used again."""
        trainer = self._get(self.config_init, "trainer")
        if trainer.enable_progress_bar is not False:
            self.trainer_defaults["callbacks"].append(Progress())
        if trainer.default_root_dir is None:
            kwargs["default_root_dir"] = str(self._run)
        if trainer.logger in (None, True):
            kwargs["logger"] = [
                TensorBoardLogger(self._run, name="", version="", default_hp_metric=False),
                CSVLogger(self._run, name="", version=""),
            ]
        try:
            return super().instantiate_trainer(**kwargs)
        except ValueError as error:
            raise ConfigurationError(f"trainer: {one_line(str(error))}") from error


def run(verb: str, arguments: list[str]) -> None:
    """Run one of Lightning's verbs.

    Raises:
        ConfigurationError: for a user's mistake, before any work.
    """
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    # Lightning 2.6 calls what jsonargparse 5 will not have; pyproject.toml holds it below 5
    warnings.filterwarnings("ignore", message=r"(?s).* was deprecated in v4\.\d+\.\d+")
    warnings.filterwarnings("ignore", message=r"\s*By default only one JsonargparseDeprecationWarning")
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # each run has a folder of its own
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message=r".isinstance\(treespec, LeafSpec\). is deprecated")
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)  # config.yaml says the seed
    advertisement = "\N{ELECTRIC LIGHT BULB} Tip:"
    lightning = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    lightning.addFilter(lambda record: not record.getMessage().startswith(advertisement))
    invocation = read_invocation(arguments)
    if getattr(rank_zero_only, "rank", 0) == 0 and (invocation.run / "config.yaml").exists():
        raise ConfigurationError(f"--run: {invocation.run} holds a run already; name another folder")
    network = json.dumps(resolve(invocation.network))
    try:
        TrainingCLI(invocation, [verb, *invocation.arguments, "--model.network", network])
    except (UserError, MisconfigurationException, UnpicklingError) as error:
        _forget(invocation.run)
        if isinstance(error, UserError):
            raise
        if isinstance(error, UnpicklingError):
            raise ConfigurationError(
                "--ckpt_path: not a checkpoint, or one that holds more than plain values"
            ) from error
        raise ConfigurationError(one_line(str(error))) from error  # what Lightning finds wrong in the options


def _forget(run: Path) -> None:
    """Remove what a run left that a mistake ended before its first step: the folder's name is free again."""
    made = [*run.glob("config.yaml"), *run.glob("hparams.yaml"), *run.glob("events.out.tfevents.*")]
    if made and set(run.iterdir()) == set(made):
        for path in made:
            path.unlink(missing_ok=True)
        run.rmdir()
        if run.parent == Path("runs") and not any(run.parent.iterdir()):
            run.parent.rmdir()
