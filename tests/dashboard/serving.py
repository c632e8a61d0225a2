"""Dashboards that are really served, each by a process that is stopped for sure."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 120.0  # seconds; much more than a loaded machine needs


class Dashboard:
    """A running `gecko-lab dashboard`.

    Attributes:
        process: of the command.
        url: that it told.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        first = process.stdout.readline().split()
        assert first, "it ended before it told its address"
        self.url = first[1]

    def get(self, path: str, **query: str) -> Any:
        """An answer of TensorBoard's, as JSON."""
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.loads(answer.read())

    def get_bytes(self, path: str) -> bytes:
        """An answer as it is."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:
            return bytes(answer.read())

    def post(self, path: str, content: Any) -> Any:
        """The answer to JSON."""
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def is_served(self) -> bool:
        """Whether anybody answers."""
        try:
            self.get_bytes("data/environment")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """What the condition says as soon as it is true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.2)
        raise AssertionError("it did not come so far")


@contextmanager
def served(*arguments: str) -> Iterator[Dashboard]:
    """Start `gecko-lab dashboard`, and stop it."""
    command = [sys.executable, "-m", "gecko_lab", "dashboard", *arguments, "--port=0", "--refresh=1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield Dashboard(process)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
