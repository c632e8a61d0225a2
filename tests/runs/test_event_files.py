"""TensorBoard's events are kept over restarts: none twice, in order whatever the clock says."""

import threading
import time
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event

from gecko_lab.runs.event_files import StepTensorBoardLogger, keep_until
from tests.runs.comparison import events


def log_steps(folder: Path, steps: range) -> None:
    logger = StepTensorBoardLogger(folder)
    for step in steps:
        logger.log_metrics({"loss": float(step)}, step - 1)
    logger.experiment.close()


def steps_in_order(folder: Path) -> list[int]:
    """Steps as TensorBoard comes to them: files by name."""
    from tensorboard.backend.event_processing.directory_loader import DirectoryLoader
    from tensorboard.backend.event_processing.event_file_loader import TimestampedEventFileLoader

    found: list[int] = []
    for event in DirectoryLoader(str(folder), TimestampedEventFileLoader).Load():
        found += [event.step for value in event.summary.value if value.tag == "loss"]
    return found


@pytest.mark.parametrize("clock", [1.0, -1e8], ids=["forward", "back"])
def test_keep_until_leaves_each_step_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    given = time.time
    for start, stop in ((1, 6), (4, 9), (9, 12), (2, 13)):
        monkeypatch.setattr(time, "time", lambda start=start: given() + clock * start)
        keep_until(tmp_path, start - 1)
        log_steps(tmp_path, range(start, stop))
        assert steps_in_order(tmp_path) == list(range(1, stop))
        keep_until(tmp_path, stop)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        keep_until(tmp_path, stop)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert [step for _, step, _ in events(tmp_path)] == list(range(1, 13))


def test_keep_until_ends_before_a_record_that_was_torn(tmp_path: Path) -> None:
    log_steps(tmp_path, range(1, 6))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for cut in range(1, 40, 7):
        path.write_bytes(content[:-cut])
        keep_until(tmp_path, 5)
        (path,) = tmp_path.iterdir()
        assert steps_in_order(tmp_path) == [1, 2, 3, 4]


def test_a_thread_that_cannot_write_events_hands_its_error_on_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    logger = StepTensorBoardLogger(folder)
    logger.experiment.flush()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()

    def write() -> None:
        for step in range(1, 1000):
            logger.experiment.file_writer.event_writer.add_event(Event(step=step))
            logger.experiment.flush()

    with pytest.raises(OSError, match="No such file"):
        write()
    assert "Traceback" not in capsys.readouterr().err

    hook = threading.excepthook
    StepTensorBoardLogger(tmp_path)
    assert threading.excepthook is hook  # once is enough
