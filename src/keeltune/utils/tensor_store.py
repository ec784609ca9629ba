"""A folder of shards with one manifest that describes itself: blocks of numbers by the key of an example.

    manifest.json             what the numbers are and whose (`head`), the digest of each shard, and its own digest
    shard-00000.safetensors   keys [E, 32], contents [E, 32], counts [E], widths [E], and the form's columns
    shard-00000.json          the digest of a shard that is written, until the manifest holds them all

An example's key and the digest of its content are looked up in constant time; its numbers are read from the
memory-mapped file. A shard is staged, synced and renamed, so that one of that name is always whole: a writer that was
killed leaves nothing to repair, and the next one writes the missing shards. Several processes may write at the
same time, each its own shards or the very same. No pickle is read or written. torch is imported where something is
written: a `Store` of numpy arrays is read without it.

Shapes: E examples of a shard, N predictions, k kept choices.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from safetensors import safe_open

from keeltune.utils import manifest
from keeltune.utils.digests import canonical, file_digest, state_of
from keeltune.utils.errors import Problem, StateRefused
from keeltune.utils.files import make_folder, write_atomically
from keeltune.utils.identity import refuse_other
from keeltune.utils.manifest import MANIFEST

if TYPE_CHECKING:
    from torch import Tensor

HEAD = "head.json"
"""What an unfinished folder is meant to hold, so that no other one goes on with it."""


@dataclass(frozen=True)
class Location:
    """Where an example's numbers lie: its shard, the first of its predictions and of its numbers, N, and C."""

    shard: int
    prediction: int
    number: int
    count: int
    width: int
    content: bytes


