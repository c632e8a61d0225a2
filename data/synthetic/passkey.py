"""Passkey retrieval: one number in a long text, asked for at the end."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gecko_lab.data.synthetic.draws import Draws, Integers
from gecko_lab.data.synthetic.task import Sample, SyntheticTask

_KEY, _QUESTION = 10, 11  # after the digits
_NAMES = 12


class Passkey(SyntheticTask):
    """Passkey retrieval (Landmark Attention, arXiv 2305.16300) in tokens instead of English.

    Filler of any length holds needles: `key name digit … digit`. At the end stands `question name`: the answers are the
    digits of the needle of that name. Several needles make it the look-up of one among many, as in the phone book of
    arXiv 2406.07887. Ids: digits 0 … 9, `key` 10, `question` 11, then the names, then the filler.

    It differs from the published ones in the words: they prompt a language model in English, with a repeated text as
    filler.

    Args:
        length: Tokens that the model reads per sample; up to millions.
        num_digits: Digits of a key.
        num_needles: Keys in the filler, one of which is asked for.
        min_depth: Earliest place of the key that is asked for, as a share of the filler: 0 is the beginning.
        max_depth: Latest place: 1 is right before the question. The other keys lie anywhere.
        filler: `random` tokens, or the filler's ids `repeated` in turn.
        num_names: Names to choose from.
        num_filler_tokens: Ids of the filler.
    """

    chance = 0.1

    def __init__(
        self,
        *,
        length: int = 1024,
        num_digits: int = 5,
        num_needles: int = 1,
        min_depth: float = 0.0,
        max_depth: float = 1.0,
        filler: Literal["random", "repeated"] = "random",
        num_names: int = 16,
        num_filler_tokens: int = 32,
    ) -> None:
        self.length, self.num_digits, self.num_needles = length, num_digits, num_needles
        self.min_depth, self.max_depth = min_depth, max_depth
        self.filler, self.num_names, self.num_filler_tokens = filler, num_names, num_filler_tokens
        self.require("num_digits", num_digits, 1)
        self.require("num_needles", num_needles, 1)
        self.require("num_names", num_names, num_needles)
        self.require("num_filler_tokens", num_filler_tokens, 1)
        if not 0 <= min_depth <= max_depth <= 1:
            raise self.refuse("min_depth", f"{min_depth} to {max_depth}", "0 ≤ min_depth ≤ max_depth ≤ 1 must hold")
        self._needle_length = 2 + num_digits
        self.require("length", length, (num_needles + 1) * self._needle_length - 1)
        self._num_filler = length + 1 - (num_needles + 1) * self._needle_length
        self._earliest, self._latest = int(min_depth * self._num_filler), int(max_depth * self._num_filler)
        self.vocab_size = _NAMES + num_names + num_filler_tokens
        self.num_answers = num_digits

    def draw(self, draws: Draws) -> Sample:
        """See the class."""
        names = _NAMES + draws.distinct(self.num_names, self.num_needles)
        digits = draws.integers(10, self.num_needles * self.num_digits).reshape(self.num_needles, self.num_digits)
        # How much filler stands before each needle; the first of the list is the one that is asked for.
        before = draws.integers(self._num_filler + 1, self.num_needles)
        before[0] = self._earliest + draws.integer(self._latest - self._earliest + 1)
        turn = np.lexsort((draws.distinct(self.num_needles, self.num_needles), before))
        starts = np.empty_like(before)
        starts[turn] = before[turn] + self._needle_length * np.arange(self.num_needles)

        tokens = np.empty(self.length + 1, dtype=np.int64)
        question = self.length + 1 - self._needle_length
        is_filler = np.ones(self.length + 1, dtype=np.bool_)
        is_filler[question:] = False
        for start, name, key in zip(starts, names, digits, strict=True):
            tokens[start : start + self._needle_length] = [_KEY, name, *key]
            is_filler[start : start + self._needle_length] = False
        tokens[is_filler] = self._filler(draws)
        tokens[question:] = [_QUESTION, names[0], *digits[0]]

        distances = np.full(self.length, -1, dtype=np.int64)
        distances[question + 1 :] = question - starts[0] - 1
        return Sample(tokens, distances)

    def _filler(self, draws: Draws) -> Integers:
        first = _NAMES + self.num_names
        if self.filler == "repeated":
            return first + np.arange(self._num_filler) % self.num_filler_tokens
        return first + draws.integers(self.num_filler_tokens, self._num_filler)
