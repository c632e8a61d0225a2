from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gecko_lab.data import storage
from gecko_lab.data.commands import inspect, prepare
from gecko_lab.data.dataset import TokenDataset
from gecko_lab.data.errors import DataError
from gecko_lab.data.inspection import inspect_split, verify_split


def test_prepare_and_inspect(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "tokens")
    prepare(sources=str(corpus), folder=folder, validation_fraction=0.2, num_workers=1)
    printed = capsys.readouterr()
    assert f"dataset    {folder}" in printed.out
    assert "tokenizer  bytes (257 ids, BOS 256)" in printed.out
    assert "skipped    1 empty file" in printed.err
    prepare(sources=str(corpus), folder=folder, validation_fraction=0.2, json=True)
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["splits"]["train"]["documents"] + manifest["splits"]["validation"]["documents"] == 40
    inspect(folder=folder, num_samples=2, sample_tokens=10, verify=True)
    printed = capsys.readouterr()
    assert "--- validation, document 1" in printed.out
    assert "verified   every chunk" in printed.out
    assert "train: documents by length in tokens" in printed.out
    assert "BOS        at tokens 0, " in printed.out
    assert ", as the lengths say" in printed.out
    assert "skipped    1 empty file" in printed.out
    inspect(folder=folder, num_samples=2, sample_tokens=10, json=True)
    content = json.loads(capsys.readouterr().out)
    assert all(sample["text"].startswith("document ") for split in content["samples"].values() for sample in split)
    assert len(content["samples"]["train"]) == len(content["samples"]["validation"]) == 2
    assert content["statistics"].keys() == content["splits"].keys()


def test_inspect_without_validation(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(sources=str(corpus), folder=str(tmp_path / "tokens"), validation_fraction=0.0)
    inspect(folder=str(tmp_path / "tokens"), verify=True)
    assert "validation: documents" not in capsys.readouterr().out


def test_prepare_strict(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"empty\.txt: the file is empty"):
        prepare(sources=str(corpus), folder=str(tmp_path / "tokens"), strict=True)


def test_inspect_mistakes(corpus: Path, tmp_path: Path, tiktoken_file: Path) -> None:
    with pytest.raises(DataError, match="is not a prepared dataset"):
        inspect(folder=str(corpus))
    prepare(sources=str(corpus), folder=str(tmp_path / "tokens"), tokenizer=str(tiktoken_file))
    tiktoken_file.write_bytes(b"\n".join(tiktoken_file.read_bytes().split(b"\n")[:-2]))
    with pytest.raises(DataError, match="was prepared with another tokenizer"):
        inspect(folder=str(tmp_path / "tokens"))


def test_inspect_split(tmp_path: Path) -> None:
    lengths = [1, 2, 3, 4, 700, 5000]  # without BOS
    for number, length in enumerate(lengths):
        (tmp_path / f"{number}.txt").write_text(str(number) * length)
    prepare(sources=str(tmp_path), folder=str(tmp_path / "x" / "tokens"), validation_fraction=0.0)
    found = inspect_split(TokenDataset.open(tmp_path / "x" / "tokens"), "train")
    assert [(row["from"], row["to"], row["documents"], row["tokens"]) for row in found["histogram"]] == [
        (2, 4, 2, 5),
        (4, 8, 2, 9),
        (8, 16, 0, 0),
        (16, 32, 0, 0),
        (32, 64, 0, 0),
        (64, 128, 0, 0),
        (128, 256, 0, 0),
        (256, 512, 0, 0),
        (512, 1024, 1, 701),
        (1024, 2048, 0, 0),
        (2048, 4096, 0, 0),
        (4096, 8192, 1, 5001),
    ]
    assert found["quantiles"]["0.0"] == 2
    assert found["quantiles"]["1.0"] == 5001
    assert found["mean"] == round(sum(n + 1 for n in lengths) / 6, 1)
    assert found["longer_than"]["512"] == {"documents": 2 / 6, "tokens": 5702 / 5716}
    assert found["longer_than"]["8192"] == {"documents": 0, "tokens": 0}
    assert found["bos_positions"] == {"found": [0, 2, 5, 9, 14, 715], "expected": [0, 2, 5, 9, 14, 715]}


def damaged_dataset(corpus: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> TokenDataset:
    """Several chunks of 1024 tokens, as yet without damage."""
    monkeypatch.setattr(storage, "_SLAB_TOKENS", 256)
    monkeypatch.setattr(storage, "_CHUNK_SLABS", 4)
    prepare(sources=str(corpus), folder=str(folder), num_workers=1)
    return TokenDataset.open(folder)


@pytest.mark.parametrize("damage", ["flipped byte", "lengths", "missing chunk", "manifest"])
def test_verify_finds(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    folder = tmp_path / "tokens"
    dataset = damaged_dataset(corpus, folder, monkeypatch)
    assert verify_split(dataset, "train") == []
    chunk = folder / "train" / "chunk-0-2.bin"
    if damage == "flipped byte":
        content = bytearray(chunk.read_bytes())
        content[700] ^= 1
        chunk.write_bytes(content)
        expected = "chunk-0-2.bin is damaged"
    elif damage == "lengths":
        path = folder / "train" / "lengths.bin"
        lengths = np.frombuffer(path.read_bytes(), "<i8").copy()
        lengths[3] += 5
        lengths[4] -= 5
        path.write_bytes(lengths.tobytes())
        expected = "the first difference is at token"
    elif damage == "missing chunk":
        chunk.unlink()
        expected = "chunk-0-2.bin is missing"
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["splits"]["train"]["documents"] += 1
        (folder / "manifest.json").write_text(json.dumps(manifest))
        expected = "the manifest says"
    with pytest.raises(DataError, match=expected):
        inspect(folder=str(folder), verify=True)
