"""Numbers that may be integers or fractions are what they look like, whichever library was imported first."""

from datetime import timedelta
from typing import Any, Literal, Union

import pytest

from gecko_lab.__main__ import main
from gecko_lab.errors import ConfigurationError
from gecko_lab.parser import Parser, numbers_first
from gecko_lab.training_command import TrainingCLI

EITHER: Any = Union[float, int, None]  # noqa: UP007 — in this order
WITH_TEXT: Any = Union[str, float, int, timedelta, dict[str, int], None]  # noqa: UP007 — likewise


@pytest.mark.parametrize("union", [EITHER, WITH_TEXT], ids=["numbers", "numbers or text"])
@pytest.mark.parametrize(("text", "value"), [("1", 1), ("3", 3), ("1.0", 1.0), ("0.5", 0.5), ("null", None)])
def test_numbers_first_leaves_numbers_alone(union: Any, text: str, value: float | None) -> None:
    parser = Parser()
    parser.add_argument("--batches", type=union)
    assert not isinstance(parser.parse_args(["--batches", "1"]).batches, int)  # what is to be mended
    numbers_first(parser)
    read = parser.parse_args(["--batches", text]).batches
    assert (read, type(read)) == (value, type(value))


def test_numbers_first_leaves_text_alone() -> None:
    parser = Parser()
    parser.add_argument("--interval", type=WITH_TEXT)
    numbers_first(parser)
    assert parser.parse_args(["--interval", "00:00:10:00"]).interval == "00:00:10:00"


def test_fit_reads_integers_where_typing_prefers_fractions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = TrainingCLI.add_core_arguments_to_parser

    def add(self: TrainingCLI, parser: Any) -> None:
        given(self, parser)
        action = next(action for action in parser._actions if action.dest == "trainer.limit_val_batches")
        action._typehint = EITHER

    monkeypatch.setattr(TrainingCLI, "add_core_arguments_to_parser", add)
    words = ["fit", "--config", "quickstart.yaml", "--trainer.limit_val_batches", "1", "--print_config"]
    with pytest.raises(SystemExit, match="0"):
        main(words)
    assert "limit_val_batches: 1\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("hint", "given", "message"),
    [
        (int | None, "two", "threads: expected int or null, got two"),
        (bool | Literal["selective"], "much", "threads: expected bool or one of 'selective', got much"),
        (Literal["speed", "memory"], "sped", "threads: expected one of 'speed', 'memory', got sped"),
        (Literal["bf16-true", "32"] | None, "1", "threads: expected one of 'bf16-true', '32' or null, got 1"),
        (int | None, "a - b, c", "threads: expected int or null, got a - b, c"),
    ],
    ids=str,
)
def test_a_value_of_no_type_is_told_in_plain_words(hint: Any, given: str, message: str) -> None:
    parser = Parser()
    parser.add_argument("--threads", type=hint)
    with pytest.raises(ConfigurationError) as caught:
        parser.parse_args(["--threads", given])
    assert str(caught.value) == message
