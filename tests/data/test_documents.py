from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from gecko_lab.data.bad_input import (
    BROKEN_COMPRESSION,
    BROKEN_FILE,
    BROKEN_JSON,
    EMPTY_FILE,
    LONE_SURROGATES,
    MISSING_TEXT,
    NOT_TEXT,
    UNDECODABLE,
    UNREADABLE_FILE,
    InputAccount,
)
from gecko_lab.data.documents import DocumentReader
from gecko_lab.data.errors import DataError
from gecko_lab.data.sources import SourceChanged, resolve_sources
from tests.data.corpora import words

TEXTS = [words(i) for i in range(50)]


def read(path: Path, **options: Any) -> list[bytes]:
    reader = DocumentReader(resolve_sources(str(path)), **options)
    documents = list(reader)
    assert reader.bytes_read == reader.num_bytes == path.stat().st_size
    return documents


def read_all(path: Path, **options: Any) -> tuple[list[bytes], InputAccount]:
    """The documents and the account of everything else."""
    account = InputAccount()
    return list(DocumentReader(resolve_sources(str(path)), account=account, **options)), account


def lines(texts: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)).encode()


@pytest.mark.parametrize("ending", [".txt", ".md", ".py", ".TXT"])
def test_text_is_read_as_raw_bytes(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"document{ending}"
    path.write_bytes(b"line\r\n\xff\x00end")
    assert read(path) == [b"line\r\n\xff\x00end"]


def test_compressed_text_is_one_document(tmp_path: Path) -> None:
    for ending, compress in ((".txt.gz", gzip.compress), (".txt.zst", zstandard.compress)):
        path = tmp_path / f"document{ending}"
        path.write_bytes(compress(b"line\nline\n"))
        assert read(path) == [b"line\nline\n"]
        path.write_bytes(path.read_bytes()[:-3])
        documents, account = read_all(path)
        assert (documents, account.skipped.counts) == ([], {BROKEN_COMPRESSION: 1})


def test_jsonl_in_each_compression(tmp_path: Path) -> None:
    frames = zstandard.compress(lines(TEXTS[:20])) + zstandard.compress(
        lines(TEXTS[20:])
    )  # as several writers leave it
    contents = {".jsonl": lines(TEXTS), ".jsonl.gz": gzip.compress(lines(TEXTS)), ".jsonl.zst": frames}
    for ending, content in contents.items():
        path = tmp_path / f"documents{ending}"
        path.write_bytes(content)
        assert read(path) == [text.encode() for text in TEXTS], ending


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "documents.parquet"
    table = pyarrow.table({"id": list(range(50)), "body": TEXTS})
    pyarrow.parquet.write_table(table, path, row_group_size=7)
    assert read(path, text_field="body") == [text.encode() for text in TEXTS]


@pytest.mark.parametrize("kind", ["dictionary", "large_string", "string_view"])
def test_parquet_kinds_of_text(tmp_path: Path, kind: str) -> None:
    types = {
        "dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        "large_string": pyarrow.large_string(),
        "string_view": pyarrow.string_view(),
    }
    table = pyarrow.table({"text": pyarrow.array(TEXTS).cast(types[kind])})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [text.encode() for text in TEXTS]


def test_empty_documents_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_bytes(lines(["a", "", "b"]) + b"\n\n")
    documents, account = read_all(path)
    assert documents == [b"a", b"b"]
    assert (account.empty_documents, account.skipped.counts) == (1, {})
    with pytest.raises(DataError, match=r"documents\.jsonl, line 2: the document is empty"):
        list(DocumentReader(resolve_sources(str(path)), account=InputAccount(strict=True)))


WHOLE = b'{"text": "a"}\n'
SURROGATE = b'{"text": "a\\ud800"}'

BAD_FILES: list[tuple[str, bytes, str, str, int]] = [
    # name, content, reason, what the message says, how many documents are kept
    ("a.jsonl", WHOLE + b'{"text": \n' + WHOLE, BROKEN_JSON, "a.jsonl, line 2: not JSON", 2),
    ("a.jsonl", WHOLE + b'{"text": "\xff"}', UNDECODABLE, "a.jsonl, line 2: not UTF-8", 1),
    ("a.jsonl", b"[" * 200_000, BROKEN_JSON, "a.jsonl, line 1: not JSON", 0),
    ("a.jsonl", b'["text"]', BROKEN_JSON, "a.jsonl, line 1: a JSON object is expected, not list", 0),
    ("a.jsonl", WHOLE + b'{"texts": "a"}', MISSING_TEXT, "line 2: no field 'text'", 1),
    ("a.jsonl", b'{"texts": "a"}\n' + WHOLE, MISSING_TEXT, "line 1: no field 'text'", 1),
    ("a.jsonl", b'{"text": 1}', NOT_TEXT, "line 1: field 'text' must be text, not int", 0),
    ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", BROKEN_JSON, "line 1: not JSON", 0),
    ("a.jsonl", b"", EMPTY_FILE, "a.jsonl: the file is empty", 0),
    ("a.jsonl", b"\n \n", EMPTY_FILE, "a.jsonl: the file is empty", 0),
    (
        "a.jsonl.gz",
        gzip.compress(WHOLE * 9, mtime=0)[:-4],
        BROKEN_COMPRESSION,
        "line 10: the compressed stream is broken",
        9,
    ),
    ("a.jsonl.gz", b"plain", BROKEN_COMPRESSION, "a.jsonl.gz: the compressed stream is broken", 0),
    ("a.jsonl.zst", zstandard.compress(lines(TEXTS))[:-20], BROKEN_COMPRESSION, "the compressed stream is broken", 0),
    ("a.jsonl.zst", b"plain text, not zstandard", BROKEN_COMPRESSION, "the compressed stream is broken", 0),
    ("a.parquet", b"PAR1 no", BROKEN_FILE, "a.parquet: not a whole .parquet file", 0),
    ("a.parquet", b"", BROKEN_FILE, "a.parquet: not a whole .parquet file", 0),
    ("a.txt", b"", EMPTY_FILE, "a.txt: the file is empty", 0),
]


@pytest.mark.parametrize(("name", "content", "reason", "message", "kept"), BAD_FILES)
def test_bad_input_is_counted_or_refused(
    tmp_path: Path, name: str, content: bytes, reason: str, message: str, kept: int
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    documents, account = read_all(path)
    assert len(documents) == kept
    assert account.skipped.counts == {reason: 1}
    assert message in str(account.skipped.first[0])
    assert reason in account.report()
    with pytest.raises(DataError) as raised:
        list(DocumentReader(resolve_sources(str(path)), account=InputAccount(strict=True)))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "reason", "line", "document"),
    [
        ("a.txt", b"one\ntwo \xff\n", UNDECODABLE, 2, b"one\ntwo \xff\n"),
        ("a.txt", b"\xc3", UNDECODABLE, 1, b"\xc3"),
        ("a.jsonl", WHOLE + SURROGATE, LONE_SURROGATES, 2, b"a?"),
    ],
)
def test_what_is_not_text_is_kept_and_counted(
    tmp_path: Path, name: str, content: bytes, reason: str, line: int, document: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    documents, account = read_all(tmp_path / name)
    assert documents[-1] == document
    assert (account.replaced.counts, account.skipped.counts) == ({reason: 1}, {})
    assert account.replaced.first[0].line == line
    with pytest.raises(DataError, match=f"{name}, line {line}: "):
        list(DocumentReader(resolve_sources(str(tmp_path / name)), account=InputAccount(strict=True)))


def test_undecodable_byte_is_found_wherever_it_stands(tmp_path: Path) -> None:
    text = ("🦎ä" * 40_000).encode()  # longer than a piece, whose borders fall within characters
    for position in (None, 6 * 39_999, 4, 131_070):
        content = text if position is None else text[:position] + b"\xff" + text[position:]
        try:
            content.decode()
            expected = None
        except UnicodeDecodeError as error:
            expected = f"at {error.start} "
        (tmp_path / "a.txt").write_bytes(content)
        _, account = read_all(tmp_path / "a.txt")
        assert [expected is not None and expected in str(bad) for bad in account.replaced.first] == [True] * (
            expected is not None
        )


def test_field_that_no_line_has_is_explained_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"texts": "a", "id": 1}\n{"id": 2, "more": []}\n' * 5)
    documents, account = read_all(tmp_path / "a.jsonl")
    assert (documents, account.skipped.counts) == ([], {MISSING_TEXT: 10})
    assert [str(bad) for bad in account.skipped.first] == [
        f"{tmp_path}/a.jsonl: no field 'text'. Did you mean 'texts'? The fields are 'texts', 'id', 'more'; "
        "name the one with the text by text_field."
    ]


