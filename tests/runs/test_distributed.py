"""Two processes stop together, and go on together or as one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gecko_lab.runs.checkpoint_folder import CheckpointFolder
from gecko_lab.runs.record_file import run_state
from tests.runs.comparison import metrics
from tests.runs.stopping import OPTIONS, fit
from tests.training import TOKENS_PER_BATCH, arguments

LONGEST = 240
# without dropout: a sample's random numbers belong to its process
SAME_TOKENS: dict[str, Any] = {
    "model__network": {**OPTIONS["model__network"], "dropout": 0.0},
    "model__optimizer__batch_tokens": 2 * TOKENS_PER_BATCH,
}
TWO = {"trainer__devices": 2, "trainer__strategy": "ddp"}


def test_two_processes_stop_and_one_goes_on(trainings: Path, tmp_path: Path) -> None:
    """The samples of each step are those of a run of one process that was never stopped."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert fit(trainings, whole, **SAME_TOKENS) == 0
    words = ["fit", "--run", str(run), *arguments(trainings, **OPTIONS | SAME_TOKENS | TWO)]
    process = subprocess.Popen(
        [sys.executable, "-m", "gecko_lab", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        begin = time.monotonic()
        while process.poll() is None and not ((run / "metrics.csv").exists() and metrics(run)):
            assert time.monotonic() - begin < LONGEST
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=LONGEST)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGTERM, log
    assert "stopped by SIGTERM with a checkpoint of step" in log
    assert "Traceback" not in log
    assert run_state(run) == "interrupted"
    step = CheckpointFolder(run / "checkpoints").steps()[-1]
    assert 0 < step < OPTIONS["trainer__max_steps"]
    assert fit(trainings, run, **SAME_TOKENS) == 0
    ours, theirs = metrics(run), metrics(whole)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for name in ("loss/train", "loss/validation", "tokens"):
        for a, b in zip(ours, theirs, strict=True):
            # the loss that two processes log is that of one of them
            if name in a and (name != "loss/train" or int(a["step"]) > step):
                assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-4), (name, a["step"])
