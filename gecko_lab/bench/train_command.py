"""`gecko-lab bench train`."""

from __future__ import annotations

import inspect
import json as json_format
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch

from gecko_lab.allocator import keep_freed_memory, make_room
from gecko_lab.bench import machine, train_table
from gecko_lab.bench.display import display
from gecko_lab.bench.model_gate import check_training
from gecko_lab.bench.models import NAMES, OWN_LOSS, BenchModel, Recipe, build, matched
from gecko_lab.bench.options import at_least_one, device_of, names, new_folder, numbers, threads_of
from gecko_lab.bench.timing import Times, take_turns
from gecko_lab.bench.training import (
    Load,
    Precision,
    TrainingStep,
    draw_tokens,
    parameter_dtype,
    peak_bytes,
    predicted_bytes,
    product_dtype,
)

Tell = Callable[[str], None]


def train(
    *,
    models: str = ",".join(NAMES),
    size: str = "15m",
    lengths: str = "2048",
    batch_size: int = 1,
    precision: Precision = "32-true",
    vocab_size: int = 32_000,
    chunk_size: int | None = None,
    checkpoint_layers: bool | Literal["selective"] = False,
    device: str = "auto",
    threads: int | None = None,
    rounds: int = 5,
    measure: Literal["speed", "memory", "both"] = "both",
    out: str | None = None,
    compare: str | None = None,
    json: bool = False,
) -> None:
    """Time a training step of Gecko and Megalodon beside Llama and Mamba-2 of the same parameters.

    Ours are first checked: the logits and the gradient of a small model must be those of the references in float64.
    What is wrong gets no speed, and the exit code is 1. Then the models take turns on the same random tokens, forward,
    backward, clipping and AdamW: medians and spread of the rounds, the share of the measured matrix-product peak, and
    the peak memory of a step. Llama (with PyTorch's attention) and Mamba-2 are those of `transformers`, if installed.

    Example: gecko-lab bench train --lengths 2048,16384 --threads 2

    Args:
        models: of gecko, megalodon, llama, mamba2, with commas between; the first one is what the others are compared
            with, and their widths are solved for its number of parameters. All train with our loss; llama-own-loss
            is Llama with the one that it comes with.
        size: of the first one, by name.
        lengths: tokens of a sequence, with commas between; 16k is 16,384.
        batch_size: sequences of a step.
        precision: as `trainer.precision`.
        vocab_size: tokens of every model.
        chunk_size: of our attentions and memories; the size's by default.
        checkpoint_layers: recompute each layer in the backward pass, as `model.network.checkpoint_layers`.
        device: `cpu`, `cuda`, `cuda:1`, or `auto`: CUDA where there is one.
        threads: of PyTorch on CPU; what PyTorch takes by default.
        rounds: samples of each time.
        measure: `speed`, `memory` or `both`.
        out: folder for train.json, train.png and train.svg.
        compare: a git revision, of which the first model is timed in turns with the files as they are now.
        json: print JSON.
    """
    options = {name: value for name, value in locals().items() if name != "json"}
    defaults = inspect.signature(train).parameters
    given = [f"--{key} {value}" for key, value in options.items() if value != defaults[key].default]
    command = " ".join(["gecko-lab bench train", *given])
    asked, steps = names(models, [*NAMES, OWN_LOSS], "--models"), numbers(lengths, "--lengths")
    at_least_one(batch_size=batch_size, vocab_size=vocab_size, chunk_size=chunk_size, rounds=rounds, threads=threads)
    where, folder = device_of(device), new_folder(out, "--out")
    if compare is not None:
        from gecko_lab.bench.compare_command import compare_revisions

        options |= {"models": asked[0], "rounds": 1, "measure": "speed", "out": None, "compare": None}
        compare_revisions("train", options, compare, rounds, command, folder, json)
        return
    if where.type == "cpu":
        keep_freed_memory()  # as `gecko-lab fit` does
    with threads_of(threads), display() as tell:
        tell("the models' widths")
        recipes, remarks = matched(asked, size, vocab_size, chunk_size)
        recipes = [recipe._replace(checkpoint_layers=checkpoint_layers) for recipe in recipes]
        tell("the machine's ceilings")
        result: dict[str, Any] = {
            "command": command,
            "size": size,
            "batch_size": batch_size,
            "precision": precision,
            "checkpoint_layers": checkpoint_layers,
            "vocab_size": vocab_size,
            "rounds": rounds,
            "remarks": remarks,
            "machine": machine.describe(where, product_dtype(precision), "full"),
            "check": {},
        }
        for recipe in recipes:
            tell(f"{recipe.name}: check")
            result["check"][recipe.name] = check_training(recipe, precision, where).as_dict()
        sound = [recipe for recipe in recipes if result["check"][recipe.name]["green"]]
        if not result["check"][recipes[0].name]["green"]:
            sound = []  # what the others are compared with
        _measure(sound, steps, result, measure, where, tell)
    if folder is not None:
        from gecko_lab.bench.plots import plot_training

        (folder / "train.json").write_text(json_format.dumps(result, indent=2))
        plot_training(result, folder)
    print(json_format.dumps(result, indent=2)) if json else train_table.show(result)
    if not all(verdict["green"] for verdict in result["check"].values()):
        sys.exit(1)


