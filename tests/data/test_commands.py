from __future__ import annotations

import json
from pathlib import Path

import pytest

from gecko_lab.data.commands import inspect, prepare
from gecko_lab.data.errors import DataError


def test_prepare_and_inspect(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "tokens")
    prepare(sources=str(corpus), folder=folder, validation_fraction=0.2)
    printed = capsys.readouterr().out
    assert f"dataset    {folder}" in printed
    assert "tokenizer  bytes (257 ids, BOS 256)" in printed
    prepare(sources=str(corpus), folder=folder, validation_fraction=0.2, json=True)
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["splits"]["train"]["documents"] + manifest["splits"]["validation"]["documents"] == 40
    inspect(folder=folder, num_samples=2, sample_tokens=10)
    assert "--- validation, document 1" in capsys.readouterr().out
    inspect(folder=folder, num_samples=2, sample_tokens=10, json=True)
    samples = json.loads(capsys.readouterr().out)["samples"]
    assert all(sample["text"].startswith("document ") for split in samples.values() for sample in split)
    assert len(samples["train"]) == len(samples["validation"]) == 2


def test_inspect_mistakes(corpus: Path, tmp_path: Path, tiktoken_file: Path) -> None:
    with pytest.raises(DataError, match="is not a prepared dataset"):
        inspect(folder=str(corpus))
    prepare(sources=str(corpus), folder=str(tmp_path / "tokens"), tokenizer=str(tiktoken_file))
    tiktoken_file.write_bytes(b"\n".join(tiktoken_file.read_bytes().split(b"\n")[:-2]))
    with pytest.raises(DataError, match="was prepared with another tokenizer"):
        inspect(folder=str(tmp_path / "tokens"))
