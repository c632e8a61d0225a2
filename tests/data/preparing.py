"""Preparing corpora, and reading what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gecko_lab.data.dataset import TokenDataset
from gecko_lab.data.preparation import Preparation
from gecko_lab.data.tokenizers import Tokenizer, build_tokenizer


def few_files(corpus: Path, troubled: str, word: str) -> int:
    """Leaves six files of text, one of which holds the word."""
    for path in sorted(corpus.rglob("*.txt"))[5:]:
        path.unlink()
    (corpus / troubled).write_text(f"this is where it ends: {word}")
    return 6


def prepare(
    sources: str | list[str], folder: Path | None, tokenizer: str | Tokenizer = "bytes", **options: Any
) -> TokenDataset:
    place = None if folder is None else str(folder)
    tokenizer = build_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    return Preparation(sources, tokenizer, **{"folder": place, "num_workers": 1, **options}).run(progress=False)


def texts(dataset: TokenDataset, split: str) -> list[bytes]:
    return [ids.astype(np.uint8).tobytes() for ids in dataset.documents(split)]


def stream(dataset: TokenDataset, split: str) -> list[int]:
    tokens = dataset.stream(split)
    return tokens.read(0, len(tokens)).tolist()


def content(folder: Path | str) -> dict[str, Any]:
    """Every file of a dataset, the time that preparing took apart."""
    files: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }
    manifest = json.loads(files["manifest.json"])
    del manifest["seconds"]
    return {**files, "manifest.json": manifest}
