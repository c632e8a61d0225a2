"""Text and a tokenizer for tests, from seeds."""

from __future__ import annotations

import io
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from gecko_lab.data.tokenizers import ByteTokenizer
from gecko_lab.data.tokenizers.base import Ids, as_bytes

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "Ångström",
    "schläft",
    "日本語",
    "naïve",
    "🦎",
    "0123",
    "def",
    "return",
]


def words(seed: int, count: int = 120) -> str:
    """A document of random words with lines, double spaces and characters of one to four bytes."""
    draw = random.Random(seed)
    return "".join(draw.choice(WORDS) + draw.choice([" ", " ", "  ", "\n"]) for _ in range(count))


def train_sentencepiece(path: Path, bos_id: int) -> Path:
    """A SentencePiece model with byte fallback; `bos_id=-1` for none."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words(i) for i in range(20)),
        model_writer=model,
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        bos_id=bos_id,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return path


class TroubledTokenizer(ByteTokenizer):
    """The byte tokenizer, but for texts that stop it: one waits for ever at `PAUSE`, one dies at `DIE`."""

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[Ids]:
        if any(b"PAUSE" in as_bytes(text) for text in texts):
            time.sleep(600)
        if any(b"DIE" in as_bytes(text) for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_batch(texts)
