"""Energy counters: what is read, what turns over, what is not there."""

import csv
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gecko_lab import energy
from gecko_lab.__main__ import main
from gecko_lab.energy import EnergyMeter
from tests.training import TOKENS_PER_BATCH, arguments, write_text

CPU = torch.device("cpu")


def write_zone(folder: Path, name: str, microjoules: int, most: int = 1_000_000_000) -> Path:
    zone = folder / name
    zone.mkdir(exist_ok=True)
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text(f"{most}\n")
    return zone


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        write_zone(tmp_path, name, 500)
    meter = EnergyMeter(CPU)
    assert meter.is_readable
    assert meter.joules() == 0
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        write_zone(tmp_path, name, 3_000_500)
    assert meter.joules() == pytest.approx(6)
    assert meter.joules() == pytest.approx(6)
    write_zone(tmp_path, "intel-rapl:1", 4_000_500)
    meter.reset()
    assert meter.joules() == 0


def test_a_counter_that_begins_again_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    write_zone(tmp_path, "intel-rapl:0", 999_000_000)
    meter = EnergyMeter(CPU)
    write_zone(tmp_path, "intel-rapl:0", 4_000_000)
    assert meter.joules() == pytest.approx(5)


@pytest.mark.parametrize("content", [None, "nothing"])
def test_what_cannot_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    file = write_zone(tmp_path, "intel-rapl:0", 1) / "energy_uj"
    file.unlink() if content is None else file.write_text(content)
    meter = EnergyMeter(CPU)
    assert not meter.is_readable
    assert meter.joules() == 0


def test_a_gpu_is_read_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    millijoules = iter([1_000, 1_000, 4_500])  # the first only tries
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: {"GPU-7": next(millijoules)}[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="7"))
    assert EnergyMeter(torch.device("cuda")).joules() == pytest.approx(3.5)


def test_a_gpu_without_nvml_has_no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert not EnergyMeter(torch.device("cuda")).is_readable


def test_training_logs_energy_for_each_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(0, 2)
    monkeypatch.setattr(energy, "_processor_counters", lambda folder: [(lambda: float(next(ticks)), 1e9)])
    write_text(tmp_path)
    assert main(["fit", "--run", str(tmp_path / "run"), *arguments(tmp_path, trainer__max_steps=3)]) == 0
    with (tmp_path / "run" / "metrics.csv").open(encoding="utf-8") as file:
        logged = [row["energy_joules_per_token"] for row in csv.DictReader(file) if row["energy_joules_per_token"]]
    # a reading takes 2 J, and the interval goes on growing
    assert [float(value) * TOKENS_PER_BATCH for value in logged] == pytest.approx([2, 2])
