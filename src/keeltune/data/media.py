"""Pictures and recordings as a row holds them: a path with the digest of its content, and what models read of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeltune.data.array_file import ArrayFile
from keeltune.utils.errors import Problem, StateRefused
from keeltune.utils.files import open_regular, read_at_most

if TYPE_CHECKING:
    import numpy as np

BEGINNINGS = (
    (b"<!doctype", "an HTML page", "download the {what} again: this is a web page, perhaps an error message"),
    (b"<html", "an HTML page", "download the {what} again: this is a web page, perhaps an error message"),
    (b"version https://git-lfs", "a git-lfs pointer instead of the {what}", "run: git lfs pull"),
)
"""Files that are not what their ending says: how they begin (in lower case), what they are, how to fix it."""

ROOM = 2**31
"""Bytes of what models read of media files that a task keeps in memory, 2 GiB: of Whisper 2,200 recordings. With model,
optimizer and batches beside them they fit into the 8 GiB of a small machine; those beyond go to a file."""


class Unreadable(Exception):
    """A file that gives no picture or no sound: what kind of fault, what was found and expected, how to fix it."""

    def __init__(self, kind: str, found: str, expected: str, fix: str):
        super().__init__(found)
        self.kind, self.found, self.expected, self.fix = kind, found, expected, fix


def check_magic_bytes(start: bytes, what: str, expected: str) -> None:
    """Raises `Unreadable` where a file begins as something else than the picture or recording (`what`) it should be."""
    for beginning, found, fix in BEGINNINGS:
        if start.lstrip().lower().startswith(beginning):
            raise Unreadable(f"not a {what}", found.format(what=what), expected, fix.format(what=what))


MOST_BYTES = 2**31
"""Size of a picture's or a recording's file that is read."""


class Media(str):
    """A picture's or a recording's path as the data has it, with the file that it names and the digest of its content.

    The digest stands for the path in a row's key: the same picture under another name is the same row.

    digest    SHA-256 of the content; empty until it has been read for the first time
    root      the folder below which the file lies, whatever becomes of the links in its path
    content   the bytes themselves, where the data file holds them; the path is then only a name
    """

    path: Path
    digest: str = ""
    root: Path | None = None
    content: bytes | None = None


def content_of(source: Media | Path) -> bytes:
    """The bytes of a picture or a recording. Raises `Unreadable`; and StateRefused where they are others than those by
    which the row is known: what was put there meanwhile is never trained on."""
    path, root = (source.path, source.root) if isinstance(source, Media) else (source, None)
    if isinstance(source, Media) and source.content is not None:
        return source.content
    try:
        with open_regular(path, root) as stream:
            content = read_at_most(stream, MOST_BYTES)
    except OSError as error:
        raise Unreadable("missing file", str(error.strerror), "a file that can be read", "put it there") from error
    if len(content) > MOST_BYTES:
        raise Unreadable("file too large", f"more than {MOST_BYTES} bytes", "a smaller file", "cut or compress it")
    if isinstance(source, Media) and source.digest and (now := hashlib.sha256(content).hexdigest()) != source.digest:
        found = f"{source}, replaced since its row was read: its SHA-256 is {now[:16]}…"
        fix = "put the file back and go on with --resume; or start anew with --overwrite, with the new one"
        raise StateRefused(Problem(str(path), "", found, f"{source.digest[:16]}…, as when its row was read", fix))
    return content


class Decoded:
    """One array of what a model reads of a media file: made when it is wanted, and equal where file and name are.

    `read` gives the numbers, from memory where they are still there. Examples hold this, not the numbers: a picture's
    are 600 kB, and its captions share them; Whisper's are 960 kB a recording.
    """

    def __init__(self, digest: str, name: str, read: Callable[[], np.ndarray]):
        self.digest, self.name, self._read = digest, name, read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        numbers = self._read()
        return numbers if dtype is None else numbers.astype(dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Decoded) and (self.digest, self.name) == (other.digest, other.name)

    def __hash__(self) -> int:
        return hash((self.digest, self.name))


class ArrayCache:
    """The arrays that a model reads of media files, by the files' digests: in memory as long as there is `room` (in
    bytes), then in a file (`array_file.py`). Those beyond that are made from their files again, each time.
    """

    def __init__(self, room: int | None = None):
        self.room = ROOM if room is None else room
        self.file = ArrayFile()
        self._arrays: dict[str, Mapping[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._arrays) + len(self.file)

    def get(self, digest: str) -> Mapping[str, np.ndarray] | None:
        found = self._arrays.get(digest)
        return self.file.get(digest) if found is None else found

    def keep(self, digest: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps a file's arrays where there is room for them."""
        size = sum(value.nbytes for value in arrays.values())
        if digest in self._arrays:
            return
        if size > self.room:
            self.file.keep(digest, arrays)
            return
        self._arrays[digest] = arrays
        self.room -= size
