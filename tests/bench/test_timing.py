"""How contenders take turns."""

from collections.abc import Callable

import pytest
import torch

from gecko_lab.bench import timing


@pytest.mark.parametrize(("seconds", "order"), [(59.0, "ababba"), (60.0, "abba")])
def test_a_first_run_counts_where_it_is_long(monkeypatch: pytest.MonkeyPatch, seconds: float, order: str) -> None:
    """Two rounds: after a warm-up, or with it as the first one."""
    now, ran = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def run(name: str) -> Callable[[], None]:
        def take() -> None:
            ran.append(name)
            now[0] += seconds

        return take

    times = timing.take_turns({(name, "step"): run(name) for name in "ab"}, torch.device("cpu"), 2)
    assert "".join(ran) == order
    assert times["a", "step"].samples == times["b", "step"].samples == [seconds, seconds]
