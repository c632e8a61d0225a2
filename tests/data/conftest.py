"""Tiny corpora and tokenizers, made afresh for each test that asks for them, and other sizes of parts and chunks."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from gecko_lab.data import parts, pool, storage
from tests.data.corpora import train_sentencepiece, words


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of 40 text files, in two levels, with a file of another type and an empty one among them."""
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    for i in range(40):
        place = folder / "deep" if i % 2 else folder
        (place / f"{i:02}.txt").write_text(f"document {i}\n{words(i)}", encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "empty.txt").write_bytes(b"")
    return folder


@pytest.fixture
def byte_level_file(tmp_path: Path) -> Path:
    """A byte-level BPE `tokenizer.json` without BOS."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([words(i) for i in range(20)], trainer)
    path = tmp_path / "byte_level" / "tokenizer.json"
    path.parent.mkdir()
    tokenizer.save(str(path))
    return path


@pytest.fixture
def byte_fallback_file(tmp_path: Path) -> Path:
    """A `tokenizer.json` in the style of Llama's: a mark for the space, bytes as fallback, `<s>` as BOS."""
    import tokenizers
    from tokenizers import decoders, models, normalizers

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for token in [
        *(f"<0x{value:02X}>" for value in range(256)),
        "▁",
        "t",
        "h",
        "e",
        "th",
        "the",
        "▁the",
        "ä",
        "r",
        "n",
    ]:
        vocabulary[token] = len(vocabulary)
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.enable_truncation(5)  # as many published files have; documents must not be cut by it
    path = tmp_path / "byte_fallback.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture
def sentencepiece_file(tmp_path: Path) -> Path:
    """A SentencePiece model with byte fallback that keeps text as it is, and a BOS of its own."""
    return train_sentencepiece(tmp_path / "words.model", bos_id=1)


@pytest.fixture
def tiktoken_file(tmp_path: Path) -> Path:
    """A tiktoken encoding: the bytes and three merges."""
    tokens = [*(bytes([value]) for value in range(256)), b"th", b"the", b" the"]
    path = tmp_path / "tiny.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(t) + f" {rank}\n".encode() for rank, t in enumerate(tokens)))
    return path


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so short that documents go on from one to the next."""
    monkeypatch.setattr(storage, "_SLAB_TOKENS", 256)
    monkeypatch.setattr(storage, "_CHUNK_SLABS", 4)


@pytest.fixture
def a_part_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is a part of its own."""
    monkeypatch.setattr(parts, "_MIN_PART_BYTES", 1)
    monkeypatch.setattr(parts, "_MAX_PART_BYTES", 1)


@pytest.fixture
def prepared_parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first file of each part that is prepared in this process, in order."""
    found: list[str] = []
    whole = pool.prepare_part

    def counted(part: parts.Part, *arguments: Any) -> None:
        found.append(Path(part.files[0].location).name)
        whole(part, *arguments)

    monkeypatch.setattr(pool, "prepare_part", counted)
    return found