def _measure(
    recipes: list[Recipe], lengths: list[int], result: dict[str, Any], what: str, device: torch.device, tell: Tell
) -> None:
    """Add the `models`, the `lengths` with what was measured at each, and the `memory` by token."""
    precision: Precision = result["precision"]
    built = {one.name: build(one).to(device, parameter_dtype(precision)) for one in recipes}
    result["models"] = [
        {"name": one.name, "description": one.describe(), "parameters": sum(p.numel() for p in model.parameters())}
        for one, model in zip(recipes, built.values(), strict=True)
    ]
    result["lengths"] = []
    for length in lengths:
        rows: dict[str, dict[str, Any]] = {
            one.name: {"name": one.name, "seconds": None, "bytes": None, "predicted_bytes": None, "failure": None}
            for one in recipes
        }
        if what != "speed":
            for recipe in recipes:
                tell(f"{length:,} tokens: {recipe.name}, memory")
                load = Load(recipe, result["batch_size"], length, precision, device, torch.get_num_threads())
                try:
                    rows[recipe.name]["bytes"] = peak_bytes(load)
                    rows[recipe.name]["predicted_bytes"] = predicted_bytes(load)
                except MemoryError as error:
                    rows[recipe.name]["failure"] = str(error)
        if what != "memory":
            shape = (result["batch_size"], length + 1)
            tokens = draw_tokens(shape, result["vocab_size"], device)
            runs = {
                (name, "step"): TrainingStep(model, tokens, precision)
                for name, model in built.items()
                if rows[name]["failure"] is None
            }
            measured = _times(runs, rows, device, result["rounds"], tell, length)
            tell("the machine's ceiling again")  # on a shared machine it is not the same before and after
            ceiling = machine.matmul_peak(device, product_dtype(precision), "full")
            of = result["machine"]
            of["matmul_flops_per_second"] = max(ceiling, of["matmul_flops_per_second"])
            for (name, _), times in measured.items():
                rows[name] |= _speed(times, built[name], tokens.shape[0] * length, length, result["machine"])
        result["lengths"].append({"length": length, "models": list(rows.values())})
    result["memory"] = [memory_by_token(name, result["lengths"]) for name in built]


def _times(
    runs: dict[tuple[str, str], TrainingStep],
    rows: dict[str, dict[str, Any]],
    device: torch.device,
    rounds: int,
    tell: Tell,
    length: int,
) -> dict[tuple[str, str], Times]:
    """The times of what the device has memory for."""
    if device.type == "cuda":
        for name, _ in runs:
            rows[name]["failure"] = _out_of_memory(runs[name, "step"])
    fitting = {key: step for key, step in runs.items() if rows[key[0]]["failure"] is None}

    def before(what: str) -> None:
        tell(f"{length:,} tokens: {what}")
        if device.type == "cpu":
            make_room()  # for one model after another, where the memory does not hold what both freed

    return take_turns(fitting, device, rounds, before)


def _out_of_memory(step: TrainingStep) -> str | None:
    """What the device says if it has too little for a step."""
    try:
        step()
    except torch.OutOfMemoryError as error:
        return str(error).splitlines()[0]
    return None


def _speed(times: Times, model: BenchModel, num_tokens: int, length: int, ceilings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a step, tokens per second, and FLOPs per second over the peak of matrix products.

    A backward pass has twice the FLOPs of the forward pass; what is only computed again is not counted.
    """
    flops = 3 * model.flops_per_token(length) * num_tokens
    return {
        "seconds": times.as_dict(),
        "tokens_per_second": Times([num_tokens / seconds for seconds in times.samples]).as_dict(),
        "flops": flops,
        "peak_share": flops / times.median / ceilings["matmul_flops_per_second"],
    }


def memory_by_token(name: str, lengths: list[dict[str, Any]]) -> dict[str, Any]:
    """How the peak of a step grows: `bytes_per_token` between neighbouring lengths, and the last over the first.

    Args:
        name: of the model.
        lengths: of the result, in any order.
    """
    known = sorted(
        (one["length"], row["bytes"])
        for one in lengths
        for row in one["models"]
        if row["name"] == name and row["bytes"] is not None
    )
    slopes = [{"from": a[0], "to": b[0], "bytes_per_token": (b[1] - a[1]) / (b[0] - a[0])} for a, b in pairwise(known)]
    first, last = (slopes[i]["bytes_per_token"] if slopes else 0 for i in (0, -1))
    return {"name": name, "slopes": slopes, "growth": last / first if len(slopes) > 1 and first > 0 else None}
