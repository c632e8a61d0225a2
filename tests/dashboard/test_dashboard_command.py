import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gecko_lab.__main__ import main
from gecko_lab.dashboard.server import require_free
from gecko_lab.errors import ConfigurationError
from gecko_lab.runs.lock import RunLock
from tests.fake_runs import write_grid


@pytest.fixture
def small_grid(tmp_path: Path) -> Path:
    return write_grid(tmp_path / "grid", num_variants=2, num_seeds=2, num_rows=3).parent


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def files(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


def test_dashboard_once_writes_beside_the_grid_and_nowhere_else(
    small_grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(small_grid)
    for _ in range(2):  # the second time it is built anew
        assert main(["dashboard", str(small_grid), "--once"]) == 0
        assert str(small_grid / ".dashboard") in capsys.readouterr().out
    after = files(small_grid)
    assert before.items() <= after.items()
    new = after.keys() - before.keys()
    assert {name.split("/")[0] for name in new} == {".dashboard"}
    assert sum("/report/events." in name for name in new) >= 1


def test_dashboard_of_one_run_writes_nothing_into_it(small_grid: Path) -> None:
    run = small_grid / "variant-0" / "seed-0"
    before = files(run)
    assert main(["dashboard", str(run), "--once"]) == 0
    assert files(run) == before


def test_dashboard_does_not_remove_what_it_has_not_written(
    small_grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    assert main(["dashboard", str(small_grid), "--once", "--folder", str(tmp_path / "thesis")]) == 2
    assert "holds something else than a dashboard" in capsys.readouterr().err
    assert files(tmp_path / "thesis").keys() == {"chapter.tex"}


def test_dashboard_that_is_open_is_not_written_by_another(small_grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = RunLock(small_grid / ".dashboard")
    lock.acquire()
    (small_grid / ".dashboard" / ".gecko-lab-dashboard").touch()
    try:
        assert main(["dashboard", str(small_grid), "--once"]) == 2
    finally:
        lock.release()
    assert "--folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name a grid's folder"),
        (["nowhere"], "nowhere is not there"),
        (["GRID", "--refresh=0"], "--refresh must be at least 1 second, got 0"),
        (["GRID", "--port=70000"], "--port must lie between 0 and 65535"),
        (["GRID", "--host=192.0.2.1"], "--host 192.0.2.1: cannot be listened on"),
        (["GRID", "--prot=1"], "did you mean"),
    ],
)
def test_dashboard_tells_a_mistake(
    arguments: list[str], message: str, small_grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(small_grid) if word == "GRID" else word for word in arguments]
    assert main(["dashboard", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (small_grid / ".dashboard").exists()


def test_dashboard_proposes_a_port_where_the_one_asked_for_is_taken(
    small_grid: Path, taken_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dashboard", str(small_grid), f"--port={taken_port}"]) == 2
    told = capsys.readouterr().err
    assert f"--port {taken_port} is taken" in told
    require_free("127.0.0.1", int(told.split("(--port ")[1].split(")")[0]))


def test_require_free_refuses_a_port_that_is_taken(taken_port: int) -> None:
    with pytest.raises(ConfigurationError, match="is taken by another program"):
        require_free("127.0.0.1", taken_port)
    require_free("127.0.0.1", 0)


def test_dashboard_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["dashboard", "--help"])
    assert "Example: gecko-lab dashboard" in " ".join(capsys.readouterr().out.split())
