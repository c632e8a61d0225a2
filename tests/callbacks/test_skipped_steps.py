"""The record of steps that were left out."""

import json
import math
from pathlib import Path

import pytest

from gecko_lab.callbacks.skipped_steps import SkippedSteps, as_json


@pytest.mark.parametrize("torn", ["", '{"step": 2, "gra', "\n", "[1]\n", '{"step": null}\n'])
def test_keep_until_cuts_later_steps_and_what_is_no_line(torn: str, tmp_path: Path) -> None:
    record = SkippedSteps(tmp_path / "run")
    record.keep_until(0)  # there is no file yet
    for step in (2, 5, 6):
        record.add({"step": step})
    with record.path.open("a", encoding="utf-8") as file:
        file.write(torn)
    record.keep_until(5)
    record.add({"step": 7})
    assert [json.loads(line)["step"] for line in record.path.read_text().splitlines()] == [2, 5, 7]
    assert [path.name for path in record.path.parent.iterdir()] == ["skipped.jsonl"]


def test_as_json_writes_numbers_that_json_lacks_as_words() -> None:
    value = {"a": [math.nan, 1.5, {"b": -math.inf}], "c": 3, "d": None, "e": "text"}
    assert as_json(value) == {"a": ["nan", 1.5, {"b": "-inf"}], "c": 3, "d": None, "e": "text"}
