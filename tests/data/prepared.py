"""Prepared datasets for tests, written byte by byte as the format says: chunks as short as a test wants."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gecko_lab.data.dataset import TokenDataset
from gecko_lab.data.tokenizers import build_tokenizer

BOS = 256


def documents_of(lengths: Sequence[int], seed: int = 0) -> list[npt.NDArray[np.int64]]:
    """Random bytes, each document with its BOS before it: `lengths` counts the BOS."""
    draw = np.random.default_rng(seed)
    return [np.concatenate([[BOS], draw.integers(0, 256, length - 1)]) for length in lengths]


def write_dataset(
    folder: Path,
    train: Sequence[npt.NDArray[np.int64]],
    validation: Sequence[npt.NDArray[np.int64]] = (),
    chunk_tokens: Sequence[int] | int = 64,
    dtype: str = "uint16",
) -> TokenDataset:
    """Write documents of the tokenizer `bytes`, and open what was written.

    Arguments:
        folder: is created.
        train: the documents of the split, each with its BOS.
        validation: likewise.
        chunk_tokens: tokens of each chunk, or of every chunk; the last takes what is left.
        dtype: of the tokens on disk.
    """
    folder.mkdir(parents=True)
    splits = {"train": list(train), "validation": list(validation)}
    for split, documents in splits.items():
        write_split(folder / split, documents, chunk_tokens, dtype)
    tokenizer = build_tokenizer("bytes")
    manifest = {
        "format": "gecko-lab-tokens",
        "format_version": 2,
        "key": "made-by-a-test",
        "sources": [],
        "tokenizer": {"name": "bytes", "identity": tokenizer.identity, "vocab_size": 257, "bos_id": BOS},
        "token_dtype": dtype,
        "splits": {
            split: {
                "documents": len(documents),
                "tokens": sum(map(len, documents)),
                "bytes": sum(map(len, documents)) - len(documents),
                "content_hash": hashlib.blake2b(b"".join(d.tobytes() for d in documents), digest_size=16).hexdigest(),
            }
            for split, documents in splits.items()
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return TokenDataset.open(folder)


def write_split(
    folder: Path, documents: Sequence[npt.NDArray[np.int64]], chunk_tokens: Sequence[int] | int, dtype: str
) -> None:
    """Write one split; every chunk is of items of at most 7 tokens."""
    folder.mkdir()
    stream = np.concatenate([np.empty(0, dtype=np.int64), *documents])
    sizes = [chunk_tokens] * (len(stream) // chunk_tokens) if isinstance(chunk_tokens, int) else list(chunk_tokens)
    pieces = [piece for piece in np.split(stream, np.cumsum(sizes, dtype=int)) if len(stream)]
    if isinstance(chunk_tokens, int) and pieces and not len(pieces[-1]):
        del pieces[-1]
    chunks, checksums = [], {}
    for number, piece in enumerate(pieces):
        items = np.split(piece.astype(dtype), range(7, len(piece), 7))
        ends = np.cumsum([0, *(item.nbytes for item in items)]) + 4 * (len(items) + 2)
        content = np.array([len(items), *ends], dtype=np.uint32).tobytes() + piece.astype(dtype).tobytes()
        name = f"chunk-0-{number}.bin"
        (folder / name).write_bytes(content)
        checksums[name] = hashlib.blake2b(content, digest_size=16).hexdigest()
        chunks.append({"filename": name, "chunk_bytes": len(content), "chunk_size": len(items), "dim": len(piece)})
    (folder / "index.json").write_text(json.dumps({"chunks": chunks, "config": {} if chunks else None}))
    (folder / "checksums.json").write_text(json.dumps(checksums))
    (folder / "lengths.bin").write_bytes(np.array([len(d) for d in documents], dtype="<i8").tobytes())
