"""Encoded rows on disk: where they lie, whose they are, and when they are read again in the place of being made.

    .cache/encoded-<identity>/    beside the recipe; examples.arrow, sizes.npy (examples a row) and a manifest

The identity is that of everything an example is made of: the rows with all their columns in their order, the tokenizer,
the task's settings, the code of this package and the versions of what it tokenizes with. A folder is written whole or
not at all, by as many processes as there are, and read after its digests are compared; it may be deleted at any time.
Sets that are small, rows that are pictures or sound, and what a file cannot hold as it is stay in lists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from keeltune.data.dataset import Row, contents_digest
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.example_file import ExampleTable, ExampleWriter
from keeltune.tasks.common.stored_examples import StoredRowExamples
from keeltune.tasks.task import Task
from keeltune.utils import manifest
from keeltune.utils.digests import canonical, digest_of
from keeltune.utils.files import make_folder
from keeltune.utils.manifest import NotAsWrittenError

STORED_FROM = 10_000
"""Rows of a split from which on its examples lie on disk: fewer are encoded in seconds, and take some 30 MB."""

KEPT = 24
"""Folders of encoded rows beside a recipe; those that were used longest ago go first."""

STALE = 24 * 3600
"""Seconds after which what lies half written is taken away."""

EXAMPLES, SIZES = "examples.arrow", "sizes.npy"

RowExamples = Sequence[list[Example]]


def belong_on_disk(task: Task, rows: Sequence[Row]) -> bool:
    """Whether the examples of such rows lie in a file while they are trained on or scored."""
    return len(rows) >= STORED_FROM and task.reads == "text" and not task.companions


class Shelf:
    """The encoded rows beside one recipe, in the folder of its caches."""

    def __init__(self, folder: Path):
        self.folder = folder

    def known(self, identity: str | None) -> RowExamples | None:
        """What an earlier run has made of these very rows; None where there is none, or not as it was written."""
        if identity is None:
            return None
        folder = self._named(identity)
        try:
            if manifest.verified(folder)["identity"] != identity:
                return None
            encoded = _opened(folder)
            os.utime(folder)
        except (NotAsWrittenError, OSError, ValueError, KeyError):
            return None
        return encoded

    def filled(self, identity: str | None, encode: Callable[[ExampleWriter], bool]) -> RowExamples:
        """The rows that `encode` writes; kept for the next run where it says that they are all of them.

        Raises: Unfit, OSError.
        """
        make_folder(self.folder)
        self._sweep()
        staging = self.folder / f"{manifest.STAGING}encoded-{os.getpid()}-{time.time_ns():x}"
        make_folder(staging)
        writer = ExampleWriter(staging / EXAMPLES)
        try:
            whole = encode(writer)
            np.save(staging / SIZES, writer.close(), allow_pickle=False)
            if whole and identity is not None:
                manifest.seal_folder(staging, {"identity": identity})
                return self._put_in_place(staging, self._named(identity))
            encoded = _opened(staging)
        except BaseException:
            writer.abandon()
            shutil.rmtree(staging, ignore_errors=True)
            raise
        weakref.finalize(encoded.table, shutil.rmtree, staging, ignore_errors=True)
        return encoded

    def _put_in_place(self, staging: Path, folder: Path) -> StoredRowExamples:
        """What was staged, under its name; another process may have put the same there meanwhile."""
        try:
            manifest.verified(folder)
            shutil.rmtree(staging)
        except NotAsWrittenError:
            manifest.put_in_place(staging, folder)
        return _opened(folder)

    def _named(self, identity: str) -> Path:
        return self.folder / f"encoded-{identity[:16]}"

    def _sweep(self) -> None:
        """Takes away what killed processes left, and the folders that were used longest ago."""
        with suppress(OSError):
            used = {path: path.stat().st_mtime for path in self.folder.glob("encoded-*")}
            for path in sorted(used, key=lambda path: used[path])[: max(0, len(used) + 1 - KEPT)]:
                manifest.remove(path)
            for path in self.folder.glob(f"{manifest.STAGING}encoded-*"):
                if time.time() - path.stat().st_mtime > STALE:
                    manifest.remove(path)


def _opened(folder: Path) -> StoredRowExamples:
    sizes = np.load(folder / SIZES, allow_pickle=False)
    return StoredRowExamples(ExampleTable(folder / EXAMPLES), np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]))


# ------------------------------------------------------------------------------------------------------------ identity


def identity_of(task: Task, rows: Sequence[Row], reading: str) -> str | None:
    """SHA-256 of all that the examples depend on; `reading`: whether they are learnt, scored or only read.

    None where that cannot be told: a task of the user's own, whose code is not known; a tokenizer in Python.
    """
    kind = type(task)
    if not kind.__module__.startswith("keeltune.") or not getattr(task.processor, "is_fast", False):
        return None
    try:
        settings = canonical(dict(_fields(task.settings)))
    except (TypeError, ValueError):
        return None
    facts = {
        "task": kind.__qualname__,
        "reading": reading,
        "settings": settings,
        "tokenizer": _tokenizer_digest(task.processor),
        "code": _code_digest(),
        "versions": [platform.python_version(), *map(version, ("tokenizers", "transformers"))],
        "rows": contents_digest(rows),
    }
    return hashlib.sha256(canonical(facts).encode()).hexdigest()


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(value):
        yield field.name, _plain(getattr(value, field.name))


def _plain(value: Any) -> Any:
    """A setting as JSON; TypeError for what has no such form."""
    if hasattr(value, "to_dict"):  # transformers' configurations, which hold dtypes
        return json.dumps(value.to_dict(), sort_keys=True, default=str)
    return dict(_fields(value)) if dataclasses.is_dataclass(value) else value


TOLD = (
    "model_max_length", "truncation_side", "padding_side", "split_special_tokens", "model_input_names",
    "special_tokens_map", "chat_template", "src_lang", "tgt_lang", "language", "task", "predict_timestamps",
)  # fmt: skip
"""What a tokenizer is told besides what its file says."""


def _tokenizer_digest(tokenizer: Any) -> str:
    """Of how a fast tokenizer cuts texts, and what it is told besides; not of how it was called last."""
    backend = orjson.loads(tokenizer.backend_tokenizer.to_str())
    told = [getattr(tokenizer, name, None) for name in TOLD]
    del backend["truncation"], backend["padding"]
    return digest_of(orjson.dumps(backend), type(tokenizer).__name__.encode(), repr(told).encode()).hex()


@cache
def _code_digest() -> str:
    """Of this package's code: rows that other code has encoded may be others."""
    package = Path(__file__).parents[2]
    files = {str(file.relative_to(package)): file.read_bytes() for file in sorted(package.rglob("*.py"))}
    return digest_of(*(part for name, content in files.items() for part in (name.encode(), content))).hex()
