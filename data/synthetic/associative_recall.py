"""Multi-query associative recall: many keys with a value each, then the keys again."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np

from gecko_lab.data.synthetic.draws import Draws, Integers, power_law
from gecko_lab.data.synthetic.task import Sample, SyntheticTask

Settings = Literal["zoology-64-4", "zoology-128-8", "zoology-256-16", "zoology-512-64"]


class MultiQueryAssociativeRecall(SyntheticTask):
    """Multi-query associative recall, MQAR (Zoology, arXiv 2312.04927, section 4 and figure 2).

    The sample begins with `num_pairs` pairs `key value`, all keys different and all values different. In what follows,
    each key comes once more, the answer after it is its value, and the rest is filler (id 0). A key is asked for 2 · g
    tokens after the last pair; the gaps g = 0, 1, … are drawn one after another without replacement with probability
    proportional to (g + 1)^(power_a − 1), as bigrams come back in natural text; `power_a: 1` is uniform. Keys are
    1 … vocab_size / 2 − 1, values vocab_size / 2 … vocab_size − 1.

    It follows the published generator (`zoology/data/multiquery_ar.py`) but for this: there, filler stands where the
    answer belongs, and the label is kept apart; here the answer is the next token, and so is read after it was asked
    for. As each key is asked for once, this gives nothing away.

    Args:
        settings: The published lengths and numbers of pairs, `zoology-LENGTH-PAIRS`, with a vocabulary of 8192.
        length: Tokens that the model reads per sample, even, at least 4 · num_pairs (`input_seq_len` there); by default
            as in `settings`.
        num_pairs: Pairs, and so questions (`num_kv_pairs` there); by default as in `settings`.
        vocab_size: Token ids, even.
        power_a: Exponent of the power law plus 1; 0.01 puts most questions soon after the pairs.
        random_filler: Filler of tokens drawn from the whole vocabulary (`random_non_queries` there, false in figure 2).
            The pairs alone decide: a key in the filler is no question.
    """

    def __init__(
        self,
        *,
        settings: Settings = "zoology-64-4",
        length: int | None = None,
        num_pairs: int | None = None,
        vocab_size: int = 8192,
        power_a: float = 0.01,
        random_filler: bool = False,
    ) -> None:
        published_length, published_pairs = (int(number) for number in settings.split("-")[1:])
        self.settings = settings
        self.length = published_length if length is None else length
        self.num_pairs = published_pairs if num_pairs is None else num_pairs
        self.vocab_size, self.power_a, self.random_filler = vocab_size, power_a, random_filler
        self.require("num_pairs", self.num_pairs, 1)
        self.require("length", self.length, 4 * self.num_pairs)
        self.require("vocab_size", vocab_size, 2 * (self.num_pairs + 1))
        for option, value in (("length", self.length), ("vocab_size", vocab_size)):
            if value % 2:
                raise self.refuse(option, value, "it must be even")
        if not 0 < power_a <= 1:
            raise self.refuse("power_a", power_a, "it must lie above 0 and at most at 1")
        self.chance = 2 / vocab_size
        self.num_answers = self.num_pairs

    @cached_property
    def _gap_weights(self) -> Integers:
        """Cumulative weights of the gaps."""
        return power_law(self.length // 2 - self.num_pairs, self.power_a - 1)

    def draw(self, draws: Draws) -> Sample:
        """See the class."""
        half, context = self.vocab_size // 2, 2 * self.num_pairs
        keys = 1 + draws.distinct(half - 1, self.num_pairs)
        values = half + draws.distinct(half, self.num_pairs)
        questions = context + 2 * draws.distinct_weighted(self._gap_weights, self.num_pairs)

        if self.random_filler:
            tokens = draws.integers(self.vocab_size, self.length + 1)
        else:
            tokens = np.zeros(self.length + 1, dtype=np.int64)
        tokens[0:context:2], tokens[1:context:2] = keys, values
        tokens[questions], tokens[questions + 1] = keys, values

        distances = np.full(self.length, -1, dtype=np.int64)
        distances[questions] = questions - np.arange(1, context, 2)
        return Sample(tokens, distances)
