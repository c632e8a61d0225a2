"""A cell's settings as `fit` would read them, checked, and what its network costs."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from gecko_lab.assembly import assemble, merge, resolve
from gecko_lab.configuration import read_invocation
from gecko_lab.cost import Cost, network_cost
from gecko_lab.durations import in_steps
from gecko_lab.errors import ConfigurationError, UserError
from gecko_lab.grids.cells import Cell
from gecko_lab.grids.definition import Overrides
from gecko_lab.parser import one_line
from gecko_lab.training_command import Place, TrainingCLI

_NETWORK = "model.network"
_LIGHTNING_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")


@dataclass
class Variant:
    """A cell with everything that its runs have in common.

    Attributes:
        cell: its name, levels and overrides.
        settings: all settings of `fit`, resolved; those of a run differ in the seeds alone.
        vocab_size: tokens of the network.
        length: tokens of a sequence.
        tokens_per_step: that one optimiser step reads, over all devices.
        steps: optimiser steps of each run; none where only the data can tell.
        cost: of the network.
        matched: the dimensions that were solved.
        cost_before: of the network before that.
        predicted: `seconds_per_step`, `seconds` of a run, `memory_bytes`, as far as they are known.
    """

    cell: Cell
    settings: dict[str, Any]
    vocab_size: int
    length: int
    tokens_per_step: int
    steps: int | None
    cost: Cost
    matched: dict[str, int] = field(default_factory=dict)
    cost_before: Cost = field(init=False)
    predicted: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cost_before = self.cost

    @property
    def name(self) -> str:
        """The cell's name."""
        return self.cell.name

    def network(self, **dimensions: int) -> dict[str, Any]:
        """The resolved tree of `model.network`, with dimensions of its layer replaced."""
        tree: dict[str, Any] = self.settings["model"]["network"]
        return resolve(merge(tree, {"layer": dimensions})) if dimensions else tree

    def cost_with(self, **dimensions: int) -> Cost:
        """What the network costs with dimensions of its layer replaced.

        Raises:
            ConfigurationError: there is no such network.
        """
        return tree_cost(self.network(**dimensions), self.vocab_size, self.length)

    def take(self, dimensions: Mapping[str, int]) -> None:
        """Replace dimensions of the layer for good."""
        self.settings["model"]["network"] = self.network(**dimensions)
        self.cost = self.cost_with()
        self.matched |= dimensions

    def take_steps(self, steps: int) -> None:
        """Let every run take so many optimiser steps."""
        self.settings["trainer"]["max_steps"] = self.steps = steps

    def run_settings(self, seed: int) -> dict[str, Any]:
        """The settings of one run."""
        settings = copy.deepcopy(self.settings)
        settings["seed_everything"] = seed
        if "seed" in (settings.get("data") or {}):
            settings["data"]["seed"] = seed
        return settings


def tree_cost(tree: Mapping[str, Any], vocab_size: int, length: int) -> Cost:
    """The cost of the network of a tree, built on the meta device."""
    with torch.device("meta"):
        network = assemble({**tree, "vocab_size": tree.get("vocab_size") or vocab_size})
    return network_cost(network, length)


def read_variants(base: list[str], cells: Iterable[Cell]) -> list[Variant]:
    """Read every cell as `fit` would.

    Args:
        base: the arguments of `fit` that all cells share.
        cells: the cells.

    Raises:
        ConfigurationError: cells are wrong; one message names all of them.
    """
    read = {cell.name: _variant_or_mistake(base, cell) for cell in cells}
    mistakes = {name: result for name, result in read.items() if isinstance(result, str)}
    if mistakes:
        raise ConfigurationError(told(mistakes))
    return [result for result in read.values() if isinstance(result, Variant)]


def _variant_or_mistake(base: list[str], cell: Cell) -> Variant | str:
    try:
        return read_variant(base, cell)
    except UserError as error:
        return str(error)


def told(mistakes: Mapping[str, str]) -> str:
    """Every mistake, once, with the variants that make it."""
    variants: dict[str, list[str]] = {}
    for name, mistake in mistakes.items():
        variants.setdefault(mistake, []).append(name)
    lines = [f"{', '.join(names)}: {mistake}" for mistake, names in variants.items()]
    count = "one variant is" if len(mistakes) == 1 else f"{len(mistakes)} variants are"
    return "\n  ".join([f"{count} wrong, nothing was started:", *lines])


def read_variant(base: list[str], cell: Cell) -> Variant:
    """Read one cell as `fit` would, build its data module and its trainer, and its network on the meta device.

    Raises:
        UserError: as `fit` does.
    """
    invocation = read_invocation([*base, *flags(cell.overrides)])
    with _without_advice():
        try:
            read = _Reader(invocation)
        except MisconfigurationException as error:
            raise ConfigurationError(one_line(str(error))) from error
    settings, data, module, trainer = read.resolved, read.datamodule, read.model, read.trainer
    tree = settings["model"].get("network")
    if data is None or tree is None or not hasattr(data, "sequence_length"):
        raise ConfigurationError("module: a grid compares what has model.network and a data module of ours")
    vocab_size = tree.get("vocab_size") or data.vocab_size
    batch = data.batch_size * data.sequence_length * trainer.world_size
    tokens_per_step = module.settings.batch_tokens or batch * trainer.accumulate_grad_batches
    if tokens_per_step % batch:
        raise ConfigurationError(
            f"model.optimizer.batch_tokens: {tokens_per_step} is not a multiple of the {batch} tokens that all devices "
            "read at once (batch size × sequence length × devices)"
        )
    steps = trainer.max_steps if trainer.max_steps >= 0 else None
    if steps is None and module.settings.duration is not None:
        steps = in_steps(module.settings.duration, tokens_per_step, "model.optimizer.duration")
    cost = tree_cost(tree, vocab_size, data.sequence_length)
    return Variant(cell, settings, vocab_size, data.sequence_length, tokens_per_step, steps, cost)


def flags(overrides: Overrides) -> list[str]:
    """Overrides as flags of `fit`."""
    words = []
    for key, value in overrides.items():
        within_network = key == _NETWORK or key.startswith(f"{_NETWORK}.")
        if isinstance(value, str) and not within_network:
            text = value
        else:  # not JSON: its 1e-05 is text in YAML
            text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
            text = text.removesuffix("...\n").strip()
        words.append(f"--{key}={text}")
    return words


class _Reader(TrainingCLI):
    """`fit` up to where it would train; it leaves nothing on the disk."""

    resolved: dict[str, Any]

    def __init__(self, invocation: Any) -> None:
        super().__init__("fit", invocation, Place())

    def before_instantiate_classes(self) -> None:
        """Keep the settings; look for what a grid cannot have."""
        super().before_instantiate_classes()
        if self.config["fit"].trainer.fast_dev_run:
            raise ConfigurationError("trainer.fast_dev_run: leaves no run to compare")

    def _take_folder(self, settings: Any) -> None:
        self.resolved = yaml.safe_load(self._parser("fit").dump(settings, skip_none=False))
        if settings.trainer.devices in ("auto", -1, "-1"):  # of several GPUs each run is shown one
            settings.trainer.devices = 1

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without what Lightning says each time that it makes a trainer; the log of each run has it."""
    loggers = [logging.getLogger(name) for name in _LIGHTNING_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