def test_first_thousand_places_are_kept_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" * 3000 + b"{\n" + WHOLE)
    _, account = read_all(tmp_path / "a.jsonl")
    assert account.skipped.counts == {MISSING_TEXT: 3000, BROKEN_JSON: 1}
    assert len(account.skipped.first) == 1000
    assert InputAccount.from_dict(json.loads(json.dumps(account.as_dict()))) == account
    assert "and 2,996 more" in account.report()


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_what_was_whole_before_a_truncation_is_kept(tmp_path: Path, ending: str, share: float) -> None:
    many = [words(i, 2000) for i in range(300)]
    content = gzip.compress(lines(many)) if ending == ".jsonl.gz" else zstandard.compress(lines(many))
    path = tmp_path / f"a{ending}"
    path.write_bytes(content[: int(len(content) * share)])
    documents, account = read_all(path)
    assert documents == [text.encode() for text in many][: len(documents)]
    assert len(documents) > 300 * share * 0.5
    assert account.skipped.counts == {BROKEN_COMPRESSION: 1}
    assert account.skipped.first[0].line == len(documents) + 1


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), path, row_group_size=5, write_page_checksum=True)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    documents, account = read_all(path)
    assert (documents, account.skipped.counts) == ([], {BROKEN_FILE: 1})
    middle = len(content) // 2
    path.write_bytes(content[:middle] + b"\xff" * 200 + content[middle + 200 :])
    documents, account = read_all(path)
    assert documents == [text.encode() for text in TEXTS[: len(documents)]], "what was whole before is kept"
    assert 10 <= len(documents) < 50
    assert account.skipped.counts == {BROKEN_FILE: 1}
    assert account.skipped.first[0].row == len(documents) + 1


