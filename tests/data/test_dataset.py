from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gecko_lab.data.dataset import TokenDataset, is_prepared
from gecko_lab.data.errors import DataError
from tests.data.prepared import BOS, documents_of, write_dataset

TRAIN = documents_of([5, 90, 3])
VALIDATION = documents_of([20], seed=1)


@pytest.fixture
def dataset(tmp_path: Path) -> TokenDataset:
    return write_dataset(tmp_path / "dataset", TRAIN, VALIDATION)


def test_open(dataset: TokenDataset, tmp_path: Path) -> None:
    again = TokenDataset.open(str(tmp_path / "dataset"))
    assert again == dataset
    assert again.folder == tmp_path / "dataset"
    assert (again.key, again.bos_id) == ("made-by-a-test", BOS)
    assert [again.num_tokens(split) for split in ("train", "validation")] == [98, 20]
    for split, documents in (("train", TRAIN), ("validation", VALIDATION)):
        assert all(np.array_equal(a, b[1:]) for a, b in zip(again.documents(split), documents, strict=True))
    assert again.content("train") != again.content("validation")


def test_a_copy_has_the_same_content(dataset: TokenDataset, tmp_path: Path) -> None:
    copy = write_dataset(tmp_path / "copy", TRAIN, VALIDATION, chunk_tokens=7)
    assert copy.content("train") == dataset.content("train")
    other = write_dataset(tmp_path / "other", TRAIN[1:], VALIDATION)
    assert other.content("train") != dataset.content("train")


def test_is_prepared(dataset: TokenDataset, tmp_path: Path) -> None:
    assert is_prepared(dataset.folder)
    assert not is_prepared(tmp_path)
    assert not is_prepared(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "is another program's"),
        ({"format_version": 1}, "was prepared in format 1, this version reads 2; prepare the data again"),
        ({"splits": None}, "is damaged"),
        ({"splits": {"train": {}}}, "is damaged"),
        ({"token_dtype": "text"}, "is damaged"),
        ({"tokenizer": {}}, "is damaged"),
        ({"splits": {"train": {"tokens": 97}}}, "holds 98 tokens, .* says 97; prepare the data again"),
        ({"splits": {"elsewhere": {"tokens": 1}}}, r"index\.json cannot be read"),
    ],
)
def test_open_refuses_a_manifest_that_does_not_fit(
    dataset: TokenDataset, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "dataset" / "manifest.json"
    path.write_text(json.dumps({**dataset.manifest, **change}))
    with pytest.raises(DataError, match=message):
        TokenDataset.open(tmp_path / "dataset")


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '"x"'])
def test_open_refuses_what_is_no_manifest(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="is not a prepared dataset"):
        TokenDataset.open(tmp_path)
