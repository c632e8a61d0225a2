"""What is logged and drawn beside the loss."""

from gecko_lab.callbacks.loss_by_position import LossByPosition
from gecko_lab.callbacks.predictions import Predictions
from gecko_lab.callbacks.progress import Progress
from gecko_lab.callbacks.summary import Summary
from gecko_lab.callbacks.text_sample import TextSample
from gecko_lab.callbacks.throughput import Throughput

__all__ = ["LossByPosition", "Predictions", "Progress", "Summary", "TextSample", "Throughput"]