@pytest.mark.parametrize(
    ("columns", "reason", "count", "message"),
    [
        ({"texts": ["a", "b"]}, MISSING_TEXT, 2, r"no field 'text'\. Did you mean 'texts'"),
        ({"text": [1]}, NOT_TEXT, 1, "column 'text' must be text, not int64"),
        ({"text": ["a", None]}, NOT_TEXT, 1, "row 2: column 'text' has no text"),
        ({"text": pyarrow.array([], pyarrow.string())}, EMPTY_FILE, 1, "the table has no rows"),
    ],
)
def test_parquet_mistakes(tmp_path: Path, columns: dict[str, Any], reason: str, count: int, message: str) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert read_all(path)[1].skipped.counts == {reason: count}
    with pytest.raises(DataError, match=message):
        list(DocumentReader(resolve_sources(str(path)), account=InputAccount(strict=True)))


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    column = pyarrow.StringArray.from_buffers(
        2, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pyarrow.py_buffer(b"a\xffb")
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    documents, account = read_all(tmp_path / "a.parquet")
    assert documents == [b"a", b"\xffb"]
    assert account.replaced.counts == {UNDECODABLE: 1}
    assert account.replaced.first[0].row == 2


def test_file_that_disappeared(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    reader = DocumentReader(resolve_sources(str(tmp_path)))
    (tmp_path / "a.txt").unlink()
    assert list(reader) == [b"b"]
    assert reader.account.skipped.counts == {UNREADABLE_FILE: 1}
    assert "a.txt: the file cannot be read (No such file or directory)" in reader.account.report()


def test_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(WHOLE * 3)
    documents = iter(DocumentReader(resolve_sources(str(path))))
    assert next(documents) == b"a"
    with path.open("ab") as file:
        file.write(WHOLE)
    with pytest.raises(
        SourceChanged, match=r"a\.jsonl was changed while it was prepared \(42 bytes at first, now 56\)"
    ):
        list(documents)
