"""What README.md and CONTRIBUTING.md show: commands parse, links lead somewhere, Python runs."""

import re
import shlex
from pathlib import Path

import pytest

from gecko_lab.__main__ import TRAINING, VERBS, main

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "experiments/README.md"]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def commands() -> list[str]:
    """Every `gecko-lab …` of the pages' blocks and of inline code, without comments."""
    found = []
    for text in TEXTS.values():
        outside = FENCED.sub("", text)
        indented = re.findall(r"^ {4,}(gecko-lab .*)$", text, re.MULTILINE)
        fenced = [line for _, block in FENCED.findall(text) for line in block.splitlines()]
        inline = re.findall(r"`(gecko-lab [^`\n]+)`", outside)
        found += [line.strip() for line in [*indented, *fenced, *inline] if line.strip().startswith("gecko-lab ")]
    return sorted({command.split("  #")[0].split(" #")[0].strip() for command in found})


def blocks(wanted: str) -> dict[str, list[str]]:
    """The blocks of a language, by page."""
    found = {page: [block for name, block in FENCED.findall(text) if name == wanted] for page, text in TEXTS.items()}
    return {page: texts for page, texts in found.items() if texts}


def test_readme_shows_commands_python_and_yaml() -> None:
    assert len(commands()) >= 5
    assert "README.md" in blocks("python")
    assert "README.md" in blocks("yaml")


@pytest.mark.parametrize("command", commands())
def test_command_parses(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "NAME.yaml"):  # what the reader is to write
        (tmp_path / name).write_text("data: {seed: 1}\n", encoding="utf-8")
    command = command.replace("LeakyMemory", "AdditiveMemory")
    _, verb, *words = shlex.split(command)
    assert verb.startswith("-") or verb in TRAINING or verb in VERBS
    if verb in TRAINING:
        words = [word for word in words if word != "--print_config"] + ["--print_config"]
    elif verb in VERBS and not (verb == "components" or words[-1:] == ["--help"]):
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        words = [word for word in words[:1] if not word.startswith("--")] + ["--help"]
        with pytest.raises(SystemExit, match="0"):
            main([verb, *words])
        printed = capsys.readouterr().out
        assert all(flag in printed for flag in flags)
        return
    try:
        code: object = main([verb, *words])
    except SystemExit as end:  # after --help and --print_config
        code = end.code or 0
    assert code == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in LINK.findall(TEXTS[page]):
        if not re.match(r"\w+:|#", link):
            assert ((ROOT / page).parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", blocks("python"))
def test_python_blocks_run_one_after_the_other(page: str) -> None:
    names: dict[str, object] = {}
    for number, block in enumerate(blocks("python")[page]):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("block", [block for texts in blocks("yaml").values() for block in texts])
def test_yaml_block_is_a_configuration(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "block.yaml").write_text(block, encoding="utf-8")
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", "block.yaml", "--print_config"])
    assert "network:" in capsys.readouterr().out
