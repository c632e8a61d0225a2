"""What the source tree holds: the tests of layout and imports look at the same files."""

import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "gecko_lab"
LINKED_FOLDERS = ("components", "data", "experiments", "kernels")


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, each file once, at its real place."""
    found = {}
    for folder in (PACKAGE, *LINKED_FOLDERS):
        prefix = (PACKAGE,) if folder == PACKAGE else (PACKAGE, folder)
        # rglob looks for no files behind links, so gecko_lab/kernels is not seen twice
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            if not path.resolve().is_relative_to(REPOSITORY / folder):
                continue
            parts = path.relative_to(REPOSITORY / folder).with_suffix("").parts
            found[".".join((*prefix, *(part for part in parts if part != "__init__")))] = path
    return found


def files_under_version_control() -> list[Path]:
    """All files that git has or would take; skips the test where there is no git checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]
