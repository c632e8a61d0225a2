"""Parts that are dead, each told once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gecko_lab.microscope.seen import Finding


class Alarms:
    """Turns findings into alarms: each is raised once, when it was found often enough in a row.

    Attributes:
        raised: every alarm so far, `place: kind`, in their order.
        dead: those that the last measurement found again.
    """

    def __init__(self) -> None:
        self.raised: list[str] = []
        self.dead: list[str] = []
        self._in_a_row: dict[str, int] = {}

    def judge(self, findings: Mapping[str, list[Finding]]) -> list[str]:
        """Take in the findings of one measurement, by place such as `layers.3/memory`.

        Returns:
            A sentence for each alarm that is new.
        """
        new, in_a_row, self.dead = [], {}, []
        for place, of_place in findings.items():
            for finding in of_place:
                name = f"{place}: {finding.kind}"
                in_a_row[name] = self._in_a_row.get(name, 0) + 1
                if in_a_row[name] < finding.patience:
                    continue
                self.dead.append(name)
                if name not in self.raised:
                    self.raised.append(name)
                    new.append(f"{place}: {finding.reason}")
        self._in_a_row = in_a_row
        return new

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"raised": list(self.raised), "dead": list(self.dead), "in_a_row": dict(self._in_a_row)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint stood."""
        self.raised, self.dead = list(state["raised"]), list(state["dead"])
        self._in_a_row = dict(state["in_a_row"])
