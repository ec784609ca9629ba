"""Bits that flip, files that are cut or gone: in the checkpoints of a run, in a finished model, in a cache."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.faults.bench import Bench, Trial, quiet
from tests.faults.outcome import leftovers

RUN, CACHED = "few steps", "few steps, cached"
FLIPS = {"checkpoints": 600, "model": 200, "kept": 200}
"""Flipped bits below each of these folders, spread evenly over its files: 1,000."""

WHOLE = 10
"""Of so many damaged checkpoints one is gone on from to the end; of the others, what the next start decides is read."""

DETECTED = 77


def trials(bench: Bench) -> Iterator[Trial]:
    for place, tried, state in (
        ("checkpoints", damaged_checkpoint, bench.state(RUN, "conclude") / "checkpoints"),
        ("model", damaged_model, _finished(bench) / "model"),
        ("kept", damaged_cache, _kept(bench)),
    ):
        files = sorted(str(path.relative_to(state)) for path in state.rglob("*") if path.is_file())
        files = [name for name in files if not name.startswith(".")]
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
    """Damage to the newest checkpoint is named and the one before it taken; no other damage changes the end."""
    with bench.fresh(RUN) as folder:
        shutil.copytree(bench.state(RUN, "conclude"), folder / "out")
        place = folder / "out" / "checkpoints"
        damage(place / file, how, number)
        newest = max((p.name for p in place.glob("checkpoint-*")), key=lambda name: int(name.split("-")[1]))
        in_newest = file.startswith(f"{newest}/")
        if in_newest and number % WHOLE and bench.sealed:
            ended = bench.train(folder, RUN, "--resume", plans=[{"at": ["build", 1], "do": f"exit {DETECTED}"}])
            return quiet(ended, DETECTED) or _named(ended.text, newest, file)
        ended = bench.train(folder, RUN, "--resume")
        if ended.status == 3:
            return quiet(ended, 3) or ("" if Path(file).name in ended.text else f"not named: {ended.last_line}")
        return quiet(ended, 0) or bench.same_end(folder, RUN) or (in_newest and _named(ended.text, newest, file)) or ""


def _named(text: str, checkpoint: str, file: str) -> str:
    lines = [line for line in text.splitlines() if "skipping" in line and checkpoint in line]
    if not lines:
        return f"nothing says that {checkpoint} is passed over"
    inner = file.split("/", 1)[1]
    return "" if Path(inner).name in text else f"{inner} is not named in: {lines[0][:200]}"


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
    """A finished model that is not as it was written is not used, and the file is named."""
    with bench.fresh(RUN) as folder:
        shutil.copytree(_finished(bench), folder / "out")
        damage(folder / "out" / "model" / file, how, number)
        ended = bench.server.run(folder, ["evaluate", "out", "--data", "test.jsonl"])
        return quiet(ended, 3) or ("" if Path(file).name in ended.text else f"not named: {ended.text[-300:]}")


def damaged_cache(how: str, file: str, number: int, bench: Bench) -> str:
    """A damaged cache whose teacher is at hand is made again, to the bit."""
    with bench.fresh(CACHED) as folder:
        shutil.copytree(_kept(bench), folder / "kept")
        damage(folder / "kept" / file, how, number)
        plan = {} if number % WHOLE == 0 else {"at": ["before", 1], "do": f"exit {DETECTED}"}
        ended = bench.train(folder, CACHED, plans=[plan])
        if wrong := quiet(ended, DETECTED if plan else 0):
            return wrong
        return (bench.same_end(folder, CACHED) if not plan else "") or _apart(folder / "kept", _kept(bench))


def _apart(one: Path, other: Path) -> str:
    there: Callable[[Path], dict[str, bytes]] = lambda folder: {  # noqa: E731
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    left, right = there(one), there(other)
    wrong = [name for name in sorted({*left, *right}) if left.get(name) != right.get(name)]
    return "; ".join([f"{name} is not as it was" for name in wrong] + leftovers(one))
