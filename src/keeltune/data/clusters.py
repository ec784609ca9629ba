"""Rows that belong together (a speaker, a document): the bootstrap draws them as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keeltune.data.dataset import Row
from keeltune.utils.names import plain_name

FEW_CLUSTERS = 5
"""Clusters of a group below which it gets no interval: one cluster drawn again and again is always the same."""


def numbers_of(rows: Sequence[Row], column: str | None) -> np.ndarray | None:
    """The cluster of each row, as a number [rows]; a row without a value is one of its own. None where all are."""
    if column is None:
        return None
    return clusters_of([cluster_of(row, column) for row in rows])


def cluster_of(row: Row, column: str) -> str | None:
    """A row's value in the column of clusters, as text; None where it has none."""
    value = row.fields.get(column)
    return None if value is None else plain_name(str(value))


def clusters_of(names: Sequence[str | None]) -> np.ndarray | None:
    """A number for each name, [rows], None being a name of its own each time; None where all are None."""
    if all(name is None for name in names):
        return None
    distinct = [f"{i}" if name is None else f"= {name}" for i, name in enumerate(names)]
    return np.unique(distinct, return_inverse=True)[1]
