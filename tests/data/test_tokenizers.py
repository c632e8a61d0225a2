from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from gecko_lab.data.errors import DataError
from gecko_lab.data.tokenizers import build_tokenizer
from tests.data.corpora import train_sentencepiece, words

FILES = ["byte_level_file", "byte_fallback_file", "sentencepiece_file", "tiktoken_file"]
TEXTS = ["the fox", words(1), "  spaces   \n\n the\tthe ", "äöü 日本語 🦎", "", "<s> </s> <|endoftext|> <unk>"]


@pytest.fixture(params=["bytes", *FILES])
def name(request: pytest.FixtureRequest) -> str:
    return "bytes" if request.param == "bytes" else str(request.getfixturevalue(request.param))


def test_round_trip_and_bytes(name: str) -> None:
    tokenizer = build_tokenizer(name)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(torch.tensor([tokenizer.bos_id, *ids.tolist()])) == text, "BOS gives text"
        assert tokenizer.token_bytes[ids.tolist()].sum() == len(text.encode())
        assert tokenizer.bos_id not in ids, "a text spelled BOS"
        assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_bytes_and_text_give_the_same_ids(name: str) -> None:
    tokenizer = build_tokenizer(name)
    for text in TEXTS:
        assert tokenizer.encode(text).tolist() == tokenizer.encode(text.encode()).tolist()
    batch = tokenizer.encode_batch(TEXTS)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text).tolist() for text in TEXTS]


def test_token_bytes(name: str) -> None:
    tokenizer = build_tokenizer(name)
    assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,)
    assert tokenizer.token_bytes.dtype == torch.int32
    assert tokenizer.token_bytes[tokenizer.bos_id] == 0


def test_undecodable_bytes_are_replaced(name: str) -> None:
    assert build_tokenizer(name).decode(build_tokenizer(name).encode(b"a\xffb")) == "a\ufffdb"


def test_bytes_tokenizer_is_raw() -> None:
    tokenizer = build_tokenizer("bytes")
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (257, 256)
    assert tokenizer.encode(bytes(range(256))).tolist() == list(range(256))
    assert tokenizer.encode("a\ud800").tolist() == [97, 63]


def test_bos_of_each_kind(
    byte_level_file: Path, byte_fallback_file: Path, sentencepiece_file: Path, tiktoken_file: Path, tmp_path: Path
) -> None:
    assert build_tokenizer(str(byte_level_file)).bos_id == build_tokenizer(str(byte_level_file)).vocab_size - 1 == 320
    assert build_tokenizer(str(byte_fallback_file)).bos_id == 1
    assert build_tokenizer(str(sentencepiece_file)).bos_id == 1
    assert build_tokenizer(str(sentencepiece_file)).vocab_size == 330
    assert build_tokenizer(str(train_sentencepiece(tmp_path / "without.model", bos_id=-1))).bos_id == 330
    assert build_tokenizer(str(tiktoken_file)).bos_id == 259


def test_bos_of_a_tokenizer_config(byte_level_file: Path) -> None:
    import tokenizers

    with_end = tokenizers.Tokenizer.from_file(str(byte_level_file))
    with_end.add_special_tokens(["<|endoftext|>"])  # GPT-2 begins texts with the token that ends them
    with_end.save(str(byte_level_file))
    assert build_tokenizer(str(byte_level_file)).bos_id == 321
    config = byte_level_file.parent / "tokenizer_config.json"
    config.write_text('{"bos_token": {"content": "<|endoftext|>"}}')
    tokenizer = build_tokenizer(str(byte_level_file.parent))
    assert (tokenizer.bos_id, tokenizer.vocab_size) == (320, 321)
    config.write_text("[")
    with pytest.raises(DataError, match=r"tokenizer_config\.json"):
        build_tokenizer(str(byte_level_file))


def test_identity(name: str, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(name)
    assert tokenizer.identity == build_tokenizer(name).identity
    if name != "bytes":
        elsewhere = shutil.copy(name, tmp_path / f"elsewhere{Path(name).suffix}")
        assert build_tokenizer(str(elsewhere)).identity == tokenizer.identity


def test_identity_follows_content(tiktoken_file: Path) -> None:
    before = build_tokenizer(str(tiktoken_file)).identity
    tiktoken_file.write_bytes(b"\n".join(tiktoken_file.read_bytes().split(b"\n")[:-2]))
    assert build_tokenizer(str(tiktoken_file)).identity != before


def test_unknown_names() -> None:
    with pytest.raises(
        DataError, match=r"'byte': there is no such name or file\. Did you mean 'bytes'\?.*tokenizer.json"
    ):
        build_tokenizer("byte")
    with pytest.raises(DataError, match=r"'nowhere/tokenizer.json': there is no such file"):
        build_tokenizer("nowhere/tokenizer.json")


def test_name_that_needs_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"'o200k_base': tiktoken would download https://"):
        build_tokenizer("o200k_base")


@pytest.mark.parametrize(
    ("file_name", "content", "message"),
    [
        ("tokenizer.json", b"{}", "is not a Hugging Face tokenizer.json"),
        ("tokenizer.json", b"\xff", "is not a Hugging Face tokenizer.json"),
        ("words.model", b"not a model", "is not a SentencePiece model"),
        ("words.model", b"", "is not a SentencePiece model"),
        ("some.tiktoken", b"YQ== 0\nno\n", "line 2: not a tiktoken encoding file"),
        ("some.tiktoken", b"YQ== 0\n", "no token for the single byte 0x00"),
        ("words.vocab", b"a", "unknown kind of file"),
    ],
)
def test_files_that_are_no_tokenizer(tmp_path: Path, file_name: str, content: bytes, message: str) -> None:
    path = tmp_path / file_name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        build_tokenizer(str(path))
    assert str(path) in str(caught.value)


def test_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds none of tokenizer\.json"):
        build_tokenizer(str(tmp_path))
