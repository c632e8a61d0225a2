"""`gecko-lab data prepare` and `gecko-lab data inspect`."""

from __future__ import annotations

import itertools
import json as json_format
from typing import Any

from gecko_lab.data.bad_input import InputAccount
from gecko_lab.data.dataset import TokenDataset
from gecko_lab.data.errors import DataError
from gecko_lab.data.inspection import inspect_split, verify_split
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
    num_workers: int | None = None,
    strict: bool = False,
    json: bool = False,
) -> None:
    """Tokenizes text once into a dataset that training streams.

    Does nothing where the same was prepared before, and goes on where it was killed. Bad input is left out, counted in
    the manifest and told. Example: gecko-lab data prepare --sources docs/ --tokenizer bytes

    Args:
        sources: Files, folders, globs (.txt .md .py .jsonl .parquet, the first and .jsonl also with .gz or .zst), their
            URLs (s3://, gs://, https:// ...), `hf:NAME:CONFIG:SPLIT` for a Hugging Face dataset, or `stdlib`.
        tokenizer: `bytes`, a Hugging Face tokenizer.json, a SentencePiece .model, a .tiktoken file, or a tiktoken name.
        validation_fraction: Part of the documents that are kept for validation.
        split_seed: Of the choice of validation documents.
        text_field: Field of .jsonl and column of .parquet that holds the text.
        folder: Where the dataset is to stand; by default a folder of `cache_folder` named after its content.
        cache_folder: Holds datasets that have no folder of their own.
        num_workers: Processes that prepare; by default as many as pay. The result is the same for any number.
        strict: Stop at the first bad input, with file, line and reason.
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
        strict=strict,
        num_workers=num_workers,
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
    verify: bool = False,
    json: bool = False,
) -> None:
    """Prints what a prepared dataset holds: counts, lengths of documents, where they begin, and a few of them.

    Example: gecko-lab data inspect --folder my-data --verify

    Args:
        folder: A prepared dataset.
        tokenizer: Decodes the samples; by default the one that the dataset was prepared with.
        num_samples: Documents of each split to show.
        sample_tokens: Tokens of each document to show.
        verify: Read all of it: every chunk against its checksum, and the beginnings of documents against their lengths.
        json: Print all of it as JSON.
    """
    dataset = TokenDataset.open(folder)
    try:
        overview = "\n".join(filter(None, [summary(dataset), InputAccount.from_dict(dataset.manifest).report()]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder}: its manifest is damaged ({error!r}); prepare the data again.") from error
    splits = dataset.manifest["splits"]
    broken = [problem for split in splits for problem in verify_split(dataset, split)] if verify else []
    if broken:
        raise DataError("\n".join([f"{folder} is damaged; remove it and prepare the data again.", *broken]))
    theirs = dataset.manifest["tokenizer"]
    decoder = build_tokenizer(tokenizer or theirs["name"])
    if decoder.identity != theirs["identity"]:
        raise DataError(
            f"{folder} was prepared with another tokenizer than {decoder.name!r} is now ({theirs['name']})."
        )
    samples = {split: _samples(dataset, split, decoder, num_samples, sample_tokens) for split in splits}
    statistics = {split: inspect_split(dataset, split) for split in splits}
    if json:
        content = {
            "folder": str(dataset.folder),
            **dataset.manifest,
            "statistics": statistics,
            "samples": samples,
            "verified": verify,
        }
        print(json_format.dumps(content, indent=2, ensure_ascii=False))
        return
    print(overview)
    if verify:
        print("verified   every chunk has its checksum, every document begins where it should")
    for split in splits:
        if dataset.manifest["splits"][split]["documents"]:
            _print_statistics(split, statistics[split])
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


def _print_statistics(split: str, statistics: dict[str, Any]) -> None:
    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Table

    histogram = statistics["histogram"]
    most = max(row["documents"] for row in histogram)
    table = Table(title=f"{split}: documents by length in tokens", title_justify="left", box=None, pad_edge=False)
    for name in ("length", "documents", "tokens"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in histogram:
        span = f"{row['from']:,} - {row['to'] - 1:,}"
        bar = Bar(most, 0, row["documents"], width=30)
        table.add_row(span, f"{row['documents']:,}", f"{row['tokens']:,}", bar)
    print()
    Console().print(table)
    quantiles = ", ".join(f"{float(q):.0%} {value:,}" for q, value in statistics["quantiles"].items())
    print(f"quantiles  {quantiles}; mean {statistics['mean']:,}")
    longer = [
        f"{int(length):,}: {share['documents']:.1%} ({share['tokens']:.1%} of tokens)"
        for length, share in statistics["longer_than"].items()
        if share["documents"] > 0
    ]
    print(f"longer     {'; '.join(longer) or 'no document is longer than 512 tokens'}")
    positions = statistics["bos_positions"]
    agreement = "as" if positions["found"] == positions["expected"] else f"NOT {positions['expected']} as"
    print(f"BOS        at tokens {', '.join(map(str, positions['found']))}, {agreement} the lengths say")


def _samples(
    dataset: TokenDataset, split: str, tokenizer: Tokenizer, num_samples: int, sample_tokens: int
) -> list[dict[str, Any]]:
    documents = itertools.islice(dataset.documents(split), num_samples)
    return [{"tokens": len(ids), "text": tokenizer.decode(ids[:sample_tokens])} for ids in documents]