class Writer:
    """Fills a folder, shard by shard, in any order and from several processes.

    Args:
        head: what the numbers are and whose; a folder that was begun or finished with another one is refused.
        shards: how many there will be.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any], shards: int, fix: str):
        self.folder, self.head, self.shards = folder, json.loads(canonical(head)), shards
        make_folder(folder)
        for stale in folder.glob(".staging-*"):
            if not _alive(int(stale.name.split("-")[1])):
                stale.unlink(missing_ok=True)
        finished = _opened(folder / MANIFEST)
        self._finished: list[dict[str, Any]] = finished.pop("shards") if finished else []
        for earlier in (finished, _opened(folder / HEAD)):
            if earlier is not None:
                refuse_other(folder, earlier, self.head, fix)
        write_atomically(folder / HEAD, manifest.sealed(self.head))

    def missing(self) -> list[int]:
        """The shards that are not there yet, or not whole: a flipped bit makes one that is written again."""
        return [number for number in range(self.shards) if not self.whole(number)]

    def whole(self, number: int) -> bool:
        """Whether a shard is there, with its digest in its note, or in the manifest of a cache that was finished."""
        entry, file = self._entry(number), self.folder / shard_name(number)
        return entry is not None and file.is_file() and file_digest(file) == entry.get("sha256")

    def _entry(self, number: int) -> dict[str, Any] | None:
        """What is known of a shard: by its note, which is of the last one that was written."""
        return _opened(self._note(number)) or (self._finished[number] if number < len(self._finished) else None)

    def _note(self, number: int) -> Path:
        return (self.folder / shard_name(number)).with_suffix(".json")

    def write(self, number: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """One shard, and what is to be known of it: `facts`, with which it enters the manifest."""
        from safetensors.torch import save

        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        write_atomically(self.folder / shard_name(number), content)
        entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **facts}
        write_atomically(self._note(number), manifest.sealed(entry))

    def finish(self) -> dict[str, Any]:
        """Writes the manifest, when all shards are there, and takes their notes away."""
        entries = [self._entry(number) for number in range(self.shards)]
        if None in entries:
            raise FileNotFoundError(f"found no note of {shard_name(entries.index(None))} in {self.folder}")
        write_atomically(self.folder / MANIFEST, manifest.sealed({**self.head, "shards": entries}))
        for number in range(self.shards):
            self._note(number).unlink(missing_ok=True)
        (self.folder / HEAD).unlink(missing_ok=True)
        return manifest.opened(self.folder / MANIFEST)


class BrokenShards(StateRefused):
    """Shards of a finished folder are missing or not what was written; a `Writer` with the same head mends them."""


class Store:
    """A finished folder, to be read. Raises StateRefused where it is not what was written.

    A shard is held against its digest before its first number is read, and again whenever its file has changed since.
    For messages: `rows` says whose numbers a shard holds, `mend` what writes a broken one again. `framework`: whether
    `read` gives tensors of torch or arrays of numpy.
    """

    def __init__(
        self,
        folder: Path,
        fix: str,
        rows: Callable[[int], str] = lambda number: "",
        mend: str = "",
        framework: Literal["pt", "np"] = "pt",
    ):
        self.folder, self.fix, self.rows, self.mend, self.framework = folder, fix, rows, mend or fix, framework
        self.manifest = self._manifest()
        self._states: dict[int, tuple[int, ...]] = {}

    def _manifest(self) -> dict[str, Any]:
        try:
            return manifest.opened(self.folder / MANIFEST)
        except manifest.NotAsWrittenError as error:
            raise self.refused("digest", str(error), "the digest in it") from None

    def refused(self, field: str, found: str, expected: str) -> StateRefused:
        return StateRefused(Problem(str(self.folder), field, found, expected, self.fix))

    def verify(self) -> None:
        """Holds each shard against its digest. Raises BrokenShards with each that is missing or has a flipped bit."""
        problems = [p for number in range(len(self.manifest["shards"])) if (p := self._problem(number)) is not None]
        if problems:
            raise BrokenShards(problems)

    def _problem(self, number: int) -> Problem | None:
        """What is wrong with a shard; None where it is what was written, which holds until its file changes."""
        file, entry = self.folder / shard_name(number), self.manifest["shards"][number]
        try:
            state = state_of(file.stat())
            if self._states.get(number) == state:
                return None
            manifest.check(file, entry)
        except (OSError, manifest.NotAsWrittenError) as error:
            found = str(error) if isinstance(error, manifest.NotAsWrittenError) else f"{file.name} is missing"
            return Problem(str(self.folder), "shards", f"{found}{self.rows(number)}", "the shard as written", self.mend)
        self._states[number] = state
        return None

    @cached_property
    def _locations(self) -> dict[bytes, Location]:
        """Each example's location, by the digest of its key."""
        locations: dict[bytes, Location] = {}
        for number in range(len(self.manifest["shards"])):
            keys, contents = (self._whole(number, name) for name in ("keys", "contents"))
            counts, widths = (self._whole(number, name).astype(np.int64) for name in ("counts", "widths"))
            starts, numbers = (np.cumsum(n) - n for n in (counts, counts * widths))
            rows = zip(keys, contents, starts.tolist(), numbers.tolist(), counts.tolist(), widths.tolist(), strict=True)
            for key, content, start, first, count, width in rows:
                locations[key.tobytes()] = Location(number, start, first, count, width, content.tobytes())
        return locations

    def location(self, key: str) -> Location | None:
        """Where the numbers of an example lie; None where they are not there."""
        return self._locations.get(key_digest(key))

    def read(self, shard: int, name: str, start: int, count: int) -> Any:
        """Entries `start` to `start + count` of a shard's column, from the mapped file."""
        self._require_sound(shard)
        return self._files[shard].get_slice(name)[start : start + count]

    def _require_sound(self, shard: int) -> None:
        if problem := self._problem(shard):
            raise BrokenShards(problem)

    def _whole(self, shard: int, name: str) -> np.ndarray:
        self._require_sound(shard)
        return np.asarray(self._files[shard].get_tensor(name))

    @cached_property
    def _files(self) -> list[Any]:
        names = [self.folder / shard_name(number) for number in range(len(self.manifest["shards"]))]
        return [safe_open(name, self.framework).__enter__() for name in names]


def key_columns(
    keys: Sequence[str], contents: Sequence[bytes], counts: Sequence[int], widths: Sequence[int]
) -> dict[str, Tensor]:
    """The columns of a shard that say whose numbers it holds: E examples in the order of their numbers."""
    import torch

    def table(rows: Sequence[bytes]) -> Tensor:
        return torch.from_numpy(np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), 32).copy())

    return {
        "keys": table([key_digest(key) for key in keys]),
        "contents": table(contents),
        "counts": torch.tensor(counts, dtype=torch.int32),
        "widths": torch.tensor(widths, dtype=torch.int32),
    }


def key_digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def _opened(file: Path) -> dict[str, Any] | None:
    """What was sealed in a file, without its digest; None where that is not there, or not what was written."""
    try:
        return {name: value for name, value in manifest.opened(file).items() if name != "digest"}
    except manifest.NotAsWrittenError:
        return None


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
