"""`gecko-lab bench decode`."""

from __future__ import annotations

import inspect
import json as json_format
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch

from gecko_lab.allocator import keep_freed_memory
from gecko_lab.bench import decode_table, machine
from gecko_lab.bench.decoding import (
    StateTooLarge,
    WrongDecoder,
    decode_tokens,
    decoder_of,
    read_in_pieces,
    state_at,
    stored_bytes,
)
from gecko_lab.bench.display import display
from gecko_lab.bench.model_gate import check_decoding
from gecko_lab.bench.models import BenchModel, OurModel, Recipe, build, matched
from gecko_lab.bench.options import at_least_one, device_of, names, new_folder, numbers, threads_of
from gecko_lab.bench.timing import Times, take_turns
from gecko_lab.bench.training import draw_tokens, parameter_dtype
from gecko_lab.errors import ConfigurationError

NAMES = ("gecko", "megalodon", "llama")

Tell = Callable[[str], None]


def decode(
    *,
    models: str = ",".join(NAMES),
    size: str = "15m",
    positions: str = "4096,1000000",
    batch_sizes: str = "1,8",
    tokens: int = 32,
    prefill: int = 8192,
    pieces: str = "512,8192",
    precision: Literal["32-true", "bf16-true"] = "32-true",
    vocab_size: int = 32_000,
    chunk_size: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    rounds: int = 5,
    out: str | None = None,
    json: bool = False,
) -> None:
    """Time decoding at positions near and far in a stream, and reading a prompt in pieces, beside Llama with a cache.

    Ours are first checked: logits token by token must be those of the references in float64 over the whole text. What
    is wrong gets no speed, and the exit code is 1. Then the models take turns: medians and spread of the rounds.

    Example: gecko-lab bench decode --positions 4096,65536 --batch_sizes 1

    Args:
        models: of gecko, megalodon, llama, with commas between; the widths of the later ones are solved for the
            number of parameters of the first.
        size: of the first one, by name.
        positions: tokens read before, with commas between; each is rounded down to where a chunk begins, so that the
            work of ours is the same at all of them. A cache that does not fit into memory is not measured.
        batch_sizes: streams that are decoded at once, with commas between.
        tokens: decoded for one sample.
        prefill: tokens of the prompt that is read in pieces.
        pieces: tokens of a piece, with commas between.
        precision: as `trainer.precision`.
        vocab_size: tokens of every model.
        chunk_size: of our attentions and memories; the size's by default.
        device: `cpu`, `cuda`, `cuda:1`, or `auto`: CUDA where there is one.
        threads: of PyTorch on CPU; what PyTorch takes by default.
        rounds: samples of each time.
        out: folder for decode.json, decode.png and decode.svg.
        json: print JSON.
    """
    options = {name: value for name, value in locals().items() if name != "json"}
    defaults = inspect.signature(decode).parameters
    given = [f"--{key} {value}" for key, value in options.items() if value != defaults[key].default]
    asked = names(models, list(NAMES), "--models")
    at_least_one(tokens=tokens, prefill=prefill, vocab_size=vocab_size, chunk_size=chunk_size)
    at_least_one(rounds=rounds, threads=threads)
    where, folder = device_of(device), new_folder(out, "--out")
    where_to, batches, parts = (
        numbers(text, flag)
        for text, flag in ((positions, "--positions"), (batch_sizes, "--batch_sizes"), (pieces, "--pieces"))
    )
    if where.type == "cpu":
        keep_freed_memory()  # as `gecko-lab fit` does
    with threads_of(threads), display() as tell:
        tell("the models' widths")
        recipes, remarks = matched(asked, size, vocab_size, chunk_size)
        dtype = parameter_dtype(precision)
        tell("the machine's ceilings")
        result: dict[str, Any] = {
            "command": " ".join(["gecko-lab bench decode", *given]),
            "size": size,
            "precision": precision,
            "vocab_size": vocab_size,
            "tokens": tokens,
            "prefill": prefill,
            "rounds": rounds,
            "remarks": remarks,
            "machine": machine.describe(where, dtype, "full"),
            "check": {},
        }
        for recipe in recipes:
            tell(f"{recipe.name}: check")
            result["check"][recipe.name] = check_decoding(recipe, precision, where).as_dict()
        sound = [recipe for recipe in recipes if result["check"][recipe.name]["green"]]
        if not result["check"][recipes[0].name]["green"]:
            sound = []  # what the others are compared with
        built = {one.name: build(one).to(where, dtype).eval() for one in sound}
        chunk = _chunk_size(sound, built)
        result["models"] = [
            {"name": one.name, "description": one.describe(), "parameters": sum(p.numel() for p in model.parameters())}
            for one, model in zip(sound, built.values(), strict=True)
        ]
        rounded = [_rounded(position, chunk) for position in where_to]
        result["positions"] = [
            one for batch in batches for one in _decode(built, batch, rounded, chunk, result, where, tell)
        ]
        result["prefills"] = [_prefill(built, piece, result, where, tell) for piece in parts]
        result["constancy"] = [
            {"name": name, "batch_size": batch, "ratio": constancy(result["positions"], name, batch)}
            for batch in batches
            for name in built
        ]
    if folder is not None:
        from gecko_lab.bench.plots import plot_decoding

        (folder / "decode.json").write_text(json_format.dumps(result, indent=2))
        plot_decoding(result, folder)
    print(json_format.dumps(result, indent=2)) if json else decode_table.show(result)
    if not all(verdict["green"] for verdict in result["check"].values()):
        sys.exit(1)


