"""Times of the vectorised memory and of the authors' loop, forward and backward, side by side in one run.

    python -m gecko_lab.kernels.working_memory.benchmark            # [--threads 2] [--repeats 7]

Runs are interleaved and medians are taken: on a busy machine the ratios hold where single times do not. Every line is
preceded by a check that both give the same output and gradients.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from . import baselines
from .inputs import BENCHMARK_SHAPES, Shape, make_inputs
from .op import Backend, working_memory

DOCUMENT_CHUNKS = 2.5


def main() -> None:
    """Compares both at every benchmark shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for shape in BENCHMARK_SHAPES:
        compare(shape, arguments.repeats, arguments.device)


def compare(shape: Shape, repeats: int, device: str = "cpu") -> None:
    """Prints medians of forward + backward, the ratio to the loop and the bytes kept for the backward."""
    document_length = int(DOCUMENT_CHUNKS * shape.chunk_size)
    starts = tuple(range(0, shape.L, document_length))
    inputs = make_inputs(shape, document_starts=(starts,) * shape.B, device=device)
    q, k, v = (x.requires_grad_() for x in inputs[:3])

    def call(segments: Tensor | None, backend: Backend) -> Tensor:
        return working_memory(q, k, v, None, segments, chunk_size=shape.chunk_size, backend=backend)[0]

    def run(forward: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        y = forward()
        return y.detach(), *torch.autograd.grad(y, (q, k, v), inputs.dy)

    forwards: dict[str, Callable[[], Tensor]] = {
        "loop": lambda: baselines.loop(q, k, v, chunk_size=shape.chunk_size),
        "vectorised": lambda: call(None, "torch"),
        f"  documents of {document_length}": lambda: call(inputs.segments, "torch"),
    }
    expected = [run(forwards["loop"])] * 2 + [run(lambda: call(inputs.segments, "reference"))]
    for (name, forward), reference in zip(forwards.items(), expected, strict=True):
        for actual, wanted in zip(run(forward), reference, strict=True):
            error = ((actual - wanted).norm() / wanted.norm()).item()
            if not error < 1e-5:
                raise SystemExit(f"{name} is wrong: relative RMS error {error:.1e}")

    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    for _ in range(repeats):
        for name, forward in forwards.items():
            begin = time.perf_counter()
            run(forward)
            if q.is_cuda:
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{shape}, {torch.get_num_threads()} threads, forward + backward")
    for name, median in medians.items():
        saved = saved_bytes(forwards[name]) / 2**20
        print(f"  {name:22} {median * 1e3:8.0f} ms  {medians['loop'] / median:4.2f}x  {saved:6.0f} MiB saved")


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes of the distinct storages that autograd keeps for the backward, inputs included."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = forward()
    del y
    return sum(storages.values())


if __name__ == "__main__":
    main()
