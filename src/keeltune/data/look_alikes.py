"""Labels that look alike and are classes of their own all the same: warned of, with their rows and their column."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from keeltune.data.dataset import Row
from keeltune.data.row_labels import with_labels
from keeltune.data.row_problems import Affected, joined, locations, warning_about
from keeltune.utils.errors import Problem, shown
from keeltune.utils.messages import Message
from keeltune.utils.names import look


def look_alikes(
    rows: Sequence[Row], counts: Mapping[str, int], labels_of: Callable[[Row], Sequence[str]], field: str
) -> tuple[list[Problem], set[str]]:
    """Warnings, and the labels that they are about.

    Names that differ only in case, width, look-alike letters of two scripts, blanks, or how they write a number; and
    words among numbers, or numbers among words: "pos" in one row where the others have 0 and 1.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        alike[look(name)].append(name)
    groups = [sorted(names, key=lambda n: -counts[n]) for names in alike.values() if len(names) > 1]
    numbers = [name for name in counts if name.isdecimal()]
    words = [name for name in counts if not name.isdecimal()]
    odd = sorted((numbers, words), key=lambda names: sum(counts[n] for n in names))[0] if numbers and words else []
    rows_of = with_labels(rows, {*odd, *(name for group in groups for name in group)}, labels_of, field)
    warnings = [_alike(group, rows_of, field) for group in groups]
    if odd:
        warnings.append(_odd(odd, rows_of, field, "words" if odd is numbers else "whole numbers"))
    return warnings, set(rows_of)


def _alike(names: Sequence[str], rows_of: Mapping[str, Affected], field: str) -> Problem:
    usual, *others = names
    template = "{usual} in {n} rows; " + "; ".join(f"{{name{i}}} in {{n{i}}}: {{at{i}}}" for i in range(len(others)))
    values: dict[str, object] = {"usual": _spelt(usual), "n": rows_of[usual].count}
    for i, name in enumerate(others):
        values |= {f"name{i}": _spelt(name), f"n{i}": rows_of[name].count, f"at{i}": locations(rows_of[name])}
    mapped = ", ".join(f'"{name}": "{usual}"' for name in names)
    fix = Message(
        "correct the rows, or say data.labels: {map}; if they differ, list them all there", map=f"{{{mapped}, …}}"
    )
    first, expected = rows_of[others[0]], Message("each class under one name: these look alike")
    return warning_about(first, field, Message(template, **values), expected, fix, "labels that look alike")


def _spelt(name: str) -> str:
    """A name, and its letters where the eye cannot tell them from others."""
    escaped = name.encode("ascii", "backslashreplace").decode()
    return shown(name) if escaped == name else f"{shown(name)} = {escaped}"


def _odd(names: Sequence[str], rows_of: Mapping[str, Affected], field: str, others: str) -> Problem:
    having = joined(rows_of[name] for name in names)
    template = "{names} in {n} rows, where the other labels are {others}: {places}"
    listed = ", ".join(map(shown, names[:5])) + (", …" if len(names) > 5 else "")
    found = Message(template, names=listed, n=having.count, others=Message(others), places=locations(having))
    fix = Message("correct them; or list all labels in data.labels, if they are classes of their own")
    return warning_about(having, field, found, Message("labels of one kind"), fix, "labels of two kinds")
