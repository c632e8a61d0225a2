"""Preparing parts in this process or in several."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from gecko_lab.data.errors import DataError
from gecko_lab.data.parts import Part, PartOptions, Report, prepare_part

_POLL_SECONDS = 0.2
_BYTES_FOR_A_PROCESS = 256 << 20
_FIELDS = 3  # of a part's progress: bytes read, tokens written, the process that works on it (0 before and after)


def default_num_workers(parts: Sequence[Part]) -> int:
    """As many as pay: starting a process takes as long as preparing 100 MB of bytes, and tokenizers have threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_bytes = sum(_BYTES_FOR_A_PROCESS if file.size is None else file.size for p in parts for file in p.files)
    return min(cores, 1 + num_bytes // _BYTES_FOR_A_PROCESS)


def prepare_parts(parts: Sequence[Part], options: PartOptions, num_workers: int, report: Report) -> None:
    """Prepares the parts, each in a folder of its own; those that were finished when it fails stay.

    Arguments:
        parts: to prepare.
        options: shared by all.
        num_workers: processes; 1 for this one. One part needs one only.
        report: called now and then with the bytes read and the tokens written of all.

    Raises:
        DataError: that of a part; or a process has died.
        OSError: a part cannot be written.
    """
    # `memory://` exists in this process only, and a process of a DataLoader may have none of its own.
    bound = any(file.location.startswith("memory://") for part in parts for file in part.files)
    if min(num_workers, len(parts)) <= 1 or bound or multiprocessing.current_process().daemon:
        _prepare_here(parts, options, report)
    else:
        _prepare_in_processes(parts, options, min(num_workers, len(parts)), report)


def _prepare_here(parts: Sequence[Part], options: PartOptions, report: Report) -> None:
    done_bytes = done_tokens = 0
    for part in parts:
        part_bytes = part_tokens = 0

        def show(bytes_read: int, num_tokens: int) -> None:
            nonlocal part_bytes, part_tokens
            part_bytes, part_tokens = bytes_read, num_tokens
            report(done_bytes + part_bytes, done_tokens + part_tokens)  # noqa: B023 — called before the next turn

        prepare_part(part, options, show)
        done_bytes += part_bytes
        done_tokens += part_tokens


def _prepare_in_processes(parts: Sequence[Part], options: PartOptions, num_workers: int, report: Report) -> None:
    context = multiprocessing.get_context("spawn")
    # Without a lock: each number has one writer, and a process that is killed can hold none.
    progress = context.RawArray("q", _FIELDS * len(parts))
    others = set(multiprocessing.active_children())
    executor = concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_begin, initargs=(options, progress)
    )
    processes: list[Any] = []
    try:
        pending = {executor.submit(_prepare_numbered, place, part) for place, part in enumerate(parts)}
        processes = [process for process in multiprocessing.active_children() if process not in others]
        while pending:
            done, pending = concurrent.futures.wait(
                pending, _POLL_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
            )
            report(sum(progress[0::_FIELDS]), sum(progress[1::_FIELDS]))
            for future in done:
                future.result()
    except BrokenProcessPool as error:
        executor.shutdown(wait=True)
        raise DataError(_obituary(parts, progress[2::_FIELDS], processes)) from error
    finally:
        # Where all went well nothing is left to stop; else (Ctrl-C, a part that failed) nobody waits for the others.
        executor.shutdown(wait=not pending, cancel_futures=True)
        if pending:
            for process in processes:
                process.terminate()
        for process in processes:
            process.join()


def _obituary(parts: Sequence[Part], workers: Sequence[int], processes: Sequence[Any]) -> str:
    """Which process died, how, and at which files."""
    died = {p.pid: p.exitcode for p in processes if p.exitcode not in (0, -signal.SIGTERM)}
    died = died or {p.pid: p.exitcode for p in processes}
    lost = [(part, pid) for part, pid in zip(parts, workers, strict=True) if pid in died]
    codes = sorted({str(died[pid]) for _, pid in lost} or set(map(str, died.values())))
    how = ", ".join(f"signal {code[1:]}" if code.startswith("-") else f"exit code {code}" for code in codes)
    if not lost:
        return (
            f"preparing: a worker process died at its start ({how}). A script that prepares data must do so under "
            "`if __name__ == '__main__':`; or prepare with num_workers 1."
        )
    names = [file.label for part, _ in lost for file in part.files]
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return (
        f"preparing: a worker process died ({how}; perhaps the memory was full) while it prepared {listed}. The parts "
        "that were finished are kept: run again, perhaps with fewer num_workers."
    )


_worker: dict[str, Any] = {}


def _begin(options: PartOptions, progress: Any) -> None:
    """In each process, before its first part."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which stops this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    options.tokenizer.use_one_thread()
    _worker.update(options=options, progress=progress)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _prepare_numbered(place: int, part: Part) -> None:
    progress = _worker["progress"]
    begin = _FIELDS * place
    progress[begin + 2] = os.getpid()

    def report(bytes_read: int, num_tokens: int) -> None:
        progress[begin] = bytes_read
        progress[begin + 1] = num_tokens

    prepare_part(part, _worker["options"], report)
    progress[begin + 2] = 0
