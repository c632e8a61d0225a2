"""The energy that a training takes, where this machine lets it be read."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Joules since it was made or reset: of the GPU, or of the processor's packages with everything that runs on them.

    A GPU is read through NVML (`pip install nvidia-ml-py`), processors through Linux's powercap files, which are often
    readable by root alone.

    Args:
        device: what trains.
    """

    def __init__(self, device: torch.device) -> None:
        self._counters = _gpu_counters(device) if device.type == "cuda" else _processor_counters(POWERCAP)
        self._last = [read() for read, _ in self._counters]
        self._joules = 0.0

    @property
    def is_readable(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._counters)

    def reset(self) -> None:
        """Begin at nothing."""
        self.joules()
        self._joules = 0.0

    def joules(self) -> float:
        """Energy since then."""
        for i, (read, turns_over_at) in enumerate(self._counters):
            now = read()
            self._joules += now - self._last[i] if now >= self._last[i] else turns_over_at - self._last[i] + now
            self._last[i] = now
        return self._joules


def _gpu_counters(device: torch.device) -> list[tuple[Callable[[], float], float]]:
    """Joules since the driver was loaded."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not installed, no driver, an old card: each with an exception of its own
        return []
    return [(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, 0.0)]


def _processor_counters(powercap: Path) -> list[tuple[Callable[[], float], float]]:
    """Joules of each package, and where its counter begins again."""
    counters: list[tuple[Callable[[], float], float]] = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        if zone.name.count(":") > 1:  # a part of a package
            continue
        try:
            turns_over_at = int((zone / "max_energy_range_uj").read_text()) / 1e6
            int((zone / "energy_uj").read_text())
        except (OSError, ValueError):
            continue
        counters.append((lambda file=zone / "energy_uj": int(file.read_text()) / 1e6, turns_over_at))  # type: ignore[misc]
    return counters
