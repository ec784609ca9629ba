"""What a folder holds after the power was cut: only what was flushed, rebuilt from what the shim's `cut` recorded.

A file's content is safe as it was at the file's last flush, its name once its folder has been flushed since. What is
safe changes at a flush alone, so that a cut after each of them is every cut that there is. Of what was not flushed a
disk may keep any part; two extremes are rebuilt:

    nothing        neither names nor contents that were not flushed are there
    names          names are as they were when the power went, contents that were not flushed are gone: empty files
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

KEPT = ("nothing", "names")

Listings = dict[str, dict[str, tuple[str, str]]]
"""By a folder's inode: {name: (kind, inode)}."""


@dataclass
class Disk:
    """`contents`: the file with each inode's safe content; `listings`: each folder's safe {name: (kind, inode)}."""

    contents: dict[str, Path] = field(default_factory=dict)
    listings: Listings = field(default_factory=dict)

    def write(self, target: Path, folder: str, listings: Listings) -> None:
        """Makes the folder of this inode anew as `target`."""
        target.mkdir()
        for name, (kind, inode) in listings.get(folder, {}).items():
            if kind == "d":
                self.write(target / name, inode, listings)
            elif kind == "f":
                shutil.copyfile(self.contents[inode], target / name) if inode in self.contents else (
                    target / name
                ).touch()


def cuts(record: Path, target: Path) -> Iterator[tuple[int, str]]:
    """(k, what is kept) of each cut after flush k = 0, 1, …, while `target` holds what the disk has then."""
    flushes = sorted(int(file.stem) for file in record.glob("*.event"))
    disk = Disk()
    trees = [_tree(record / f"{number:06d}.tree") for number in flushes]
    for number, (root, names) in zip([0, *flushes], [trees[0], *trees], strict=True):
        if number:
            kind, inode, _ = (record / f"{number:06d}.event").read_text().split(" ", 2)
            if kind == "f":
                disk.contents[inode] = record / f"{number:06d}.data"
            else:
                disk.listings[inode] = dict(names.get(inode, {}))
        later = trees[min(number, len(trees) - 1)][1]
        for kept, listings in (("nothing", disk.listings), ("names", later)):
            shutil.rmtree(target, ignore_errors=True)
            disk.write(target, root, listings)
            yield number, kept


def _tree(file: Path) -> tuple[str, Listings]:
    """The root's inode, and every folder's list of names."""
    inodes: dict[str, str] = {}
    listings: Listings = {}
    for line in file.read_text().splitlines():
        kind, inode, path = line.split(" ", 2)
        if kind == "d":
            inodes[path] = inode
            listings[inode] = {}
        if path:
            folder, _, name = path.rpartition("/")
            listings[inodes[folder]][name] = (kind, inode)
    return inodes[""], listings
