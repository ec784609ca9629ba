"""Data sets of the hub as records."""

from __future__ import annotations

import re
from collections.abc import Iterator

from keeltune.data.file_formats._tables import class_names, named
from keeltune.data.file_formats.file_format import FileLog, Record
from keeltune.utils.errors import shown, visible

_NAME = re.compile(r"hub:(?P<name>[^@:]+)(?:@(?P<revision>[^:]+))?(?::(?P<config>[^/]*)(?:/(?P<split>.+))?)?")


def hub_records(name: str, split: str, log: FileLog) -> Iterator[Record]:
    """The records of `hub:NAME[@revision][:config][/split]`; `split` where the name has none.

    The numbers of a `ClassLabel` become the names that they stand for.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        fix = "write it so, as in hub:stanfordnlp/sst2"
        log.whole("hub name", shown(name), "hub:NAME[@revision][:config][/split]", fix)
        return
    import datasets  # costs a second, and few recipes need it

    path, config, split = match["name"], match["config"] or None, match["split"] or split
    try:
        table = datasets.load_dataset(path, config, split=split, revision=match["revision"])
    except Exception as error:  # the hub's client has no common class of errors, and each of them means: not readable
        tried = f"load_dataset({path!r}, {config!r}, split={split!r}, revision={match['revision']!r})"
        found = f"{tried} failed: {visible(f'{type(error).__name__}: {error}', 300)}"
        expected = "a data set of the hub with that configuration and split, and a network that reaches the hub"
        fix = "check name, configuration, split and network; or download the files and give their path"
        log.whole("hub", found, expected, fix)
        return
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):  # we decode them, and key them by their content
            table = table.cast_column(column, type(feature)(decode=False))
    classes = class_names(table.features.to_dict())
    for line, record in enumerate(table, 1):
        yield line, named(dict(record), classes)
