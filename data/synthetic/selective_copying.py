"""Selective copying: repeat what was said, and leave out the noise."""

from __future__ import annotations

import numpy as np

from gecko_lab.data.synthetic.draws import Draws
from gecko_lab.data.synthetic.task import Sample, SyntheticTask


class SelectiveCopying(SyntheticTask):
    """Selective copying as in Mamba (arXiv 2312.00752, section 4.1.1; arXiv 1511.06464 with places drawn at random).

    Noise tokens (id 0) with data tokens (1 … vocab_size − 2) at random places, then a marker (the highest id): the
    answers are the data tokens in their order. The published setting is the default.

    It differs from the published one in how the answers are asked for: there, as many markers are read as there are
    data tokens; here, one marker and then the answers themselves, as everywhere in next-token prediction.

    Args:
        length: Tokens that the model reads per sample, at least 2 · num_data_tokens.
        num_data_tokens: Tokens to copy.
        vocab_size: Token ids, noise and marker included, at least 4.
    """

    def __init__(self, *, length: int = 4096, num_data_tokens: int = 16, vocab_size: int = 16) -> None:
        self.length, self.num_data_tokens, self.vocab_size = length, num_data_tokens, vocab_size
        self.require("num_data_tokens", num_data_tokens, 1)
        self.require("length", length, 2 * num_data_tokens)
        self.require("vocab_size", vocab_size, 4)
        self.chance = 1 / (vocab_size - 2)
        self.num_answers = num_data_tokens

    def draw(self, draws: Draws) -> Sample:
        """See the class."""
        marker = self.length - self.num_data_tokens
        places = np.sort(draws.distinct(marker, self.num_data_tokens))
        data = 1 + draws.integers(self.vocab_size - 2, self.num_data_tokens)
        tokens = np.zeros(self.length + 1, dtype=np.int64)
        tokens[places] = data
        tokens[marker] = self.vocab_size - 1
        tokens[marker + 1 :] = data
        distances = np.full(self.length, -1, dtype=np.int64)
        distances[marker:] = np.arange(marker, self.length) - places
        return Sample(tokens, distances)
