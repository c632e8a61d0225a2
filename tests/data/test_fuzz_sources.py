"""Random and damaged bytes in the place of every kind of file: an account or one message, nothing else."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gecko_lab.data.bad_input import InputAccount
from gecko_lab.data.commands import inspect
from gecko_lab.data.dataset import TokenDataset
from gecko_lab.data.documents import DocumentReader
from gecko_lab.data.preparation import Preparation
from gecko_lab.data.sources import resolve_sources
from gecko_lab.data.split import TRAIN, VALIDATION
from gecko_lab.data.tokenizers import build_tokenizer
from gecko_lab.errors import UserError
from tests.data.corpora import train_sentencepiece, words

TEXTS = [words(i, 30) for i in range(12)]
LINES = "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(TEXTS)).encode()

# (what is done, where as a share of the length, with which bytes)
Mutation = tuple[str, float, bytes]
MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "overwrite", "end"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)
CONTENTS = st.one_of(st.binary(max_size=200), MUTATIONS, MUTATIONS, MUTATIONS)


def fuzz(max_examples: int) -> Callable[[Any], Any]:
    """Repeatable draws; a hang would show as a test that never ends."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def damaged(content: bytes, drawn: bytes | list[Mutation]) -> bytes:
    """The random bytes, or the content with the mutations."""
    if isinstance(drawn, bytes):
        return drawn
    for what, share, piece in drawn:
        place = int(share * len(content))
        if what == "flip" and content:
            content = content[:place] + bytes([content[place] ^ (piece[0] or 1)]) + content[place + 1 :]
        elif what == "cut":
            content = content[:place] + content[place + len(piece) :]
        elif what == "insert":
            content = content[:place] + piece + content[place:]
        elif what == "overwrite":
            content = content[:place] + piece + content[place + len(piece) :]
        elif what == "end":
            content = content[:place]
    return content


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def valid_sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A whole file of each kind."""
    table = tmp_path_factory.mktemp("valid") / "a.parquet"
    columns = {"text": TEXTS, "id": list(range(len(TEXTS)))}
    pyarrow.parquet.write_table(pyarrow.table(columns), table, row_group_size=5)
    return {
        ".txt": "\n".join(TEXTS).encode(),
        ".txt.gz": gzip.compress(LINES, mtime=0),
        ".jsonl": LINES,
        ".jsonl.gz": gzip.compress(LINES, mtime=0),
        ".jsonl.zst": zstandard.compress(LINES),
        ".parquet": table.read_bytes(),
    }


@pytest.mark.parametrize("kind", [".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
@fuzz(120)
@given(drawn=CONTENTS)
def test_source(tmp_path: Path, valid_sources: dict[str, bytes], kind: str, drawn: bytes | list[Mutation]) -> None:
    path = tmp_path / f"a{kind}"
    content = damaged(valid_sources[kind], drawn)
    path.write_bytes(content)
    reader = DocumentReader(resolve_sources(str(path)))
    documents = list(reader)
    account = reader.account
    assert all(isinstance(document, bytes) and document for document in documents)
    assert documents or account.skipped.counts or account.empty_documents, "it vanished without a word"
    assert InputAccount.from_dict(json.loads(json.dumps(account.as_dict()))) == account
    try:
        strict = list(DocumentReader(resolve_sources(str(path)), account=InputAccount(strict=True)))
    except UserError:
        assert account.skipped.counts or account.replaced.counts or account.empty_documents
    else:
        assert strict == documents
        assert account == InputAccount()


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.zst", ".parquet"])
@fuzz(6)
@given(drawn=CONTENTS)
def test_preparation(tmp_path: Path, valid_sources: dict[str, bytes], kind: str, drawn: bytes | list[Mutation]) -> None:
    (tmp_path / f"a{kind}").write_bytes(damaged(valid_sources[kind], drawn))
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    try:
        Preparation(str(tmp_path / f"a{kind}"), build_tokenizer("bytes"), folder=str(tmp_path / "out" / "x")).run(False)
    except UserError:
        assert os.listdir(tmp_path / "out") == [".x.lock"]
    else:
        inspect(folder=str(tmp_path / "out" / "x"), verify=True, json=True)


@pytest.fixture(scope="module")
def valid_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A whole tokenizer file of each kind."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=262, initial_alphabet=alphabet, show_progress=False, special_tokens=["<s>"]
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokens = [*(bytes([value]) for value in range(256)), b"th", b"the", b" the"]
    model = train_sentencepiece(tmp_path_factory.mktemp("valid") / "words.model", bos_id=1)
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "words.model": model.read_bytes(),
        "tiny.tiktoken": b"".join(base64.b64encode(t) + f" {rank}\n".encode() for rank, t in enumerate(tokens)),
    }


@pytest.mark.parametrize("name", ["tokenizer.json", "words.model", "tiny.tiktoken"])
@fuzz(150)
@given(drawn=CONTENTS)
def test_tokenizer(
    tmp_path: Path, valid_tokenizers: dict[str, bytes], name: str, drawn: bytes | list[Mutation]
) -> None:
    path = tmp_path / name
    path.write_bytes(damaged(valid_tokenizers[name], drawn))
    try:
        tokenizer = build_tokenizer(str(path))
        ids = tokenizer.encode_batch([TEXTS[0], "", "<s> \0 the", b"\xff"])
        assert all(0 <= i < tokenizer.vocab_size for document in ids for i in document.tolist())
        assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,)
        tokenizer.decode(ids[0])
    except UserError:
        pass


@pytest.fixture(scope="module")
def valid_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset."""
    folder = tmp_path_factory.mktemp("valid")
    (folder / "a.jsonl").write_bytes(LINES)
    preparation = Preparation(
        str(folder / "a.jsonl"), build_tokenizer("bytes"), validation_fraction=0.3, folder=str(folder / "tokens")
    )
    preparation.run(False)
    return folder / "tokens"


@pytest.mark.parametrize(
    "name", ["manifest.json", "train/index.json", "train/checksums.json", "train/lengths.bin", "train/chunk-0-0.bin"]
)
@fuzz(80)
@given(drawn=CONTENTS)
def test_dataset(
    valid_dataset: Path, name: str, drawn: bytes | list[Mutation], capsys: pytest.CaptureFixture[str]
) -> None:
    path = valid_dataset / name
    content = path.read_bytes()
    path.write_bytes(damaged(content, drawn))
    try:
        inspect(folder=str(valid_dataset))
        dataset = TokenDataset.open(valid_dataset)
        for split in (TRAIN, VALIDATION):
            for document in dataset.documents(split):
                assert document.ndim == 1
    except UserError:
        pass
    finally:
        path.write_bytes(content)
        capsys.readouterr()


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.txt", "a.parquet", "a.jsonl.gz", "tokenizer.json", "words.model", "tiny.tiktoken"]
)
def test_pickled_code_is_not_run(tmp_path: Path, name: str) -> None:
    planted = pickle.dumps(Planted(tmp_path / "run"))
    (tmp_path / name).write_bytes(planted)
    try:
        if name.startswith("a."):
            list(DocumentReader(resolve_sources(str(tmp_path / name))))
        else:
            build_tokenizer(str(tmp_path / name))
    except UserError:
        pass
    assert not (tmp_path / "run").exists()
    pickle.loads(planted)
    assert (tmp_path / "run").exists(), "the test plants nothing"
