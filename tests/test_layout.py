"""The shape of the repository: links, packages, what a wheel holds, and what no file may mention."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from setuptools import Distribution

from tests.source_tree import LINKED_FOLDERS, PACKAGE, REPOSITORY, files_under_version_control, modules

THIS_MACHINE = re.compile(r"(?<![\w.])/(work|root|home)/\w")
# In pieces, so that this file does not mention them itself.
PACKAGE_INDEX = re.compile("|".join(re.escape("".join(name)) for name in (("py", "pi.org"), ("python", "hosted."))))


@pytest.mark.parametrize("folder", LINKED_FOLDERS)
def test_link_points_to_the_folder(folder: str) -> None:
    link = REPOSITORY / PACKAGE / folder
    assert link.is_symlink()
    assert os.readlink(link) == f"../{folder}", "a relative link works wherever the repository lies"
    assert link.is_dir()


@pytest.mark.parametrize("folder", LINKED_FOLDERS)
def test_folder_is_no_regular_package(folder: str) -> None:
    assert not (REPOSITORY / folder / "__init__.py").exists(), (
        f"a regular package named '{folder}' on the path shadows other people's (`kernels` breaks transformers)"
    )


def test_package_dir_names_the_links() -> None:
    described = Distribution()
    described.parse_config_files([str(REPOSITORY / "pyproject.toml")])
    links = [path.name for path in (REPOSITORY / PACKAGE).iterdir() if path.is_symlink()]
    assert sorted(links) == sorted(LINKED_FOLDERS)
    assert described.package_dir == {PACKAGE: PACKAGE, **{f"{PACKAGE}.{folder}": folder for folder in LINKED_FOLDERS}}


def test_every_folder_with_modules_is_a_package() -> None:
    roots = {REPOSITORY / folder for folder in LINKED_FOLDERS}
    folders = {
        folder
        for path in modules().values()
        for folder in path.parents
        if folder.is_relative_to(REPOSITORY) and folder != REPOSITORY
    }
    missing = sorted(str(folder) for folder in folders - roots if not (folder / "__init__.py").exists())
    assert not missing, f"without __init__.py, and so not in the wheel: {missing}"


@pytest.mark.parametrize("module", modules())
def test_module_imports(module: str) -> None:
    assert importlib.import_module(module).__name__ == module


@pytest.mark.parametrize("links", ["kept", "lost"])
def test_wheel_is_whole(links: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tree)
    for folder in (PACKAGE, *LINKED_FOLDERS):
        shutil.copytree(REPOSITORY / folder, tree / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    if links == "lost":
        for folder in LINKED_FOLDERS:
            (tree / PACKAGE / folder).unlink()

    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    built = subprocess.run([sys.executable, "-c", build], cwd=tree, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".py", ".yaml", "py.typed"))}

    sources = {
        f"{'' if folder == PACKAGE else f'{PACKAGE}/'}{path.relative_to(REPOSITORY).as_posix()}"
        for folder, pattern in [*((folder, "*.py") for folder in (PACKAGE, *LINKED_FOLDERS)), ("experiments", "*.yaml")]
        for path in (REPOSITORY / folder).rglob(pattern)
        if path.resolve().is_relative_to(REPOSITORY / folder)
    }
    assert held == sources | {f"{PACKAGE}/py.typed"}


@pytest.mark.parametrize(
    ("pattern", "what"), [(THIS_MACHINE, "a path of one machine"), (PACKAGE_INDEX, "the host of a package index")]
)
def test_no_file_mentions(pattern: re.Pattern[str], what: str) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:100]}"
        for path in files_under_version_control()
        if b"\0" not in (content := path.read_bytes())
        for number, line in enumerate(content.decode("utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"{what} in\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("pattern", "line", "found"),
    [
        (THIS_MACHINE, "cd " + "/".join(("", "home", "me")), True),
        (THIS_MACHINE, "https://example.org/home/page", False),
        (THIS_MACHINE, "frame/work/shop", False),
        (PACKAGE_INDEX, "--index-url https://" + "py" + "pi.org/simple", True),
        (PACKAGE_INDEX, "the package index", False),
    ],
)
def test_patterns_find_what_they_name(pattern: re.Pattern[str], line: str, found: bool) -> None:
    assert bool(pattern.search(line)) is found
