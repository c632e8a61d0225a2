"""Folders of grids and runs as training leaves them, written in milliseconds without training."""

import copy
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

TOKENS_PER_STEP = 16_384
PARAMETERS = 15_000_000
FLOPS_PER_TOKEN = 30e6
STEPS_PER_ROW = 10
VALIDATIONS = 8  # of each run
DISTANCES = ("0000002-0000003", "0000004-0000007", "0000016-0000031", "0000064-0000127")
NUM_BINS = 24  # of the loss by position
ENVIRONMENT: dict[str, Any] = {
    "gecko_lab": "0.1.0",
    "commit": "998ffe22343d",
    "python": "3.11.7",
    "torch": "2.13.0+cpu",
    "lightning": "2.6.6",
    "system": "Linux-6.1-x86_64",
    "device": "AMD EPYC",
    "devices": 1,
    "precision": "32-true",
    "threads": 2,
}
CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "module": "LanguageModel",
    "model": {"network": {"size": "15m", "layer": {"class_path": "GeckoLayer", "init_args": {"chunk_size": 128}}}},
    "data": {"sources": "stdlib", "sequence_length": 2048, "batch_size": 8, "seed": 0},
    "trainer": {"max_steps": None},
}


def write_grid(
    folder: Path,
    *,
    axes: Mapping[str, Sequence[str]] | None = None,
    num_variants: int = 3,
    num_seeds: int = 3,
    num_rows: int = 40,
    effect: float = 0.05,
    noise: float = 0.004,
    states: Mapping[tuple[int, int], str] | None = None,
    recall: bool = False,
    names: Mapping[int, str] | None = None,
    commits: Mapping[tuple[int, int], str] | None = None,
    question: str = "What does the memory add?",
    design: str | None = None,
) -> Path:
    """Write a grid with all its runs; returns the path of its `grid.json`.

    Variant v ends at `3 + effect * v + noise` nats (with several axes v is the sum of the levels' places, so that
    there is no interaction); the noise of a seed is partly shared by all variants, as with paired seeds.

    Args:
        folder: of the grid, such as `runs/ablate`.
        axes: levels by axis, all combinations of which are variants; by default one axis of `num_variants` levels.
        num_variants: levels of the one axis, where there are no `axes`.
        num_seeds: seeds 0, 1, … of each variant.
        num_rows: training rows of each `metrics.csv`; validation adds a few.
        effect: nats between neighbouring variants.
        noise: standard deviation over seeds, in nats.
        states: by (variant, seed): `running`, `interrupted`, `failed`, `missing` (no folder), `nan` (finished, its
            last losses are not numbers); all others are `finished`.
        recall: a synthetic task, with accuracies by distance and without bits per byte.
        names: replace names of variants.
        commits: replace commits, by (variant, seed).
        question: what the grid asks.
        design: of the grid; by default `product`.
    """
    axes = {axis: list(levels) for axis, levels in (axes or {"memory": _levels(num_variants)}).items()}
    base = {axis: levels[0] for axis, levels in axes.items()}
    cells = [dict(zip(axes, levels, strict=True)) for levels in itertools.product(*axes.values())]
    variants = []
    for v, levels in enumerate(cells):
        name = (names or {}).get(v, "_".join(f"{axis}-{level}" for axis, level in levels.items()))
        place = sum(axes[axis].index(level) for axis, level in levels.items())
        overrides = {f"model.network.layer.{axis}": level for axis, level in levels.items() if level != base[axis]}
        runs = []
        for seed in range(num_seeds):
            path = folder / f"variant-{v}" / f"seed-{seed}"
            state = (states or {}).get((v, seed), "finished")
            draw = np.random.default_rng([seed, 7]).normal(0, noise) + np.random.default_rng([seed, v]).normal(0, noise)
            if state != "missing":
                write_run(
                    path,
                    seed=seed,
                    final=3.0 + effect * place + draw,
                    num_rows=num_rows,
                    state=state,
                    overrides=overrides,
                    identity=f"{v:08x}{seed:08x}",
                    recall=recall,
                    commit=(commits or {}).get((v, seed), ENVIRONMENT["commit"]),
                )
            runs.append({"seed": seed, "folder": path.relative_to(folder).as_posix()})
        cost = {
            "parameters": PARAMETERS + 1000 * v,
            "flops_per_token": FLOPS_PER_TOKEN * (1 + 0.1 * v),
            "state_bytes": 1_000_000 + 50_000 * v,
            "tokens_per_step": TOKENS_PER_STEP,
        }
        variants.append(
            {
                "name": name,
                "levels": levels,
                "overrides": overrides,
                "cost": cost,
                "matched": {},
                "steps": num_rows * STEPS_PER_ROW,
                "runs": runs,
            }
        )
    grid = {
        "format": "gecko-lab-grid",
        "format_version": 1,
        "name": folder.name,
        "config": f"{folder.name}.yaml",
        "question": question,
        "axes": axes,
        "base": base,
        "design": design or "product",
        "seeds": list(range(num_seeds)),
        "metric": "accuracy/validation" if recall else "loss/validation",
        "mode": "max" if recall else "min",
        "match": "parameters",
        "budget": f"{num_rows * STEPS_PER_ROW} steps",
        "variants": variants,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "grid.json"
    path.write_text(json.dumps(grid, indent=2), encoding="utf-8")
    return path


def write_run(
    path: Path,
    *,
    seed: int = 0,
    final: float = 3.0,
    num_rows: int = 40,
    state: str = "finished",
    overrides: Mapping[str, Any] | None = None,
    identity: str = "0123456789abcdef",
    recall: bool = False,
    commit: str = ENVIRONMENT["commit"],
) -> Path:
    """Write one run folder; returns it. See `write_grid`."""
    path.mkdir(parents=True)
    rows = num_rows if state in ("finished", "nan") else num_rows // 2
    table = metrics(seed=seed, final=final, num_rows=num_rows, recall=recall).query(f"step <= {rows * STEPS_PER_ROW}")
    if state == "nan":
        table = table.copy()
        for name in ("loss/train", "loss/validation"):
            written = table[name].notna()
            table.loc[written & (table["step"] > 0.9 * rows * STEPS_PER_ROW), name] = float("nan")
            # pandas leaves a missing value empty; the log writes `nan`
            table[name] = table[name].astype(object).where(table[name].notna() | ~written, "nan")
    table.to_csv(path / "metrics.csv", index=False)
    steps = rows * STEPS_PER_ROW
    validations = table[table["epoch"].notna() & table["loss/train"].isna()]
    last = validations.iloc[-1] if len(validations) else None
    reached = (
        {}
        if last is None
        else {name: float(last[name]) for name in table if "/validation" in name} | {"step": int(last["step"])}
    )
    start = {
        "time": "2026-11-22T04:17:42Z",
        "host": "node1",
        "pid": 4321,
        "command": ["gecko-lab", "fit", "--config", "ablate.yaml", f"--seed_everything={seed}"]
        + [f"--{key}={value}" for key, value in (overrides or {}).items()],
        "environment": ENVIRONMENT | {"commit": commit},
        "step": 0,
    }
    ended = {"finished": "finished", "nan": "finished", "failed": "failed", "interrupted": "interrupted"}.get(state)
    if ended is not None:
        start |= {"end": "2026-11-22T05:17:42Z", "state": ended}
    record = {
        "format": "gecko-lab-run",
        "format_version": 1,
        "state": ended or "running",
        "identity": identity,
        "name": path.name,
        "created": "2026-11-22T04:17:42Z",
        "seed": seed,
        "starts": [start],
        "cost": {
            "parameters": PARAMETERS,
            "flops_per_token": FLOPS_PER_TOKEN,
            "state_bytes": 1_000_000,
            "tokens_per_step": TOKENS_PER_STEP,
        },
        "data": "7a8f3f7bdc5236fc4024f848f191f483",
        "progress": {
            "step": steps,
            "steps": num_rows * STEPS_PER_ROW,
            "tokens": steps * TOKENS_PER_STEP,
            "seconds": round(steps * 0.9, 1),
        },
        "metrics": {name: value for name, value in reached.items() if np.isfinite(value)},
    }
    if state == "failed":
        record["error"] = "OutOfMemoryError: the device has no memory left <here>"
    (path / "run.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    config = copy.deepcopy(CONFIG)
    config["seed_everything"] = config["data"]["seed"] = seed
    config["trainer"]["max_steps"] = num_rows * STEPS_PER_ROW
    for key, value in (overrides or {}).items():
        *parents, leaf = key.split(".")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    if not recall and len(validations):
        _write_loss_by_position(path, int(validations["step"].iloc[-1]), final)
    return path


def metrics(*, seed: int, final: float, num_rows: int, recall: bool = False) -> pd.DataFrame:
    """What `metrics.csv` holds, in the order of its rows."""
    draw = np.random.default_rng([seed, num_rows])
    steps = STEPS_PER_ROW * np.arange(1, num_rows + 1)
    share = steps / steps[-1]
    loss = final + 3.0 * np.exp(-6 * share) - 3.0 * np.exp(-6) + draw.normal(0, 0.02, num_rows)
    speed = 18_000 + draw.normal(0, 200, num_rows)
    columns: dict[str, Any] = {
        "step": steps,
        "epoch": 0,
        "gradient_norm": 1 + draw.random(num_rows),
        "learning_rate": 2e-3 * (1 - 0.9 * share),
        "loss/train": loss,
        "skipped_steps": 0.0,
        "spike_score/gradient_norm": 0.0,
        "spike_score/loss": 0.0,
        "tokens": (steps * TOKENS_PER_STEP).astype(float),
        "loader_wait": 0.005,
        "model_flops_per_second": 3 * FLOPS_PER_TOKEN * speed,
        "peak_memory_bytes": 2.5e9 + 1e6 * draw.random(num_rows),
        "tokens_per_second": speed,
    }
    at = np.unique(np.linspace(1, num_rows, min(VALIDATIONS, num_rows)).round().astype(int))
    part = at / num_rows
    validation = final + 3.0 * (np.exp(-6 * part) - np.exp(-6))
    measured: dict[str, Any] = {"step": steps[at - 1], "epoch": 0, "loss/validation": validation}
    if recall:
        accuracy = np.clip(1.2 - 0.3 * (validation - 2.0), 0.0625, 1)
        measured |= {"accuracy/validation": accuracy, "exact_match/validation": accuracy**4}
        for i, distance in enumerate(DISTANCES):
            measured[f"accuracy/validation/distance_{distance}"] = np.clip(accuracy * (1 - 0.15 * i), 0.0625, 1)
    else:
        measured |= {
            "bits_per_byte/validation": validation / np.log(2) / 3,
            "perplexity/validation": np.exp(validation),
        }
    table = pd.concat([pd.DataFrame(columns), pd.DataFrame(measured)], ignore_index=True)
    return table.sort_values("step", kind="stable", ignore_index=True)


def _levels(number: int) -> list[str]:
    return ["base", *(f"level-{i}" for i in range(1, number))]


def _write_loss_by_position(path: Path, step: int, final: float) -> None:
    edges = np.unique(np.geomspace(1, 2049, NUM_BINS + 1).round().astype(int))
    first, last = edges[:-1], edges[1:] - 1
    losses = final + 2.0 / np.sqrt(first)
    curve = {
        "step": step,
        "loss": final,
        "positions": [[int(a), int(b)] for a, b in zip(first, last, strict=True)],
        "losses": [float(loss) for loss in losses],
    }
    content = {"format": "gecko-lab-loss-by-position", "format_version": 1, "last": curve, "best": curve}
    (path / "loss_by_position.json").write_text(json.dumps(content), encoding="utf-8")
