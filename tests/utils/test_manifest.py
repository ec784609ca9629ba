"""Manifests: any flipped bit, cut or missing file is found, in the manifest too; a folder is whole or not there."""

from __future__ import annotations

import random

import pytest

from keeltune.utils import manifest
from keeltune.utils.manifest import NotAsWrittenError


@pytest.fixture
def folder(tmp_path):
    staging = tmp_path / f"{manifest.STAGING}one"
    (staging / "inner").mkdir(parents=True)
    (staging / "a.bin").write_bytes(bytes(range(256)))
    (staging / "inner" / "b.txt").write_text("ballast")
    (staging / "empty").touch()
    manifest.seal_folder(staging, {"step": 3})
    manifest.put_in_place(staging, tmp_path / "one")
    return tmp_path / "one"


def test_a_sealed_folder_is_what_was_written(folder):
    found = manifest.verified(folder)
    assert found["step"] == 3
    assert {name: facts["bytes"] for name, facts in found["files"].items()} == {
        "a.bin": 256, "inner/b.txt": 7, "empty": 0,
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def test_each_bit_of_each_file_counts(folder):
    for name in ("a.bin", "inner/b.txt", manifest.MANIFEST):
        file = folder / name
        content = file.read_bytes()
        for bit in random.Random(name).sample(range(8 * len(content)), 50):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(bytes(flipped))
            with pytest.raises(NotAsWrittenError, match=file.name):
                manifest.verified(folder)
        file.write_bytes(content)
    manifest.verified(folder)


@pytest.mark.parametrize("name", ["a.bin", "inner/b.txt", "empty", manifest.MANIFEST])
def test_a_missing_or_cut_file_is_named(folder, name):
    file = folder / name
    content = file.read_bytes()
    for cut in {0, 1, len(content) // 2} & {*range(len(content))}:
        file.write_bytes(content[:cut])
        with pytest.raises(NotAsWrittenError, match=file.name):
            manifest.verified(folder)
    file.unlink()
    with pytest.raises(NotAsWrittenError, match=f"{file.name} is missing"):
        manifest.verified(folder)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"digest": 1}', b'{"files":{}}', b'{"digest":{"a":1}}']
)
def test_what_is_no_manifest_is_refused(folder, content):
    (folder / manifest.MANIFEST).write_bytes(content)
    with pytest.raises(NotAsWrittenError, match="digest is not"):
        manifest.verified(folder)


def test_a_folder_takes_anothers_place_and_goes_at_once(folder):
    staging = folder.with_name(f"{manifest.STAGING}two")
    staging.mkdir()
    (staging / "c").write_text("new")
    manifest.seal_folder(staging)
    (folder.parent / f"{manifest.TRASH}one").mkdir()  # a killed writer's
    manifest.put_in_place(staging, folder)
    assert manifest.verified(folder)["files"].keys() == {"c"}
    (folder.parent / f"{manifest.STAGING}three").mkdir()
    manifest.remove(folder)
    manifest.remove(folder)
    manifest.sweep(folder.parent)
    assert not [*folder.parent.iterdir()]
