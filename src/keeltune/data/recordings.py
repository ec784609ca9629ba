"""Recordings as people keep them, without a table that has a header: rows as though one had listed them.

    clips/a.flac  clips/a.txt          the text of a recording under its name       {"audio": "a.flac", "text": "…"}
    metadata.csv  wavs/a.wav           LJ Speech: lines `a|the text|in words`       … and "normalized_text"

A recording without a text beside it is a row without one, which can be predicted; one alone is such a folder of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from keeltune.data.file_formats.file_format import FileLog, Record, not_utf8, text_lines
from keeltune.utils.files import open_regular, read_at_most

SOUND = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
"""Endings of recordings."""

TEXT = (".txt", ".lab")
"""Endings of the file beside a recording that says what it says."""

METADATA, FOLDERS = "metadata.csv", ("wavs", "clips", "audio", ".")
"""LJ Speech's list, and where the recordings that it names may lie."""

MOST_BYTES = 2**30


@dataclass(frozen=True)
class Recordings:
    """`recordings`: by their names without an ending, their paths in the folder; `listed`: in LJ Speech's list."""

    folder: Path
    recordings: Mapping[str, str]
    listed: bool

    def files(self) -> list[Path]:
        """Those that hold the texts; where there is none the recordings."""
        texts = [self.folder / METADATA] if self.listed else [t for t in map(self._text, self.recordings) if t]
        return texts or [self.folder / name for name in self.recordings.values()]

    def log(self) -> FileLog:
        """For problems: a line of the list, or the number of a recording in its folder."""
        return FileLog(str(self.folder / (METADATA if self.listed else "recordings")))

    def records(self, log: FileLog) -> Iterator[Record]:
        """The rows, in the list's order or by name."""
        return self._of_list(log) if self.listed else self._of_folder(log)

    def _text(self, name: str) -> Path | None:
        audio = self.folder / self.recordings[name]
        return next((path for end in TEXT if (path := audio.with_suffix(end)).is_file()), None)

    def _of_folder(self, log: FileLog) -> Iterator[Record]:
        for number, (name, audio) in enumerate(self.recordings.items(), 1):
            path = self._text(name)
            if path is None:
                yield number, {"audio": audio}
                continue
            try:
                yield number, {"audio": audio, "text": _content(path).decode("utf-8-sig").strip()}
            except UnicodeDecodeError as error:
                log.row(number, *not_utf8(error, 0), field=path.name)

    def _of_list(self, log: FileLog) -> Iterator[Record]:
        for line, text, is_text in text_lines(_content(self.folder / METADATA), log):
            name, *texts = (cell.strip() for cell in text.split("|"))
            if is_text and text.strip():
                audio = self.recordings.get(_stem(name), name)
                yield line, {"audio": audio, **dict(zip(("text", "normalized_text"), texts, strict=False))}


def found(path: Path) -> Recordings | None:
    """The recordings of a folder, or of LJ Speech's list itself, or the one that a path names; None where it is not
    kept in one of these ways."""
    if path.is_file() and _stem(path.name) != path.name:
        return Recordings(path.parent, {_stem(path.name): path.name}, listed=False)
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name != METADATA:
        return None
    if (first := _first_name(folder / METADATA)) is not None:
        for inside in FOLDERS:
            recordings = _recordings(folder, inside)
            if _stem(first) in recordings:
                return Recordings(folder, recordings, listed=True)
    recordings = _recordings(folder, ".") if path.is_dir() else {}
    return Recordings(folder, recordings, listed=False) if recordings else None


def _recordings(folder: Path, inside: str) -> dict[str, str]:
    place = folder / inside
    names = sorted(p.name for p in place.iterdir() if p.name.lower().endswith(SOUND)) if place.is_dir() else []
    return {_stem(name): (Path(inside) / name).as_posix() for name in names if name[0] not in "._"}


def _first_name(path: Path) -> str | None:
    """The first cell of a list that has bars between its cells."""
    if not path.is_file():
        return None
    with open_regular(path) as stream:
        first = stream.readline(2**16).decode("utf-8-sig", errors="replace")
    return first.split("|")[0].strip() if "|" in first else None


def _stem(name: str) -> str:
    ending = next((end for end in SOUND if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def _content(path: Path) -> bytes:
    with open_regular(path) as stream:
        return read_at_most(stream, MOST_BYTES)
