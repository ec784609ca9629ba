"""Bits that flip, files that are cut or gone: in the checkpoints of a run, in a finished model, in a cache."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.faults.bench import SEEN, Bench, Trial, quiet
from tests.faults.outcome import leftovers

from keeltune.utils.manifest import MANIFEST, opened

RUN, CACHED = "few steps", "few steps, cached"
FLIPS = {"checkpoints": 600, "model": 200, "kept": 200}
"""Flipped bits below each of these folders, spread evenly over its files: 1,000."""

WHOLE = 10
"""Of so many damaged checkpoints one is gone on from to the end; of the others, what the next start decides is read."""

CARD = "README.md"
"""A model's card, which is for people to write in: no digest holds it."""

NEWEST, OLDER = "checkpoint-6", "checkpoint-4"


def trials(bench: Bench) -> Iterator[Trial]:
    for place, tried, state in (
        ("checkpoints", damaged_checkpoint, bench.state(RUN, "conclude") / "checkpoints"),
        ("model", damaged_model, _finished(bench) / "model"),
        ("kept", damaged_cache, _kept(bench)),
    ):
        files = sorted(str(path.relative_to(state)) for path in state.rglob("*") if path.is_file())
        files = [name for name in files if not name.startswith((".", f"{OLDER}/", CARD))]
        each = -(-FLIPS[place] // len(files))
        for file in files:
            for number in range(each):
                yield Trial(f"flipped bits: {place}", f"{file} {number}", partial(tried, "flip", file, number))
            for how, number in (("cut", 0), ("cut", 1), ("cut", 2), ("delete", 0)):
                family = f"cut and deleted files: {place}"
                yield Trial(family, f"{file} {how} {number}", partial(tried, how, file, number))


def damage(file: Path, how: str, number: int) -> None:
    """Changes a file: one bit of it, or its length, or that it is there; which bit and length, by its name."""
    dice = random.Random(f"{file.name} {how} {number}")
    content = bytearray(file.read_bytes())
    if how == "delete" or not content:
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[: dice.randrange(len(content))])
    else:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        file.write_bytes(content)


def damaged_checkpoint(how: str, file: str, number: int, bench: Bench) -> str:
    """What the newest checkpoint is made of: named and passed over, for the one before it or the beginning. Of all
    else, the end is the same."""
    with bench.fresh(RUN) as folder:
        shutil.copytree(bench.state(RUN, "conclude"), folder / "out")
        damage(folder / "out" / "checkpoints" / file, how, number)
        whole = number % WHOLE == 0 or not bench.sealed
        plan = {} if whole else {"at": ["build", 1], "do": f"exit {SEEN}"}
        ended = bench.train(folder, RUN, "--resume", plans=[plan])
        wrong = quiet(ended, 0 if whole else SEEN)
        if file.startswith(f"{NEWEST}/") or file == _best(bench):
            wrong += "" if Path(file).name in ended.text else f"; {file} is not named"
            wrong += f"; {NEWEST} is used" if f"going on from {NEWEST}" in ended.text else ""
        return wrong or (bench.same_end(folder, RUN) if whole else "")


def _best(bench: Bench) -> str:
    """The file of the best weights that the newest checkpoint names."""
    newest = bench.state(RUN, "conclude") / "checkpoints" / NEWEST
    return (opened(newest / MANIFEST)["best"] or {}).get("file", "") if bench.sealed else ""


def _finished(bench: Bench) -> Path:
    """The output folder of a whole run."""
    return _kept_folder(bench, RUN, "out", "finished")


def _kept(bench: Bench) -> Path:
    """The finished cache of a whole run."""
    return _kept_folder(bench, CACHED, "kept", "cache")


def _kept_folder(bench: Bench, name: str, inner: str, called: str) -> Path:
    kept = bench.folder / called
    if not kept.exists():
        with bench.fresh(name) as folder:
            bench.train(folder, name)
            shutil.copytree(folder / inner, kept)
    return kept


def damaged_model(how: str, file: str, number: int, bench: Bench) -> str:
    """A finished model that is not as it was written is not used, and the file is named. Of one without its manifest,
    which may be anybody's, `keeltune verify` says it."""
    with bench.fresh(RUN) as folder:
        shutil.copytree(_finished(bench), folder / "out")
        damage(folder / "out" / "model" / file, how, number)
        anybodys = how == "delete" and file.endswith(MANIFEST)
        call = ["verify", "out"] if anybodys else ["evaluate", "out", "--data", "test.jsonl"]
        ended = bench.server.run(folder, call)
        return quiet(ended, 3) or ("" if Path(file).name in ended.text else f"not named: {ended.text[-300:]}")


def damaged_cache(how: str, file: str, number: int, bench: Bench) -> str:
    """A damaged cache is made again by its teacher, to the bit; or it is refused, where nothing says whose it is."""
    with bench.fresh(CACHED) as folder:
        shutil.copytree(_kept(bench), folder / "kept")
        damage(folder / "kept" / file, how, number)
        plan = {} if number % WHOLE == 0 or file.startswith("gate") else {"at": ["before", 1], "do": f"exit {SEEN}"}
        ended = bench.train(folder, CACHED, plans=[plan])
        if file == MANIFEST and ended.status == 3:
            return quiet(ended, 3) or ("" if file in ended.text else f"not named: {ended.text[-300:]}")
        if wrong := quiet(ended, SEEN if plan else 0):
            return wrong
        return (bench.same_end(folder, CACHED) if not plan else "") or _apart(folder / "kept", _kept(bench))


def _apart(one: Path, other: Path) -> str:
    there: Callable[[Path], dict[str, bytes]] = lambda folder: {  # noqa: E731
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    left, right = there(one), there(other)
    wrong = [name for name in sorted({*left, *right}) if left.get(name) != right.get(name)]
    return "; ".join([f"{name} is not as it was" for name in wrong] + leftovers(one))
