"""Whatever a file holds: one message or success, and nothing in it is run."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gecko_lab.__main__ import main
from gecko_lab.configuration import read_invocation
from gecko_lab.errors import UserError
from gecko_lab.runs.checkpoint_folder import check_readable
from gecko_lab.runs.event_files import keep_until
from gecko_lab.runs.metrics_file import read_metrics
from gecko_lab.runs.metrics_log import MetricsLog
from gecko_lab.runs.record_file import read_record, run_state
from gecko_lab.yaml_files import read_yaml
from tests.runs.stopping import copy_of, fit
from tests.training import arguments

Said = Callable[[], str]
fuzz = settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutations(draw: st.DrawFn, content: bytes) -> bytes:
    """A few pieces cut out, doubled, or replaced."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.sampled_from([1, 1, 4, 100])))
        piece = draw(st.sampled_from([b"", content[start:stop] * 2, b"\x00"]) | st.binary(max_size=4))
        content = content[:start] + piece + content[stop:]
    return content


class Trap:
    """Runs code where it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sprung,)


def with_checksums(checkpoint: Path) -> None:
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    checkpoint.with_suffix(".sha256").write_text(f"{digest}  {checkpoint.name}\n")


def assert_one_line(error: UserError) -> None:
    assert "\n" not in str(error)


@fuzz
@given(content=st.binary() | st.text(alphabet="abc:&*!|>-?[]{},#%@ \n\t'\"01e.").map(str.encode))
@example(b"a: 2001-99-99")
@example(b"a: 2001-01-01")
@example(b"a: !!bool maybe")
@example(b"a: !!timestamp x")
@example(b"a: !!int ''")
@example(b"a: !!binary aaaa")
@example(b"a: &b [*b]")
@example(
    b"a: &a [1,1,1,1,1,1,1,1]\n"
    + b"".join(b"%c: &%c [*%c,*%c,*%c,*%c]\n" % (98 + i, 98 + i, *[97 + i] * 4) for i in range(20))
)
@example(b"model: {network: &n {layer: *n}}")
@example(b"? {a: b}\n: c")
@example(b"1: 2")
@example(b"data: {1: 2, null: 3}")
def test_configuration_of_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    try:
        json.dumps(read_yaml(path))
        read_invocation(["--config", str(path)])
    except UserError as error:
        assert_one_line(error)


def test_fit_with_a_configuration_that_was_damaged(trainings: Path, said: Said) -> None:
    """Trains a step, or says in one message why not."""
    content = (trainings / "whole" / "config.yaml").read_bytes()
    path = trainings / "damaged.yaml"
    draw = random.Random(0)
    for damaged in [False, *[True] * 15]:
        position = draw.randrange(len(content))
        piece = draw.choice([b"", b"\n", b": ", b"x", b"- ", b"null", b"\xff"])
        rest = content[position + draw.choice([0, 1, 5]) :]
        path.write_bytes(content[:position] + piece + rest if damaged else content)
        code = main(["fit", "--config", str(path), *arguments(trainings, trainer__fast_dev_run=1)])
        assert code in (0, 2) if damaged else code == 0
        assert (message := said()).count("\n") == 0
        assert (code == 0) == (message == "")


@fuzz
@given(data=st.data())
def test_run_record_of_any_content(
    trainings: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "record"
    folder.mkdir(exist_ok=True)
    content = (trainings / "half" / "run.json").read_bytes()
    record = json.loads(content)
    changed = st.builds(
        lambda key, value: json.dumps({**record, key: value}).encode(), st.sampled_from(sorted(record)), JSON
    )
    (folder / "run.json").write_bytes(
        data.draw(st.binary() | mutations(content) | changed | JSON.map(json.dumps).map(str.encode))
    )
    try:
        found = read_record(folder)
        assert run_state(folder) in ("finished", "interrupted", "failed", None)
    except UserError as error:
        assert_one_line(error)
    else:
        assert found is not None


@pytest.mark.parametrize(
    ("key", "value"), [("starts", []), ("progress", {"seconds": -1e300}), ("state", "finished"), ("created", None)]
)
def test_fit_with_a_run_record_that_lacks_something(trainings: Path, half: Path, key: str, value: Any) -> None:
    record = json.loads((half / "run.json").read_text())
    del record["cost"], record["metrics"]
    (half / "run.json").write_text(json.dumps({**record, key: value}))
    assert fit(trainings, half) == 0


@fuzz
@given(data=st.data())
def test_checkpoint_of_any_bytes(
    trainings: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.ckpt"
    content = (trainings / "half" / "checkpoints" / "step-00000007.ckpt").read_bytes()
    path.write_bytes(data.draw(st.binary() | mutations(content)))
    try:
        check_readable(path)
    except UserError as error:
        assert_one_line(error)


def structures(checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """Checkpoints that lack something, or hold something else in its place."""
    loops = checkpoint["loops"]
    without = [{key: value for key, value in checkpoint.items() if key != name} for name in checkpoint]
    instead = [{**checkpoint, name: value} for name in checkpoint for value in (None, {"x": 1}, [3.5])]
    fit_loop = [{**checkpoint, "loops": {**loops, "fit_loop": value}} for value in (None, {}, {"x": 1})]
    return [*without, *instead, *fit_loop]


def test_fit_with_a_checkpoint_of_another_structure(trainings: Path, tmp_path: Path, said: Said) -> None:
    """With the right checksums, and without any."""
    source = torch.load(trainings / "half" / "checkpoints" / "step-00000007.ckpt", weights_only=True)
    chosen = random.Random(1).sample(structures(source), 8)
    for number, checkpoint in enumerate(chosen):
        run = copy_of(trainings / "half", tmp_path / f"{number}")
        path = run / "checkpoints" / "step-00000007.ckpt"
        torch.save(checkpoint, path)
        with_checksums(path)
        said()
        code = fit(trainings, run)
        assert code in (0, 2)
        message = said()
        assert message.count("\n") == 0
        assert (code == 2) == bool(message)


@pytest.mark.parametrize("place", ["of the run", "named"])
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_trap_in_a_checkpoint_never_springs(
    trainings: Path, half: Path, tmp_path: Path, said: Said, place: str, verb: str
) -> None:
    sprung, checkpoint = tmp_path / "sprung", half / "checkpoints" / "step-00000007.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "state_dict": Trap(sprung)}, checkpoint)
    with_checksums(checkpoint)
    if place == "named":
        options = ["--ckpt_path", str(checkpoint)]
        run = tmp_path / "other"
    elif verb == "fit":
        options, run = [], half
    else:
        options, run = ["--ckpt_path", str(half / "checkpoints" / "last.ckpt")], tmp_path / "other"
    if verb == "fit":
        assert fit(trainings, run, *options) == 2
    else:
        assert main(["validate", "--run", str(run), *arguments(trainings), *options]) == 2
    assert said().count("\n") == 0
    assert not sprung.exists()


@fuzz
@given(data=st.data())
def test_metrics_of_any_bytes(trainings: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "metrics"
    folder.mkdir(exist_ok=True)
    content = (trainings / "half" / "metrics.csv").read_bytes()
    (folder / "metrics.csv").write_bytes(data.draw(st.binary() | mutations(content)))
    before = read_metrics(folder)
    log = MetricsLog(folder, 5)
    log.log_metrics({"loss": 1.0}, 5)
    log.save()
    after = read_metrics(folder)
    assert after[-1]["step"] == "6"
    assert [row["step"] for row in after[:-1]] == [row["step"] for row in before if int(row["step"]) <= 5]


@fuzz
@given(data=st.data())
def test_events_of_any_bytes(trainings: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "events"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    (source,) = (trainings / "half").glob("events.*")
    content = source.read_bytes()
    (folder / data.draw(st.sampled_from([source.name, "events.out.tfevents.", "events.out.tfevents.²"]))).write_bytes(
        data.draw(st.binary() | mutations(content))
    )
    keep_until(folder, 5)
    (path,) = folder.iterdir()
    kept = path.read_bytes()
    keep_until(folder, 5)
    assert [(path, path.read_bytes())] == [(one, kept) for one in folder.iterdir()]
