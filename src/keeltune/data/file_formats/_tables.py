"""What Parquet, Arrow and the hub share: a table's rows as values, with the names that `datasets` keeps beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keeltune.data.file_formats.file_format import FileLog, Record
from keeltune.utils.errors import name_list

BATCH = 1000
"""Rows that become Python's values at once."""


def table_records(table: Any, log: FileLog) -> Iterator[Record]:
    """The rows of a pyarrow table, counted from 1; numbers of a `ClassLabel` become the names that they stand for."""
    header: list[str] = table.column_names
    log.header = header
    if len(set(header)) < len(header):
        log.whole("duplicate column", name_list(header), "each column once", "rename or delete one of them")
        return
    classes = class_names(_features(table.schema.metadata))
    line = 0
    for batch in table.to_batches(BATCH):
        for record in batch.to_pylist():
            line += 1
            yield line, named(record, classes)


def _features(metadata: Mapping[bytes, bytes] | None) -> Any:
    """The features that `datasets` writes into a schema's metadata, as its `Features.to_dict` has them."""
    try:
        return json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}


def class_names(features: Any) -> dict[str, list[str]]:
    """The names of each column of classes, or of lists of classes."""
    found: dict[str, list[str]] = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else feature
        inner = inner[0] if isinstance(inner, list) and inner else inner
        names = inner.get("names") if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" else None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            found[column] = names
    return found


def named(record: dict[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A record with the names of its classes in the place of their numbers."""
    for column, names in classes.items():
        if column in record:
            record[column] = _name(record[column], names)
    return record


def _name(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_name(one, names) for one in value]
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return names[value] if is_number and 0 <= value < len(names) else value
