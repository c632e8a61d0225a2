"""A folder that TensorBoard shows as one run, written whole each time."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

Points: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Steps and values, both `[P]`."""

_PREFIX = "events.out.tfevents."


@dataclass
class Content:
    """What a run of TensorBoard's shows.

    Attributes:
        scalars: by tag.
        summaries: values of other kinds, which stand at step 0.
    """

    scalars: dict[str, Points] = field(default_factory=dict)
    summaries: list[Summary.Value] = field(default_factory=list)


def write_events(folder: Path, content: Content) -> None:
    """Write a new event file, which takes the place of what was in the folder, also in a TensorBoard that has read it.

    Every file begins with the note of a start at step 0, upon which TensorBoard drops what it has of this run, and its
    name comes after those before it: they are read in that order. The last one is kept for a reader that is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = sorted(folder.glob(f"{_PREFIX}*"))
    number = int(earlier[-1].name.removeprefix(_PREFIX).partition(".")[0]) + 1 if earlier else 1
    aside = folder / ".partial"
    now = time.time()
    with aside.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        start = Event(wall_time=now, step=0, session_log=SessionLog(status=SessionLog.START))
        writer.write(start.SerializeToString())
        if content.summaries:
            writer.write(Event(wall_time=now, step=0, summary=Summary(value=content.summaries)).SerializeToString())
        for step, values in _by_step(content.scalars):
            event = Event(wall_time=now, step=step)
            for tag, value in values:
                event.summary.value.add(tag=tag, simple_value=value)
            writer.write(event.SerializeToString())
        writer.flush()
    os.replace(aside, folder / f"{_PREFIX}{number:010}.gecko-lab")
    for path in earlier[:-1]:
        path.unlink()


def _by_step(
    scalars: Mapping[str, Points],
) -> list[tuple[int, list[tuple[str, float]]]]:
    """The values of each step together: one record a step is read much faster than one a value."""
    rows: dict[int, list[tuple[str, float]]] = defaultdict(list)
    for tag, (steps, values) in scalars.items():
        for step, value in zip(steps, values, strict=True):
            rows[int(step)].append((tag, float(value)))
    return sorted(rows.items())


def tensor_summary(tag: str, plugin: str, strings: Sequence[bytes], *, scalar: bool = False) -> Summary.Value:
    """Bytes as the plugins for text, images and layouts keep them.

    Args:
        tag: of the value.
        plugin: that shows it.
        strings: bytes `[N]`.
        scalar: one of them, without a dimension.
    """
    shape = TensorShapeProto() if scalar else TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(strings))])
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=strings)
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin))
    return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
