"""What a synthetic task is: samples by index, whose answers follow exactly from what was read before."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from gecko_lab.data.errors import DataError, require
from gecko_lab.data.synthetic.draws import Draws, Integers


class Sample(NamedTuple):
    """One sequence of a task.

    Attributes:
        tokens: int64 `[L + 1]`; the model reads the first L and predicts the last L.
        distances: int64 `[L]`; where `tokens[t + 1]` is an exactly determined answer, how many tokens before t the
            information stands that it follows from (`tokens[t - distance]`, equal to the answer); −1 elsewhere.
            Attention that sees w tokens, the newest included, sees it where the distance is below w.
    """

    tokens: Integers
    distances: Integers

    @property
    def answers(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Where the next token is an answer, bool `[L]`."""
        return self.distances >= 0


class SyntheticTask(ABC):
    """A task with exact answers: a sample is a function of the options, a seed and an index, and of nothing else.

    A subclass keeps every option in an attribute of its name; every sample has as many answers.

    Args:
        length: Tokens that the model reads per sample, L.

    Attributes:
        vocab_size: number of token ids.
        chance: accuracy of guessing each answer uniformly among the tokens that can be one.
        num_answers: answers of a sample.
    """

    length: int
    vocab_size: int
    chance: float
    num_answers: int

    def sample(self, seed: int, index: int) -> Sample:
        """The sample of an index.

        Arguments:
            seed: 0 to 2³² − 1.
            index: at least 0.
        """
        return self.draw(Draws(seed, index))

    @abstractmethod
    def draw(self, draws: Draws) -> Sample:
        """The sample that the draws decide."""

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the constructor with its value."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def require(self, option: str, value: int, minimum: int) -> None:
        """Refuse a value that is too small."""
        require(f"{type(self).__name__}.{option}", value, minimum)

    def refuse(self, option: str, value: object, remedy: str) -> DataError:
        """The error for an option that cannot be."""
        return DataError(f"{type(self).__name__}.{option}: {value} cannot be; {remedy}.")
