"""The whole fault campaign: every family of faults on small random models, each trial's end held to the bit.

    python -m benchmarks.faults --out FILE.jsonl [--only FAMILY] [--sample N]
    python -m benchmarks.faults --table FILE.jsonl [--before benchmarks/faults/before.jsonl] > docs/faults.md

A run adds a line for each trial to FILE and leaves out those that FILE has: it goes on where it was stopped. It needs
this checkout (the tests' models and shim) and a C compiler; 40 to 80 minutes on one core. Two processes share it with
--shard 1/2 and 2/2, and the same FILE.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults import calls, changes, commands, damage, kills, processes, signals, table
from benchmarks.faults.bench import Bench, Trial

PARTS = (kills, calls, damage, signals, processes, changes, commands)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON lines, one a trial; those that it has are not run again")
    parser.add_argument("--only", action="append", help="families whose name holds this")
    parser.add_argument("--sample", type=int, help="at most so many trials of a family, chosen at random")
    parser.add_argument("--shard", default="1/1", help="I/N: every N-th trial from the I-th on, beside other processes")
    parser.add_argument("--again", action="store_true", help="runs those again that have not passed")
    parser.add_argument("--table", type=Path, help="prints the page of such a file, and runs nothing")
    parser.add_argument("--before", type=Path, help="of --table: the same of an earlier state of the code")
    given = parser.parse_args()
    if given.table:
        print(table.page(read(given.table), read(given.before) if given.before else []))
        return
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench = Bench(Path(folder))
        try:
            campaign(bench, given)
        finally:
            bench.close()


def campaign(bench: Bench, given: argparse.Namespace) -> None:
    """Runs what FILE does not have yet."""
    done = {(line["family"], line["trial"]): line["wrong"] for line in read(given.out)} if given.out else {}
    first, every = map(int, given.shard.split("/"))
    for part in PARTS:
        for trial in _chosen(part.trials(bench), given)[first - 1 :: every]:
            before = done.get((trial.family, trial.name))
            if before == "" or (before and not given.again):
                continue
            begun = time.monotonic()
            try:
                wrong = trial.run(bench)
            except Exception:
                wrong = f"the campaign: {traceback.format_exc()[-500:]}"
            seconds = round(time.monotonic() - begun, 2)
            line = json.dumps({"family": trial.family, "trial": trial.name, "wrong": wrong, "seconds": seconds})
            print(line, flush=True)
            if given.out:
                with given.out.open("a", encoding="utf-8") as stream:
                    stream.write(line + "\n")


def _chosen(trials: Iterator[Trial], given: argparse.Namespace) -> list[Trial]:
    families: dict[str, list[Trial]] = {}
    for trial in trials:
        if not given.only or any(name in trial.family for name in given.only):
            families.setdefault(trial.family, []).append(trial)
    if given.sample is None:
        return [trial for family in families.values() for trial in family]
    dice = random.Random(0)
    return [trial for family in families.values() for trial in dice.sample(family, min(given.sample, len(family)))]


def read(file: Path) -> list[dict]:
    """The last line of each trial."""
    if not file.is_file():
        return []
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list({(line["family"], line["trial"]): line for line in lines}.values())


if __name__ == "__main__":
    sys.exit(main())
