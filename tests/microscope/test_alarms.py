"""When a finding becomes an alarm, and what is kept of it all."""

import json

from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.microscope.alarms import Alarms
from gecko_lab.microscope.history import MAX_POINTS, History
from gecko_lab.microscope.seen import Finding

AT_ONCE, LATE = Finding("shut", "it is shut (0.1)"), Finding("unread", "nobody reads it", patience=3)


def test_judge_tells_each_alarm_once() -> None:
    alarms = Alarms()
    assert alarms.judge({"layers.0/memory": [AT_ONCE], "layers.1/memory": []}) == ["layers.0/memory: it is shut (0.1)"]
    assert alarms.judge({"layers.0/memory": [AT_ONCE]}) == []
    assert alarms.judge({"layers.0/memory": [AT_ONCE], "layers.1/memory": [AT_ONCE]}) == [
        "layers.1/memory: it is shut (0.1)"
    ]
    assert len(alarms.raised) == len(alarms.dead) == 2
    alarms.judge({"layers.0/memory": [], "layers.1/memory": []})
    assert (len(alarms.raised), alarms.dead) == (2, [])


@given(st.lists(st.booleans(), max_size=20))
def test_judge_waits_for_as_many_in_a_row(found: list[bool]) -> None:
    alarms, in_a_row, told = Alarms(), 0, False
    for one in found:
        in_a_row = in_a_row + 1 if one else 0
        new = alarms.judge({"here": [LATE] if one else []})
        assert new == (["here: nobody reads it"] if in_a_row >= 3 and not told else [])
        told |= in_a_row >= 3
        assert alarms.dead == (["here: unread"] if in_a_row >= 3 else [])
        alarms = _gone_on(alarms)


def _gone_on(alarms: Alarms) -> Alarms:
    other = Alarms()
    other.load_state_dict(json.loads(json.dumps(alarms.state_dict())))
    return other


@given(st.integers(1, 3 * MAX_POINTS))
def test_history_keeps_the_first_point_and_stays_small(count: int) -> None:
    history = History()
    for step in range(count):
        history.add_shares(step, {"layers.0": step / count})
        assert len(history.shares) <= MAX_POINTS
    assert history.shares[0] == (0, {"layers.0": 0.0})
    steps = [step for step, _ in history.shares]
    assert steps == sorted(set(steps))
    assert steps[-1] >= count - 1 - count / MAX_POINTS * 4
    other = History()
    other.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert other.state_dict() == history.state_dict()
