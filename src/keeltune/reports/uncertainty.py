"""What the intervals of a page are over: rows, or whole clusters of them; and where those are too few to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Column

from keeltune.data.clusters import FEW_CLUSTERS, clusters_of
from keeltune.utils.json_lines import read_lines

MARK = " †"
"""What stands after an interval that is too narrow."""

SPLITS = ("validation", "test", "source", "source_validation")
"""The splits whose predictions lie in a run folder."""


class ResampledUnits(NamedTuple):
    """`column`: whose clusters are drawn whole, None where rows are drawn; `few`: {split: clusters} where those are too
    few: drawn again and again they hardly change, so that an interval over them is too narrow."""

    column: str | None
    few: dict[str, int]

    def mark(self, split: str) -> str:
        """What stands after a name whose interval is of this split."""
        return MARK if split in self.few else ""


def resampled_units(column: str | None, predictions: Sequence[Path], splits: Sequence[str] = SPLITS) -> ResampledUnits:
    """Of `predictions` folders; what lies there says whether rows had a cluster, `column` only how it is called."""
    counts: dict[str, int] = {}
    for split in splits:
        for folder in predictions:
            if (count := cluster_count(folder / f"{split}.jsonl")) is not None:
                counts.setdefault(split, count)
    few = {split: count for split, count in counts.items() if count < FEW_CLUSTERS}
    return ResampledUnits((column or "cluster") if counts else None, few)


def cluster_count(file: Path) -> int | None:
    """How many clusters a prediction file's rows are in, a row without one being its own; None where all are."""
    numbers = clusters_of([line.get("cluster") for line in read_lines(file)])
    return None if numbers is None else int(numbers.max()) + 1


def in_a_cell(value: float, interval: Sequence[float], form: str) -> str:
    """A value with its interval, for a table of a terminal, which breaks it at its blanks; `form` as of `format`."""
    return f"{value:{form}} ({interval[0]:{form}} to {interval[1]:{form}})"


def folded(*names: str) -> list[Column]:
    """Columns of a table that has to fit its terminal: what is too long goes on below, and nothing is left out."""
    return [Column(name, overflow="fold") for name in names]
