"""HParams: a row for each run, with the axes as columns beside cost and final values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_STRING,
    STATUS_SUCCESS,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

MEAN = "mean"
"""What stands for the seed in the row of a variant's mean over its seeds."""

FINAL = "table/"
"""Prefix of the scalars that are columns: last values and cost."""

COSTS = ("parameters", "flops_per_token", "state_bytes")
_METRICS = ("loss/validation", "loss/train", "tokens_per_second", "peak_memory_bytes")
_BESIDE = {"loss": "bits_per_byte/validation", "accuracy": "exact_match/validation"}


def columns_of(metric: str) -> list[str]:
    """The curves whose last values are columns, the one that variants are compared by first."""
    beside = _BESIDE.get(metric.partition("/")[0])
    return list(dict.fromkeys([metric, *([beside] if beside else []), *_METRICS]))


def experiment_summary(
    *, axes: Mapping[str, Sequence[str]], variants: Sequence[str], seeds: Iterable[int], metric: str
) -> Summary.Value:
    """The columns of the table.

    What it costs stands with the results: of columns on the left TensorBoard shows no more than five at first, which
    the axes need.

    Args:
        axes: levels by axis; without any the variant's name is a column.
        variants: their names.
        seeds: that any row has, beside `MEAN`.
        metric: that the variants are compared by.
    """
    text: dict[str, Sequence[str]] = {**(axes or {"variant": variants}), "seed": [MEAN, *map(str, seeds)]}
    infos = []
    for name, values in text.items():
        info = HParamInfo(name=name, type=DATA_TYPE_STRING, differs=True)
        info.domain_discrete.extend(list(dict.fromkeys(values)))
        infos.append(info)
    metrics = [
        MetricInfo(name=MetricName(tag=FINAL + name), display_name=name) for name in (*columns_of(metric), *COSTS)
    ]
    experiment = Experiment(hparam_infos=infos, metric_infos=metrics)
    return _summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))


def row_summaries(values: Mapping[str, str], *, finished: bool) -> list[Summary.Value]:
    """A row of the table, but for what it takes from the run's scalars.

    TensorBoard keeps what it sees first, so that only what stays is written: that the run is finished once it is.

    Args:
        values: levels by axis, or the variant's name; and the seed.
        finished: whether the run is.
    """
    start = SessionStartInfo()
    for name, value in values.items():
        start.hparams[name].string_value = value
    summaries = [_summary(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))]
    if finished:
        end = HParamsPluginData(session_end_info=SessionEndInfo(status=STATUS_SUCCESS))
        summaries.append(_summary(metadata.SESSION_END_INFO_TAG, end))
    return summaries


def _summary(tag: str, content: HParamsPluginData) -> Summary.Value:
    content.version = metadata.PLUGIN_DATA_VERSION
    plugin_data = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString())
    nothing = TensorProto(dtype=DT_FLOAT, float_val=[0.0], tensor_shape=TensorShapeProto())
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin_data), tensor=nothing)
