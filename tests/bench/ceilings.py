"""A machine of known limits, so that tests need not measure one."""

import pytest

from gecko_lab.bench import machine

CEILING = 1e9
"""Bytes copied and floating-point operations a second."""


def know_ceilings(patch: pytest.MonkeyPatch) -> None:
    """Let no test measure the machine."""
    patch.setattr(machine, "copy_bandwidth", lambda device, size: CEILING)
    patch.setattr(machine, "matmul_peak", lambda device, dtype, size: CEILING)
