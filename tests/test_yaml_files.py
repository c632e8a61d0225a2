"""Settings from YAML."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gecko_lab.errors import ConfigurationError
from gecko_lab.yaml_files import read_yaml, read_yaml_value

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=50)
@given(content=st.dictionaries(st.text(), PLAIN))
def test_settings_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "settings.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert read_yaml(path) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\n", "bad.yaml is not YAML"),
        (b"a: \x00", "bad.yaml is not YAML"),
        (b"a: b: c", "bad.yaml is not YAML"),
        (b"a: !!python/object:os.system {}", "bad.yaml is not YAML"),
        (b"[" * 5000, "bad.yaml is not YAML"),
        (b"\xff\xfe\x00\x01", "bad.yaml cannot be read"),
        (b"- 1\n- 2\n", "bad.yaml: expected keys and values, found list"),
        (b"word", "bad.yaml: expected keys and values, found str"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_read_yaml_says_in_one_line_what_is_wrong(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_yaml(Path("bad.yaml"))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("null", None), ("[1, a]", [1, "a"]), ("{a: 1}", {"a": 1}), (".inf", math.inf), ("", None)],
)
def test_read_yaml_value(text: str, value: object) -> None:
    assert read_yaml_value(text, "--flag") == value


@pytest.mark.parametrize("text", ["[1", "2001-01-01", "!!binary aaaa", "&a [*a]"])
def test_read_yaml_value_says_where_a_text_stands_that_is_no_setting(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--flag: .+"):
        read_yaml_value(text, "--flag")