def _chunk_size(recipes: list[Recipe], models: dict[str, BenchModel]) -> int:
    """Timesteps of a chunk of our models; 1 where there are none."""
    for recipe in recipes:
        model = models[recipe.name]
        if isinstance(model, OurModel):
            return recipe.chunk_size or model.network.size.chunk_size
    return 1


def _rounded(position: int, chunk_size: int) -> int:
    if position < chunk_size:
        raise ConfigurationError(f"--positions: {position} lies within the first chunk of {chunk_size} tokens")
    return position // chunk_size * chunk_size


def _decode(
    models: dict[str, BenchModel],
    batch_size: int,
    positions: list[int],
    chunk_size: int,
    result: dict[str, Any],
    device: torch.device,
    tell: Tell,
) -> list[dict[str, Any]]:
    """The speed of every model at each position, and what its state takes there; positions take turns too."""
    title = f"batch {batch_size}"
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    runs: dict[tuple[str, str], Callable[[], object]] = {}
    first = draw_tokens((batch_size, 1), result["vocab_size"], device)
    for position in positions:
        for name, model in models.items():
            key = name, f"position {position:,}"
            row = rows[key] = {"name": name, "seconds": None, "state_bytes": None, "cuda_graph": False, "failure": None}
            tell(f"{title}: {name}, what was read before {key[1]}")
            try:
                state = state_at(model, batch_size, position, chunk_size, device)
                decoder = decoder_of(model, state, result["tokens"], device)
            except (StateTooLarge, WrongDecoder) as error:
                row["failure"] = str(error)
                continue
            row["state_bytes"] = stored_bytes(state)
            row["cuda_graph"] = decoder is not None
            runs[key] = partial(decode_tokens, model, first, state, result["tokens"], decoder)
    times = take_turns(runs, device, result["rounds"], lambda what: tell(f"{title}: {what}"))
    for key, of in times.items():
        rows[key] |= _speed(of, batch_size * result["tokens"])
    return [
        {
            "position": position,
            "batch_size": batch_size,
            "models": [rows[name, f"position {position:,}"] for name in models],
        }
        for position in positions
    ]


def _prefill(
    models: dict[str, BenchModel], piece: int, result: dict[str, Any], device: torch.device, tell: Tell
) -> dict[str, Any]:
    """The speed at which every model reads a prompt in pieces."""
    prompt = draw_tokens((1, result["prefill"]), result["vocab_size"], device)
    runs: dict[tuple[str, str], Callable[[], object]] = {
        (name, "prefill"): partial(read_in_pieces, model, prompt, piece) for name, model in models.items()
    }
    times = take_turns(runs, device, result["rounds"], lambda what: tell(f"pieces of {piece:,}: {what}"))
    rows = [{"name": name, "failure": None, **_speed(of, prompt.shape[1])} for (name, _), of in times.items()]
    return {"piece": piece, "models": rows}


def _speed(times: Times, num_tokens: int) -> dict[str, Any]:
    speeds = Times([num_tokens / seconds for seconds in times.samples])
    return {"seconds": times.as_dict(), "tokens_per_second": speeds.as_dict()}


def constancy(positions: list[dict[str, Any]], name: str, batch_size: int) -> float | None:
    """Tokens per second of a model at the last position over those at the first, the median of the rounds' ratios.

    None where one is missing.
    """
    rows = [
        row for one in positions for row in one["models"] if one["batch_size"] == batch_size and row["name"] == name
    ]
    if len(rows) < 2 or rows[0]["seconds"] is None or rows[-1]["seconds"] is None:
        return None
    first, last = (row["seconds"]["samples"] for row in (rows[0], rows[-1]))
    return statistics.median(near / far for near, far in zip(first, last, strict=True))
