"""Adaptive working memory (Gecko, arXiv 2601.06463): a memory of fixed size that is written once per chunk."""

from .op import working_memory
from .state import WorkingMemoryState

__all__ = ["WorkingMemoryState", "working_memory"]
