from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from gecko_lab.dashboard.event_folder import Content, Points, write_events


def points(steps: list[int], values: list[float]) -> Points:
    return np.array(steps), np.array(values)


def read(multiplexer: EventMultiplexer, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.tensor_proto.float_val[0]) for event in multiplexer.Tensors("variant", tag)]


def test_write_events_takes_the_place_of_what_a_reader_has_read(tmp_path: Path) -> None:
    folder = tmp_path / "variant"
    multiplexer = EventMultiplexer()
    for length in (5, 3, 8):  # also fewer points than before
        steps = list(range(length))
        write_events(folder, Content({"loss": points(steps, [1.0 / length] * length), "norm": points([9], [2.0])}))
        multiplexer.AddRunsFromDirectory(str(tmp_path)).Reload()
        assert [step for step, _ in read(multiplexer, "loss")] == steps
        assert {value for _, value in read(multiplexer, "loss")} == {np.float32(1.0 / length)}
        assert read(multiplexer, "norm") == [(9, 2.0)]


def test_write_events_leaves_a_reader_the_file_that_it_is_in(tmp_path: Path) -> None:
    folder = tmp_path / "variant"
    for _ in range(12):  # numbers of more than one digit stay in order
        write_events(folder, Content({"loss": points([1], [1.0])}))
    names = sorted(path.name for path in folder.iterdir())
    assert [name.split(".")[3] for name in names] == ["0000000011", "0000000012"]
