"""`gecko-lab data prepare` and `gecko-lab data inspect`."""

from __future__ import annotations

import itertools
import json as json_format
from pathlib import Path
from typing import Any

from gecko_lab.data.dataset import TokenDataset
from gecko_lab.data.errors import DataError
from gecko_lab.data.preparation import DEFAULT_CACHE_FOLDER, Preparation
from gecko_lab.data.tokenizers import Tokenizer, build_tokenizer


def prepare(
    *,
    sources: str | list[str] = "stdlib",
    tokenizer: str = "bytes",
    validation_fraction: float = 0.05,
    split_seed: int = 0,
    text_field: str = "text",
    folder: str | None = None,
    cache_folder: str = DEFAULT_CACHE_FOLDER,
    json: bool = False,
) -> None:
    """Tokenizes text once into a dataset that training streams.

    Does nothing where the same was prepared before. Example: gecko-lab data prepare --sources docs/ --tokenizer bytes

    Args:
        sources: Files, folders, globs (.txt .md .py .jsonl .jsonl.gz .jsonl.zst .parquet), or `stdlib`.
        tokenizer: `bytes`, a Hugging Face tokenizer.json, a SentencePiece .model, a .tiktoken file, or a tiktoken name.
        validation_fraction: Part of the documents that are kept for validation.
        split_seed: Of the choice of validation documents.
        text_field: Field of .jsonl and column of .parquet that holds the text.
        folder: Where the dataset is to stand; by default a folder of `cache_folder` named after its content.
        cache_folder: Holds datasets that have no folder of their own.
        json: Print the manifest as JSON.
    """
    dataset = Preparation(
        sources,
        build_tokenizer(tokenizer),
        validation_fraction=validation_fraction,
        split_seed=split_seed,
        text_field=text_field,
        folder=folder,
        cache_folder=cache_folder,
    ).run(progress=True)
    if json:
        print(json_format.dumps({"folder": str(dataset.folder), **dataset.manifest}, indent=2, ensure_ascii=False))
    else:
        print(summary(dataset))


def inspect(
    *,
    folder: str,
    tokenizer: str | None = None,
    num_samples: int = 3,
    sample_tokens: int = 200,
    json: bool = False,
) -> None:
    """Prints what a prepared dataset holds, and the beginning of a few of its documents.

    Example: gecko-lab data inspect --folder my-data

    Args:
        folder: A prepared dataset.
        tokenizer: Decodes the samples; by default the one that the dataset was prepared with.
        num_samples: Documents of each split to show.
        sample_tokens: Tokens of each document to show.
        json: Print the manifest and the samples as JSON.
    """
    dataset = TokenDataset.open(Path(folder).expanduser())
    theirs = dataset.manifest["tokenizer"]
    decoder = build_tokenizer(tokenizer or theirs["name"])
    if decoder.identity != theirs["identity"]:
        raise DataError(
            f"{folder} was prepared with another tokenizer than {decoder.name!r} is now ({theirs['name']})."
        )
    samples = {
        split: _samples(dataset, split, decoder, num_samples, sample_tokens) for split in dataset.manifest["splits"]
    }
    if json:
        content = {"folder": str(dataset.folder), **dataset.manifest, "samples": samples}
        print(json_format.dumps(content, indent=2, ensure_ascii=False))
        return
    print(summary(dataset))
    for split, documents in samples.items():
        for number, document in enumerate(documents):
            print(f"\n--- {split}, document {number}: {document['tokens']:,} tokens\n{document['text']}")


def summary(dataset: TokenDataset) -> str:
    """What the manifest says, in a few lines."""
    manifest = dataset.manifest
    tokenizer = manifest["tokenizer"]
    size = f"{manifest['files']:,} files, {manifest['file_bytes'] / 1e6:,.1f} MB"
    lines = [
        f"dataset    {dataset.folder}",
        f"sources    {', '.join(manifest['sources'])} ({size})",
        f"tokenizer  {tokenizer['name']} ({tokenizer['vocab_size']:,} ids, BOS {tokenizer['bos_id']})",
    ]
    for split, counts in manifest["splits"].items():
        per_token = counts["bytes"] / max(counts["tokens"], 1)
        lines.append(
            f"{split:<10} {counts['documents']:,} documents, {counts['tokens']:,} tokens, {counts['bytes']:,} bytes "
            f"({per_token:.2f} bytes per token)"
        )
    rate = sum(counts["tokens"] for counts in manifest["splits"].values()) / 1e6 / max(manifest["seconds"], 0.01)
    lines.append(f"prepared   in {manifest['seconds']} s ({rate:.1f}M tokens/s)")
    return "\n".join(lines)


def _samples(
    dataset: TokenDataset, split: str, tokenizer: Tokenizer, num_samples: int, sample_tokens: int
) -> list[dict[str, Any]]:
    documents = itertools.islice(dataset.documents(split), num_samples)
    return [{"tokens": len(ids), "text": tokenizer.decode(ids[:sample_tokens])} for ids in documents]
