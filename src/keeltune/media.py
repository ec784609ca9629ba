"""Pictures and recordings as a row holds them: a path with the digest of its content, and what models read of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class Media(str):
    """A picture's or a recording's path as the data has it, with the file that it names and the digest of its content.

    The digest stands for the path in a row's key: the same picture under another name is the same row.
    """

    path: Path
    digest: str


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
