"""Records that say of which format they are."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.errors import ConfigurationError
from gecko_lab.json_record import read_json_record

WHOLE = {"format": "gecko-lab-run", "format_version": 1, "more": [1.5, None]}


def read(path: Path) -> dict[str, object] | None:
    return read_json_record(path, of="run", format="gecko-lab-run", version=1, remedy="start anew")


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert read(path) is None
    path.write_text(json.dumps(WHOLE), encoding="utf-8")
    assert read(path) == WHOLE
    assert read(path / "inside") is None, "a file is no folder that holds a record"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"run\.json cannot be read \(.+\); start anew$"),
        ("[" * 100_000, r"run\.json cannot be read \(.+\); start anew$"),
        ("[]", r"run\.json is not the record of a run; name another folder$"),
        (json.dumps(WHOLE | {"format": "other"}), r"run\.json is not the record of a run; name another folder$"),
        (json.dumps(WHOLE | {"format_version": 2}), r"run\.json is of format 2, this version reads 1$"),
    ],
    ids=["torn", "deep", "list", "other", "newer"],
)
def test_what_is_no_record_is_told(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        read(path)


@given(content=st.binary())
def test_any_bytes_are_told_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read(path)
    assert "\n" not in str(caught.value).removeprefix(str(path))
