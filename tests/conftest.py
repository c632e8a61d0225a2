"""Settings for every test: repeatable draws, and as many threads as there are processors to go round."""

import os
import signal

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before any kernel's module is imported: without a GPU they are interpreted

# A shell that starts the tests in the background lets them ignore Ctrl-C, and all processes that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with tests that take minutes: the other processes need not wait for one that has begun last."""
    items.sort(key=lambda item: "minutes" not in item.keywords)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Start every test from the same random numbers, whichever tests ran before it."""
    torch.manual_seed(0)
    return 0
