"""Rows that a caller has in memory, of the libraries that people have them in, as records {name: value}.

    a list of mappings · one mapping · a pandas or polars frame · a pyarrow table · a `datasets.Dataset`

None of these libraries is imported: whoever hands their object over has done so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from keeltune.utils.errors import Problem, UserError

EXPECTED = "a list of mappings, a pandas or polars frame, a pyarrow table or a datasets.Dataset"


def is_rows(value: Any) -> bool:
    """Whether a value is rows, where a path or a name of the hub may stand too."""
    return not (value is None or isinstance(value, str) or hasattr(value, "__fspath__"))


def records_of(rows: Any, where: str, field: str = "") -> Iterator[dict[str, Any]]:
    """Each row as {name: value}, a missing value of a frame as None. UserError for what is no rows."""
    for number, row in enumerate(_each(rows, where, field), 1):
        if not isinstance(row, Mapping):
            found = f"row {number} is a {type(row).__name__}"
            raise UserError(Problem(where, field, found, 'rows such as {"text": "…"}', "give each row as a mapping"))
        yield {str(name): value for name, value in row.items()}


def _each(rows: Any, where: str, field: str) -> Iterable[Any]:
    if isinstance(rows, Mapping):
        if splits := [name for name, part in rows.items() if hasattr(part, "column_names")]:
            fix = f'take one of them: data["{splits[0]}"]'
            raise UserError(Problem(where, field, f"a {type(rows).__name__} of splits", EXPECTED, fix))
        return [rows]
    if hasattr(rows, "cast_column"):  # datasets: pictures and recordings as the bytes that they are
        for name, feature in rows.features.items():
            if getattr(feature, "decode", False):
                rows = rows.cast_column(name, type(feature)(decode=False))
    if hasattr(rows, "iter_rows"):  # polars
        return rows.iter_rows(named=True)
    if hasattr(rows, "itertuples"):  # pandas
        return _of_pandas(rows)
    if hasattr(rows, "to_pylist"):  # pyarrow
        return rows.to_pylist()
    if isinstance(rows, (bytes, bytearray)) or not isinstance(rows, Iterable):
        raise UserError(Problem(where, field, f"a {type(rows).__name__}", EXPECTED, "give the rows as one of these"))
    return rows


def _of_pandas(frame: Any) -> Iterator[dict[str, Any]]:
    """A frame's rows, numpy's numbers as Python's, what is missing (NaN, NaT, pandas.NA) as None."""
    names = [str(name) for name in frame.columns]
    columns = [frame.iloc[:, i].astype(object).where(frame.iloc[:, i].notna(), None) for i in range(len(names))]
    for values in zip(*columns, strict=True):
        yield {name: plain(value) for name, value in zip(names, values, strict=True)}


def plain(value: Any) -> Any:
    """A value as JSON can have it, where it is an array or a number of numpy's, or a time."""
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        value = value.tolist()
    elif hasattr(value, "isoformat"):
        value = value.isoformat()
    return None if isinstance(value, float) and math.isnan(value) else value
