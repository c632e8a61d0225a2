"""An earlier revision of this package beside the files as they are now, run by the same benchmark."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gecko_lab.errors import ConfigurationError

PACKAGE = Path(__file__).resolve().parent.parent


@contextmanager
def checked_out(revision: str) -> Iterator[tuple[Path, str]]:
    """A temporary work tree of a revision whose benchmark is this one; its folder, and the commit in short.

    Raises:
        ConfigurationError: this is no git checkout, or there is no such revision.
    """
    root = PACKAGE.parent
    found = _git(root, "rev-parse", "--verify", "--short=12", "--end-of-options", f"{revision}^{{commit}}")
    if found.returncode != 0:
        raise ConfigurationError(f"--compare: git knows no revision {revision!r} here: {_last_line(found.stderr)}")
    commit = found.stdout.strip()
    with tempfile.TemporaryDirectory(prefix="gecko-lab-bench-") as folder:
        tree = Path(folder) / commit
        added = _git(root, "worktree", "add", "--detach", str(tree), commit)
        if added.returncode != 0:
            raise ConfigurationError(f"--compare: git cannot check {revision} out: {_last_line(added.stderr)}")
        try:
            # The same code must measure both.
            bench = tree / PACKAGE.name / "bench"
            shutil.rmtree(bench, ignore_errors=True)
            shutil.copytree(PACKAGE / "bench", bench, ignore=shutil.ignore_patterns("__pycache__"))
            yield tree, commit
        finally:
            _git(root, "worktree", "remove", "--force", str(tree))


def run_in(tree: Path, verb: str, options: dict[str, Any]) -> dict[str, Any]:
    """What a verb of the benchmark prints as JSON in the tree of a revision.

    Raises:
        ConfigurationError: it does not run there.
    """
    command = [sys.executable, "-m", "gecko_lab.bench.revisions", verb, json.dumps(options)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise ConfigurationError(
            f"--compare: bench {verb} does not run in {tree.name}: {_last_line(done.stderr)}"
        ) from None
    return result


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except OSError as error:
        raise ConfigurationError(f"--compare needs git, which cannot be run: {error.strerror}") from None


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given")


if __name__ == "__main__":  # the other side of `run_in`
    from gecko_lab import bench

    getattr(bench, sys.argv[1])(**json.loads(sys.argv[2]), json=True)
