"""`gecko-lab bench kernels`: the gate, what is measured, what is printed; nothing depends on how fast anything is."""

import contextlib
import io
import json
import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from gecko_lab.__main__ import main
from gecko_lab.bench import gate, kernels, memory, table
from gecko_lab.bench.cases import case_names, load_case
from gecko_lab.bench.timing import PASSES, interleave
from gecko_lab.kernels.case import Case, Contender, Problem
from gecko_lab.kernels.timestep_norm import benchmark as timestep_norm_benchmark
from tests.tolerances import TOLERANCE

NAMES = [
    *("attention", "cema", "gated", "grouped_norm", "head_norm", "linear_cross_entropy", "timestep_norm"),
    "working_memory",
]
CPU = torch.device("cpu")


def plant(monkeypatch: pytest.MonkeyPatch, module: ModuleType, what: str) -> None:
    """Let our timestep norm be wrong by a little: in its output, or only in the gradient of the bias."""
    right = module.timestep_norm

    def wrong(x: Tensor, scale: Tensor, bias: Tensor, **options: Any) -> tuple[Tensor, Any]:
        if options["backend"] == "reference":
            return right(x, scale, bias, **options)
        if what == "raises":
            raise RuntimeError("no kernel\nimage is available")
        if what == "gradient":
            bias = bias + 0.001 * (bias - bias.detach())
        y, state = right(x, scale, bias, **options)
        return (y * (1 + 1e-4) if what == "output" else y * math.nan if what == "nan" else y), state

    monkeypatch.setattr(module, "timestep_norm", wrong)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """What the whole benchmark gives at the small size."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        kernels(size="small", threads=1, rounds=2, json=True)
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


def test_kernels_measures_every_contender_of_every_case(result: dict[str, Any]) -> None:
    assert [case["name"] for case in result["cases"]] == NAMES == case_names()
    for measured in result["cases"]:
        case = load_case(measured["name"])
        expected = [[one.name for one in case.contenders(problem)] for problem in case.problems["small"]]
        assert [[row["name"] for row in problem["contenders"]] for problem in measured["problems"]] == expected
        for row in (row for problem in measured["problems"] for row in problem["contenders"]):
            for name in PASSES:
                seconds = row[name]["seconds"]
                assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
                assert len(seconds["samples"]) == 2
                assert row[name]["bytes"] >= 0 if memory.KNOWN else row[name]["bytes"] is None
    scan = next(case for case in result["cases"] if case["name"] == "cema")["problems"][0]["contenders"]
    materialized = next(row for row in scan if row["name"] == "associative_scan")
    assert not memory.KNOWN or materialized["forward_backward"]["bytes"] > 2**24  # the smallest peaks may not be seen


def test_kernels_checks_every_contender_that_is_no_yardstick(result: dict[str, Any]) -> None:
    for measured in result["cases"]:
        case = load_case(measured["name"])
        rows = [row for problem in measured["problems"] for row in problem["contenders"]]
        assert set(measured["check"]) >= {row["name"] for row in rows if row["same"]}
        floating = {
            f"d{name}" for name, x in case.inputs(case.check_shape, torch.float32).items() if x.is_floating_point()
        }
        for verdict in measured["check"].values():
            assert verdict["green"]
            assert set(verdict["errors"]) == {"y"} | floating


def test_kernels_says_what_it_ran_on(result: dict[str, Any]) -> None:
    machine = result["machine"]
    assert machine["threads"] == 1
    assert machine["torch"] == torch.__version__
    assert machine["name"]
    assert machine["copy_bytes_per_second"] > 0
    assert machine["matmul_flops_per_second"] > 0
    assert result["command"].startswith("gecko-lab bench kernels --size small")


def test_show_fits_100_columns_and_names_everything(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    table.show(result)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert "…" not in printed
    for case in result["cases"]:
        assert f"{case['name']}: {case['title']}" in printed
        for problem in case["problems"]:
            assert problem["description"] in printed
            assert all(row["name"] in printed for row in problem["contenders"])
    assert result["command"] in " ".join(printed.split())


@pytest.mark.parametrize(
    ("what", "said"),
    [("output", "y by 1e-04"), ("gradient", "dbias by 1e-03"), ("nan", "y by nan"), ("raises", "no kernel image")],
)
def test_kernels_gives_no_speed_to_what_is_wrong(
    what: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, timestep_norm_benchmark, what)
    with pytest.raises(SystemExit) as stop:
        main(["bench", "kernels", "--only", "timestep_norm", "--size", "small", "--rounds", "1", "--threads", "1"])
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "scan: WRONG, no speed" in printed
    assert said in printed
    assert " ms (" not in printed
    assert "µs (" not in printed

    with pytest.raises(SystemExit) as stop:
        kernels(only="timestep_norm", size="small", rounds=1, threads=1, json=True)
    assert stop.value.code == 1
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert case["problems"] == []
    assert not case["check"]["scan"]["green"]
    assert case["check"]["time loop"]["green"]


def test_kernels_gives_no_speed_to_a_wrong_alternative(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "measure", lambda task: dict.fromkeys(PASSES, 1))
    loop = "gecko_lab.kernels.working_memory.baselines.loop"
    monkeypatch.setattr(loop, lambda q, k, v, *, chunk_size: v + 0 * (q + k).sum())
    with pytest.raises(SystemExit) as stop:
        kernels(only="working_memory", size="small", rounds=1, json=True)
    assert stop.value.code == 1
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    (problem,) = case["problems"]
    assert [row["name"] for row in problem["contenders"]] == ["all chunks at once", "reference, row by row"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_check_is_green_in_other_dtypes(name: str, dtype: torch.dtype) -> None:
    red = {verdict.contender: verdict for verdict in gate.check(load_case(name), dtype, CPU) if not verdict.green}
    assert not red


def test_tolerances_are_those_of_the_tests() -> None:
    assert {dtype: tuple(limits) for dtype, limits in TOLERANCE.items()} == gate.TOLERANCE


def test_interleave_takes_turns() -> None:
    ran: list[str] = []

    def named(name: str) -> Contender[Any]:
        def run(inputs: dict[str, Tensor], shape: Any) -> Tensor:
            ran.append(f"{name}{'+' if torch.is_grad_enabled() else ''}")
            return inputs["x"] * 2

        return Contender(name, run)

    times = interleave((named("a"), named("b")), {"x": torch.ones(3)}, timestep_norm_benchmark.Shape(1, 1, 1, 1), 3)
    assert {key: len(value.samples) for key, value in times.items()} == {
        (name, key): 3 for name in "ab" for key in PASSES
    }
    turns = [name for index, name in enumerate(ran) if index == 0 or ran[index - 1] != name]
    assert turns == ["a", "a+", "b", "b+", "a", "a+", "b", "b+", "b", "b+", "a", "a+", "a", "a+", "b", "b+"]


@pytest.mark.skipif(not memory.KNOWN, reason="the system does not tell a process its peak")
def test_measure_counts_what_stays_and_what_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB of temporaries beside 16 MiB of output, which outlive nothing; with the backward a gradient more."""
    shape = timestep_norm_benchmark.Shape(1, 1 << 12, 1 << 10, 1)

    def run(inputs: dict[str, Tensor], _: Any) -> Tensor:
        x = inputs["x"]
        return x * 2 + x.new_ones(4, *x.shape).sum() * 0

    case = timestep_norm_benchmark.CASE
    contender = Contender("planted", run)
    planted = Case(
        case.title,
        case.shape_text,
        lambda shape, dtype: {"x": torch.ones(shape.batch, shape.length, shape.num_features, dtype=dtype)},
        contender,
        contender,
        case.check_shape,
        {"small": (Problem(shape, ()),)},
    )
    monkeypatch.setattr(memory, "load_case", lambda name: planted)
    peak = memory.measure_here(memory.Task("planted", "small", 0, "planted", torch.float32, CPU, 1))
    mebibytes = {name: (value or 0) / 2**20 for name, value in peak.items()}
    assert 76 <= mebibytes["forward"] <= 130
    assert 76 <= mebibytes["forward_backward"] <= 160


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "cemma"], "--only: unknown 'cemma'; did you mean cema?"),
        (["--only", "cema,workingmemory"], "did you mean working_memory?"),
        (["--only", ","], "--only"),
        (["--size", "huge"], "huge"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--threads", "-1"], "--threads must be at least 1, got -1"),
        (["--device", "abacus"], "--device: there is no device 'abacus'"),
        (["--device", "meta"], "--device must be cpu, cuda or auto"),
        (["--round", "3"], "--round"),
    ],
)
def test_kernels_refuses_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("gecko-lab: ")
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
