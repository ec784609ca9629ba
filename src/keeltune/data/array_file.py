"""Arrays in a file without a name: it is gone when the process is, however that ends, and no resume meets it."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from keeltune.utils.disk_space import free_bytes

if TYPE_CHECKING:
    import numpy as np

SHARE = 0.5
"""Of what is free where the file lies, how much it may take: checkpoints may lie on the same disk."""


@dataclass(frozen=True)
class _Place:
    """Where an array lies in the file, and what it is."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class ArrayFile:
    """The arrays of media files by the files' digests, in the machine's folder for temporary files (TMPDIR says which).

    What does not fit is not kept. A process that was forked reads what was written before, and writes nothing: it has
    the file in common with its parent.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._process = os.getpid()
        self._end = self._room = 0
        self._places: dict[str, dict[str, _Place]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def __getstate__(self) -> dict[str, Any]:
        """Another process that does not inherit the file begins without it."""
        return ArrayFile().__dict__ | {"_process": -1}

    def get(self, digest: str) -> dict[str, np.ndarray] | None:
        """A media file's arrays, to the bit as they were kept."""
        if digest not in self._places:
            return None
        import numpy as np

        assert self._file is not None
        arrays = {}
        for name, place in self._places[digest].items():
            size = place.dtype.itemsize * math.prod(place.shape)
            content = bytearray(os.pread(self._file.fileno(), size, place.offset))
            arrays[name] = np.frombuffer(content, place.dtype).reshape(place.shape)
        return arrays

    def keep(self, digest: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a media file's arrays where there is room for them."""
        if os.getpid() != self._process or digest in self:
            return
        try:
            self._write(digest, arrays)
        except OSError:  # a full disk, or no folder for temporary files: they are made again, as without the file
            self._room = 0

    def _write(self, digest: str, arrays: Mapping[str, np.ndarray]) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="keeltune-")  # noqa: SIM115  (closed with its owner)
            weakref.finalize(self, self._file.close)
            self._room = int(SHARE * free_bytes(Path(tempfile.gettempdir())))
        size = sum(array.nbytes for array in arrays.values())
        if size > self._room:
            return
        places, offset = {}, self._end
        self._file.seek(offset)
        for name, array in arrays.items():
            places[name] = _Place(offset, array.dtype, array.shape)
            offset += self._file.write(array.tobytes())
        self._file.flush()
        self._places[digest], self._end, self._room = places, offset, self._room - size
