"""Every Triton kernel compiles for every target without a GPU, spills nothing and finds shared memory enough."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton
import triton.language as tl

from gecko_lab.kernels import compile_all
from gecko_lab.kernels.ahead_of_time import TARGETS
from gecko_lab.kernels.compilation import Compilation
from tests.source_tree import REPOSITORY


@triton.jit
def scale(x_ptr, y_ptr, bias_ptr, length, factor, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < length).to(tl.float32)
    if bias_ptr is not None:
        x += tl.load(bias_ptr + i, mask=i < length)
    tl.store(y_ptr + i, (x * factor).to(y_ptr.dtype.element_ty), mask=i < length)


@triton.jit
def square(x_ptr, y_ptr, SIZE: tl.constexpr, DEPTH: tl.constexpr):
    """`x @ xᵀ` of one `[SIZE, DEPTH]` block: as large as one likes."""
    rows, columns = tl.arange(0, SIZE), tl.arange(0, DEPTH)
    x = tl.load(x_ptr + rows[:, None] * DEPTH + columns)
    tl.store(y_ptr + rows[:, None] * SIZE + rows, tl.dot(x, tl.trans(x)))


@triton.jit
def centre(x_ptr, y_ptr, SIZE: tl.constexpr):
    """All of `x` is held while its sum is taken."""
    i = tl.arange(0, SIZE)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, x - tl.sum(x, 0) / SIZE)


SCALE = {"x_ptr": "*bf16", "y_ptr": "*bf16", "length": "i32", "factor": "fp32"}
CENTRE = {"x_ptr": "*fp32", "y_ptr": "*fp32"}
SQUARE = {"x_ptr": "*bf16", "y_ptr": "*fp32"}
PLANTED = {
    "sound": Compilation("scale", scale, SCALE, {"bias_ptr": None, "BLOCK": 1024}, multiples_of_16=("length",)),
    "only_nvidia": Compilation("scale", scale, SCALE, {"bias_ptr": None, "BLOCK": 64}, targets=("sm_80", "sm_90")),
    "spilling": Compilation("centre", centre, CENTRE, {"SIZE": 2**14}, num_warps=1, targets=("sm_80", "sm_90")),
    # whose warps have twice the threads, of twice the registers
    "spilling_on_amd": Compilation("centre", centre, CENTRE, {"SIZE": 2**15}, num_warps=1, targets=("gfx942",)),
    "too_large": Compilation("square", square, SQUARE, {"SIZE": 128, "DEPTH": 1024}, num_warps=8),
    "unknown_argument": Compilation("scale", scale, {**SCALE, "lenght": "i32"}, {"bias_ptr": None, "BLOCK": 64}),
    "wrong_type": Compilation("square", square, {**SQUARE, "x_ptr": "fp32"}, {"SIZE": 16, "DEPTH": 16}),
}


def run(*arguments: str, folders: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m gecko_lab.kernels.compile_all` where Triton does not interpret, over a folder of operations more."""
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    command = ["-m", "gecko_lab.kernels.compile_all"]
    if folders is not None:
        program = (
            "import sys; from gecko_lab import kernels; kernels.__path__.append(sys.argv.pop(1)); "
            "from gecko_lab.kernels.compile_all import main; sys.exit(main())"
        )
        command = ["-c", program, str(folders)]
    return subprocess.run(
        [sys.executable, *command, *arguments], cwd=REPOSITORY, env=variables, capture_output=True, text=True
    )


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder of operations beside the real ones, one for each planted compilation."""
    for name in PLANTED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "compilations.py").write_text(
            f"from tests.kernels.test_compilation import PLANTED\nCOMPILATIONS = (PLANTED[{name!r}],)\n"
        )
    return tmp_path


@pytest.mark.parametrize("folder", compile_all.folders())
def test_kernels_compile_for_every_target(folder: str) -> None:
    """One launch of each; `make compile-check` tries all of them."""
    done = run("--only", folder, "--sample", "--jobs", "1")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 at fault" in done.stdout


def test_a_sample_has_every_kernel_on_every_target_and_several_dtypes() -> None:
    tasks = compile_all.all_tasks(compile_all.folders(), list(TARGETS))
    found = compile_all.sample(tasks)
    assert set(found) <= set(tasks)
    of_kernel = lambda task: (task[0], compile_all.load(task[0])[task[1]].kernel.__name__, task[2])  # noqa: E731
    assert sorted(map(of_kernel, found)) == sorted({of_kernel(task) for task in tasks})
    types = {kind for folder, index, _ in found for kind in compile_all.load(folder)[index].signature.values()}
    assert {"*bf16", "*fp16", "*fp32"} <= types


def test_compile_all_measures_a_sound_kernel_on_every_target(planted: Path) -> None:
    done = run("--only", "sound,only_nvidia", "--json", "--jobs", "1", folders=planted)
    assert done.returncode == 0, done.stderr
    found = rows(done)
    assert [(row["folder"], row["target"]) for row in found] == [
        *(("only_nvidia", target) for target in ("sm_80", "sm_90")),
        *(("sound", target) for target in TARGETS),
    ]
    for row in found:
        assert 4 <= row["usage"]["registers"] <= 64
        assert row["usage"]["spilled_bytes"] == 0
        assert row["usage"]["shared_bytes"] <= 1024
        assert not row["faults"]


def test_compile_all_fails_on_spills_and_on_too_much_shared_memory(planted: Path) -> None:
    done = run("--only", "spilling,spilling_on_amd,too_large", "--json", folders=planted)
    assert done.returncode == 1
    found = rows(done)
    assert [row["target"] for row in found] == [*TARGETS, *TARGETS]
    for row in found:
        if row["folder"] == "too_large":
            assert row["usage"]["shared_bytes"] > TARGETS[row["target"]].shared_limit
            assert any("of shared memory" in fault for fault in row["faults"])
        else:
            assert row["usage"]["spilled_bytes"] > 0
            assert [fault for fault in row["faults"] if fault.startswith("spills")] == row["faults"]


def test_compile_all_says_what_does_not_compile_and_goes_on(planted: Path) -> None:
    done = run("--only", "sound,unknown_argument,wrong_type", "--target", "sm_90", "--jobs", "2", folders=planted)
    assert done.returncode == 1
    assert "signature and constants name x_ptr, y_ptr, length, factor, lenght" in done.stdout
    assert done.stdout.count("FAULT: does not compile") == 2
    assert "3 compilations, 2 at fault" in done.stdout


def test_compile_all_refuses_where_triton_interprets() -> None:
    done = run(TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "env -u TRITON_INTERPRET" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "abacus"], "--only: unknown 'abacus'"),
        (["--target", "sm_90,sm_9"], "--target: unknown 'sm_9' (valid: sm_80, sm_90, gfx942)"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
    ],
)
def test_compile_all_refuses_what_is_not_there(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SystemExit) as stop:
        compile_all.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
