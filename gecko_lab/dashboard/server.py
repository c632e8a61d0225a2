"""TensorBoard's server, started and stopped."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from gecko_lab.errors import ConfigurationError, UserError

_LAST_LINES = 5
_PORTS_TRIED = 100


class ServerFailed(UserError):
    """TensorBoard did not start."""


class Server:
    """TensorBoard on a folder, in a process of its own.

    Args:
        folder: that it shows.
        host: that it listens on.
        port: that it listens on; 0: any that is free.
        reload_seconds: from one look at the folder to the next.
        log: a file for what it prints.
    """

    def __init__(self, folder: Path, *, host: str, port: int, reload_seconds: float, log: Path) -> None:
        self._log = log
        options = {
            "logdir": folder,
            "host": host,
            "port": port,
            "reload_interval": reload_seconds,
            # ours is read in Python: what the other reader does with files that replace earlier ones is not defined
            "load_fast": "false",
        }
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "gecko_lab.dashboard.server_process",
                    *(f"--{name}={value}" for name, value in options.items()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for us: it ends as its input does
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        process = self._process
        with suppress(BrokenPipeError):
            self._input.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._output.close()

    def ended_within(self, seconds: float) -> bool:
        """Wait so long, or until the process ends; whether it did."""
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def serve(self) -> str:
        """Let it serve; its address.

        Raises:
            ServerFailed: it does not.
        """
        with suppress(BrokenPipeError):  # it may have ended, which its answer shows
            self._input.write("serve\n")
            self._input.flush()
        line = self._output.readline()
        answer = json.loads(line) if line else {"error": self.last_words()}
        if "url" not in answer:
            raise ServerFailed(f"TensorBoard did not start: {' '.join(answer['error'].split())}")
        return str(answer["url"])

    def last_words(self) -> str:
        """The end of what it printed."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(lines[-_LAST_LINES:]) or "it said nothing"


def require_free(host: str, port: int) -> None:
    """Look whether a server can listen there.

    Raises:
        ConfigurationError: the port is taken, or there is no such host or port.
    """
    if not 0 <= port < 1 << 16:
        raise ConfigurationError(f"--port must lie between 0 and 65535, got {port}")
    try:
        _bind(host, port)
    except PermissionError as error:
        raise ConfigurationError(f"--port {port} needs more rights; take one from 1024 on, or 0 for any") from error
    except socket.gaierror as error:
        raise ConfigurationError(f"--host {host}: there is no such host ({error.strerror})") from error
    except OSError as error:
        free = next(_free_ports(host, port), None)
        if free is None:
            raise ConfigurationError(f"--host {host}: cannot be listened on ({error.strerror})") from error
        raise ConfigurationError(
            f"--port {port} is taken by another program; {free} is free (--port {free}), and --port 0 takes any that is"
        ) from error


def _free_ports(host: str, port: int) -> Iterator[int]:
    for candidate in range(port + 1, min(port + 1 + _PORTS_TRIED, 1 << 16)):
        try:
            _bind(host, candidate)
        except OSError:
            continue
        yield candidate


def _bind(host: str, port: int) -> None:
    """Listen for a moment."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
