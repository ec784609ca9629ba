"""What models read of media files: in memory as long as there is room, then in a file that no run leaves behind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from keeltune.data import array_file, media
from keeltune.data.dataset import Row
from keeltune.data.media import ArrayCache
from tests.helpers import whispers
from tests.helpers.speakers import TEXTS, media_of, save_sound


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def arrays_of(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"values": random.standard_normal((20, 30)).astype(np.float32), "mask": random.random(30) > 0.5}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and np.array_equal(a[n], b[n]) for n in a)


def test_what_does_not_fit_into_memory_is_kept_in_a_file_without_a_name(temporary):
    cache = ArrayCache(room=3000)
    for seed in range(4):
        cache.keep(f"d{seed}", arrays_of(seed))
        cache.keep(f"d{seed}", arrays_of(9))  # it is known
    assert len(cache) == 4 and len(cache.file) == 3
    assert all(same(cache.get(f"d{seed}"), arrays_of(seed)) for seed in range(4)) and cache.get("other") is None
    assert not os.listdir(temporary)  # a killed run leaves nothing
    assert cache.file.__getstate__()["_file"] is None  # of a process that does not inherit it


def test_a_forked_process_reads_and_writes_nothing(temporary):
    """Its place in the file is its parent's too."""
    cache = ArrayCache(room=0)
    cache.keep("a", arrays_of(0))
    if not (child := os.fork()):
        cache.keep("b", arrays_of(1))
        os._exit(0 if same(cache.get("a"), arrays_of(0)) and len(cache) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    cache.keep("c", arrays_of(2))
    assert same(cache.get("a"), arrays_of(0)) and same(cache.get("c"), arrays_of(2))


def test_a_disk_without_room_keeps_nothing(temporary, monkeypatch):
    monkeypatch.setattr(array_file, "free_bytes", lambda path: 6000)
    cache = ArrayCache(room=0)
    for seed in range(3):
        cache.keep(f"d{seed}", arrays_of(seed))
    assert len(cache) == 1 and cache.get("d1") is None
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: open(temporary / "no" / "where", "wb"))  # noqa: SIM115
    cache = ArrayCache(room=0)
    cache.keep("a", arrays_of(0))
    assert cache.get("a") is None


def recording(folder: Path, number: int) -> Row:
    fields = {"audio": media_of(folder / save_sound(folder, number)), "text": TEXTS[number]}
    return Row(fields, "f", number + 1, f"k{number}")


def test_features_from_the_file_are_those_from_memory_to_the_bit(temporary, monkeypatch):
    rows = [recording(temporary, i) for i in range(3)]
    _, task = whispers.speaker()
    in_memory = [dict(task.recordings.read(row)) for row in rows]
    monkeypatch.setattr(media, "ROOM", 20_000)
    _, task = whispers.speaker()
    computed = [dict(task.recordings.read(row)) for row in rows]
    assert len(task.recordings.arrays.file) >= 2
    monkeypatch.setattr(task.recordings, "_extracted", None)  # nothing is computed again
    again = [task.recordings.read(row) for row in rows]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(in_memory, computed, again, strict=True))
