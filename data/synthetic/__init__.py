"""Synthetic tasks with exact answers: each sample is a function of options, seed and index alone."""

from gecko_lab.data.synthetic.associative_recall import MultiQueryAssociativeRecall
from gecko_lab.data.synthetic.induction import Induction
from gecko_lab.data.synthetic.key_value_overwrites import KeyValueOverwrites
from gecko_lab.data.synthetic.passkey import Passkey
from gecko_lab.data.synthetic.selective_copying import SelectiveCopying
from gecko_lab.data.synthetic.task import Sample, SyntheticTask

__all__ = [
    "Induction",
    "KeyValueOverwrites",
    "MultiQueryAssociativeRecall",
    "Passkey",
    "Sample",
    "SelectiveCopying",
    "SyntheticTask",
]
