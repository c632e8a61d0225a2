"""What is logged and drawn beside the loss."""

from gecko_lab.callbacks.loss_by_position import LossByPosition
from gecko_lab.callbacks.microscope import Microscope
from gecko_lab.callbacks.norms import Norms
from gecko_lab.callbacks.predictions import Predictions
from gecko_lab.callbacks.progress import Progress
from gecko_lab.callbacks.stability import Stability, TrainingDiverged
from gecko_lab.callbacks.summary import Summary
from gecko_lab.callbacks.text_sample import TextSample
from gecko_lab.callbacks.throughput import Throughput

__all__ = [
    "LossByPosition",
    "Microscope",
    "Norms",
    "Predictions",
    "Progress",
    "Stability",
    "Summary",
    "TextSample",
    "Throughput",
    "TrainingDiverged",
]
