"""Induction heads: what stood after this token the last time?"""

from __future__ import annotations

import numpy as np

from gecko_lab.data.synthetic.draws import Draws
from gecko_lab.data.synthetic.task import Sample, SyntheticTask


class Induction(SyntheticTask):
    """Induction heads as in Mamba (arXiv 2312.00752, section 4.1.2; the task is H3's, arXiv 2212.14052).

    Random tokens, among them once a special token, anywhere. The last token read is the special token again: the answer
    is the token that followed it the first time. The published setting is the default; there, the network is tested
    at lengths from 2⁶ to 2²⁰ too. The special token is the highest id.

    Args:
        length: Tokens that the model reads per sample, at least 3.
        vocab_size: Token ids, the special one included, at least 3.
    """

    num_answers = 1

    def __init__(self, *, length: int = 256, vocab_size: int = 16) -> None:
        self.length, self.vocab_size = length, vocab_size
        self.require("length", length, 3)
        self.require("vocab_size", vocab_size, 3)
        self.chance = 1 / (vocab_size - 1)

    def draw(self, draws: Draws) -> Sample:
        """See the class."""
        special, last = self.vocab_size - 1, self.length - 1
        tokens = draws.integers(special, self.length + 1)
        first = draws.integer(self.length - 2)  # the token after it is not the last special one
        tokens[[first, last]] = special
        tokens[last + 1] = tokens[first + 1]
        distances = np.full(self.length, -1, dtype=np.int64)
        distances[last] = last - (first + 1)
        return Sample(tokens, distances)
