"""Hugging Face datasets as sources, streamed: `hf:NAME[:CONFIG[:SPLIT]]`, by name or local folder."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gecko_lab.data.errors import DataError
from gecko_lab.data.sources import DATASET_SHARD, HUGGING_FACE, SourceFile


def resolve_dataset(specification: str) -> list[SourceFile]:
    """The shards of the dataset, in order; only its description is read.

    Arguments:
        specification: `hf:NAME`, `hf:NAME:CONFIG` or `hf:NAME:CONFIG:SPLIT`; NAME is that of a dataset on the hub or
            a local folder, CONFIG may be empty for the only one, SPLIT is `train` where it is left out.

    Raises:
        DataError: `datasets` is not installed, there is no such dataset, configuration or split, or the hub cannot be
            reached.
    """
    name, config, split = _parse(specification)
    location = f"{HUGGING_FACE}{name}:{config or ''}:{split}"
    version, sizes = _description(name, config, split)
    num_shards = _dataset(name, config, split, version).num_shards
    if len(sizes) != num_shards:
        sizes = [None] * num_shards
    return [
        SourceFile(location, DATASET_SHARD, location, size, version, shard=shard) for shard, size in enumerate(sizes)
    ]


def read_rows(file: SourceFile, text_field: str) -> Iterator[dict[str, Any]]:
    """The rows of a shard; the text field alone where the dataset says that it has it.

    Raises:
        DataError: the dataset cannot be loaded or reached any more.
        Exception: whatever `datasets` raises where the shard is broken.
    """
    dataset = _dataset(*_parse(file.location), file.version)
    if dataset.column_names is not None and text_field in dataset.column_names:
        dataset = dataset.select_columns([text_field])
    if dataset.num_shards > 1:
        dataset = dataset.shard(num_shards=dataset.num_shards, index=file.shard)
    yield from dataset


def is_local(file: SourceFile) -> bool:
    """Whether the dataset lies on this machine."""
    return os.path.exists(os.path.expanduser(_parse(file.location)[0]))


def _parse(specification: str) -> tuple[str, str | None, str]:
    name, _, rest = specification.removeprefix(HUGGING_FACE).partition(":")
    config, _, split = rest.partition(":")
    if not name or ":" in split:
        raise DataError(f"sources: {specification!r}: expected hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT.")
    return os.path.expanduser(name), config or None, split or "train"


def _description(name: str, config: str | None, split: str) -> tuple[str, list[int | None]]:
    """What tells the dataset's content from another, and the bytes of each file of the split where they are local."""
    datasets = _library()
    with _one_message(name, config, split):
        builder = datasets.load_dataset_builder(name, config, **_never_run_code(datasets))
        files = builder.config.data_files or {}
        origins = {str(part): [list(map(str, origin)) for origin in f.origin_metadata] for part, f in files.items()}
        sizes: list[int | None] = [
            os.path.getsize(path) if os.path.isfile(path) else None for path in files.get(split, [])
        ]
    return f"{builder.hash} {origins} {sizes}", sizes


@functools.lru_cache(maxsize=8)
def _dataset(name: str, config: str | None, split: str, version: str) -> Any:
    # `version` is there for the cache: a dataset that has changed is loaded anew.
    datasets = _library()
    with _one_message(name, config, split):
        return datasets.load_dataset(name, config, split=split, streaming=True, **_never_run_code(datasets))


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "sources: 'hf:' needs the package datasets, which is not installed: pip install 'gecko-lab[huggingface]'."
        ) from error
    return datasets


def _never_run_code(datasets: Any) -> dict[str, bool]:
    # Version 4 can run none and knows the option no more; version 3 would ask.
    return {"trust_remote_code": False} if int(datasets.__version__.split(".")[0]) < 4 else {}


@contextmanager
def _one_message(name: str, config: str | None, split: str) -> Iterator[None]:
    """Turns whatever the library raises into one `DataError`."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        location = f"{HUGGING_FACE}{name}:{config or ''}:{split}"
        raise DataError(f"sources: the dataset {location!r} cannot be loaded ({reason}).") from error
