"""Slices that figures are shown by: the length of a query's history and the popularity of its target."""

from collections.abc import Sequence
from typing import NamedTuple

HISTORY_LENGTH = "history_length"
ITEM_POPULARITY = "item_popularity"

# Upper bounds (inclusive) of the slices that every report shows; the last is open.
LENGTH_EDGES = (9, 19, 49, 99, 199, 499)
POPULARITY_EDGES = (0, 9, 49, 99, 199, 499)  # training events of the target item; 0 is an item not in training


class SliceFigures(NamedTuple):
    """Metrics over the targets of one bucket, such as histories of 10-19 events."""

    label: str
    num_targets: int
    metrics: dict[str, float]

    def as_json(self) -> dict[str, float | str]:
        """The bucket as a result line has it: one flat object."""
        return {"slice": self.label, "count": self.num_targets, **self.metrics}


def slice_label(value: int, edges: Sequence[int]) -> str:
    """The bucket of a value as text: `9` where it holds one value, else `10-19`; the last is open, `500+`."""
    low = 0
    for edge in edges:
        if value <= edge:
            return str(edge) if low == edge else f"{low}-{edge}"
        low = edge + 1
    return f"{low}+"


def slice_labels(edges: Sequence[int]) -> list[str]:
    """Labels of all buckets, lowest first."""
    return [slice_label(edge, edges) for edge in edges] + [f"{edges[-1] + 1}+"]
