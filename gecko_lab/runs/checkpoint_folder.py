"""Checkpoints on the disk: complete and as they were written, or not taken for checkpoints."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

from gecko_lab.errors import ConfigurationError, UserError
from gecko_lab.runs.files import sync, written_whole

_NAME = re.compile(r"step-(\d{8,})\.ckpt")
_READ_BYTES = 1 << 22


class DamagedCheckpoint(UserError):
    """A checkpoint is not what was written."""


class CheckpointFolder:
    """The folder `checkpoints/` of a run: `step-00000600.ckpt` and beside it `step-00000600.sha256`.

    The checksums are in the format of `sha256sum`: `sha256sum --check *.sha256` verifies them by hand. A checkpoint is
    a file or, where it is sharded, a folder. `last.ckpt` and `best.ckpt` are links.

    Args:
        path: of the folder; made when the first checkpoint is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.path / f"step-{step:08}.ckpt"

    def aside(self, step: int) -> Path:
        """Where the checkpoint of a step is written before it is complete."""
        return self.path / f".step-{step:08}.ckpt.partial"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, rising."""
        if not self.path.is_dir():
            return []
        names = os.listdir(self.path)
        steps = (int(match[1]) for match in map(_NAME.fullmatch, names) if match)
        return sorted(step for step in steps if self.checkpoint(step).name in names)

    def commit(self, step: int) -> Path:
        """What lies aside becomes the checkpoint of the step, and `last.ckpt`."""
        aside, final = self.aside(step), self.checkpoint(step)
        sync(aside)
        lines = [f"{digest}  {final.name}{name and '/'}{name}\n" for name, digest in _digests(aside).items()]
        # the one that is replaced stays valid until the other is there
        replaced = _checksums(final).read_text(encoding="utf-8") if final.exists() else ""
        with written_whole(_checksums(final)) as file:
            file.writelines([*lines, replaced])
        if final.is_dir():
            os.replace(final, final.with_name(f".{final.name}.replaced.partial"))
        os.replace(aside, final)
        sync(final)
        if replaced:
            with written_whole(_checksums(final)) as file:
                file.writelines(lines)
            self.discard_asides()
        self.link("last.ckpt", step)
        return final

    def link(self, name: str, step: int) -> None:
        """Let `name` stand for the checkpoint of a step."""
        aside = self.path / f".{name}.partial"
        aside.unlink(missing_ok=True)
        try:
            aside.symlink_to(self.checkpoint(step).name)
        except OSError:  # a file system without links
            return
        os.replace(aside, self.path / name)

    def discard_asides(self) -> None:
        """Remove what was being written, or removed, when a process died."""
        for path in self.path.glob(".*.partial"):
            _remove(path)
        for path in self.path.glob("step-*.sha256"):
            if not path.with_suffix(".ckpt").exists():
                path.unlink()

    def remove(self, step: int) -> None:
        """Remove the checkpoint of a step."""
        path = self.checkpoint(step)
        _remove(path)
        _checksums(path).unlink(missing_ok=True)

    def set_aside_damaged(self, step: int) -> None:
        """Give a damaged checkpoint a name that nobody takes for a checkpoint."""
        path = self.checkpoint(step)
        damaged = path.with_name(path.name + ".damaged")
        _remove(damaged)
        os.replace(path, damaged)

    def newest(self, *, set_aside: bool) -> Path | None:
        """The newest checkpoint that is what was written; tells on stderr of those that are not.

        Args:
            set_aside: rename damaged ones.

        Raises:
            DamagedCheckpoint: there are checkpoints, and all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                verify(self.checkpoint(step))
            except DamagedCheckpoint as error:
                earlier = "going on with the one before it" if step != steps[0] else "there is none before it"
                print(f"gecko-lab: {error}; {earlier}", file=sys.stderr, flush=True)
                if set_aside:
                    self.set_aside_damaged(step)
                continue
            return self.checkpoint(step)
        if steps or any(self.path.glob("*.damaged")):  # to begin anew here would be to lose what was logged
            raise DamagedCheckpoint(
                f"{self.path}: every checkpoint is damaged (now named .damaged); --fresh starts over beside this run"
            )
        return None


def verify(path: Path) -> None:
    """Compare a checkpoint with its checksums.

    Raises:
        DamagedCheckpoint: it has none, or differs from them.
    """
    checksums = _checksums(path.resolve())
    path = path.resolve()
    try:
        lines = checksums.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedCheckpoint(f"the checkpoint {path} has no readable checksums ({checksums.name})") from error
    # two lines of one name: a process died as it replaced a checkpoint, and either is whole
    expected = {(name, digest) for digest, _, name in (line.partition("  ") for line in lines)}
    found = {f"{path.name}{name and '/'}{name}": digest for name, digest in _digests(path).items()}
    if not found or not found.items() <= expected or found.keys() != {name for name, _ in expected}:
        raise DamagedCheckpoint(f"the checkpoint {path} is damaged: it is not what was written")


def check_readable(path: Path) -> None:
    """Look at a checkpoint that a user names: against its checksums where it has some, else whether it can be one.

    Raises:
        ConfigurationError: there is none.
        DamagedCheckpoint: it is damaged, or holds more than plain values.
    """
    if not path.exists():
        raise ConfigurationError(f"--ckpt_path: there is no checkpoint {path}")
    if _checksums(path.resolve()).exists():
        verify(path)
    if path.is_dir():
        return
    import torch

    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # whatever PyTorch stumbles over in a file that is not its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedCheckpoint(
            f"--ckpt_path: {path} is not a checkpoint, or damaged, or holds more than plain values ({reason[:120]})"
        ) from error
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise DamagedCheckpoint(f"--ckpt_path: {path} is not a checkpoint of a training")


def step_of(path: Path) -> int:
    """The step of a checkpoint of a run, by its name."""
    match = _NAME.fullmatch(path.resolve().name)
    if match is None:
        raise ValueError(f"{path} is not named after a step")
    return int(match[1])


def _checksums(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".sha256")


def _digests(path: Path) -> dict[str, str]:
    """SHA-256 of a file (named by the empty string) or of each file below a folder."""
    files = {"": path} if path.is_file() else {p.relative_to(path).as_posix(): p for p in sorted(path.rglob("*"))}
    digests = {}
    for name, file_path in files.items():
        if file_path.is_file():
            digest = hashlib.sha256()
            with file_path.open("rb") as file:
                while piece := file.read(_READ_BYTES):
                    digest.update(piece)
            digests[name] = digest.hexdigest()
    return digests


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
