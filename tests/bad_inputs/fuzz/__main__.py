"""`python -m tests.bad_inputs.fuzz`: see the package."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.bad_inputs.fuzz.readers import READERS, Desk
from tests.bad_inputs.fuzz.trials import Trial, file_of, trials

SHOWN = 3
"""Cases that are named of each fault."""


def work(reader: str, number: int, cases: range, at: Any, sink: Any) -> None:
    """In a process of its own, so that one which dies says with which case."""
    with tempfile.TemporaryDirectory() as folder:
        for trial in trials(reader, Path(folder), number, cases):
            sink.send(trial)
            at.value = trial.case + 1
    sink.send(None)


def campaign(reader: str, number: int, cases: range, seconds: float) -> list[Trial]:
    """Every case of a reader; a case that kills the process is a fault of its own, and the next one goes on."""
    context, ended, start = get_context("fork"), [], cases.start
    deadline = time.monotonic() + seconds
    while start < cases.stop and time.monotonic() < deadline:
        ours, theirs = context.Pipe(duplex=False)
        at = context.Value("q", start)
        process = context.Process(target=work, args=(reader, number, range(start, cases.stop), at, theirs))
        process.start()
        theirs.close()
        try:
            while time.monotonic() < deadline and (trial := ours.recv()) is not None:
                ended.append(trial)
                if len(ended) % 500 == 0:
                    print(f"  {reader}: {len(ended)} of {len(cases)}", file=sys.stderr, flush=True)
            process.kill()
            start = cases.stop
        except EOFError:
            process.join()
            if process.exitcode == 1:
                raise SystemExit(f"{reader}: the whole files cannot be read, see above") from None
            ended.append(Trial(at.value, "?", None, f"the process ended with {process.exitcode}"))
            start = at.value + 1
        process.join()
    return ended


def report(reader: str, ended: list[Trial], seconds: float) -> dict[str, Any]:
    """Counts, and the faults by kind."""
    faults: dict[str, list[Trial]] = defaultdict(list)
    for trial in ended:
        if trial.fault:
            faults[trial.fault].append(trial)
    counts = {str(status): sum(t.status == status and not t.fault for t in ended) for status in (0, 2)}
    print(f"{reader}: {len(ended)} files in {seconds:.0f} s: {counts['0']} read, {counts['2']} refused, "
          f"{sum(map(len, faults.values()))} faults of {len(faults)} kinds")  # fmt: skip
    for fault, those in sorted(faults.items(), key=lambda pair: -len(pair[1])):
        print(f"  {len(those)} × {fault}: --reader {reader} --case {', '.join(str(t.case) for t in those[:SHOWN])}")
    return {"files": len(ended), "seconds": round(seconds, 1), "statuses": counts,
            "faults": {fault: [t.case for t in those] for fault, those in faults.items()}}  # fmt: skip


def one(reader: str, number: int, case: int, keep: Path | None) -> int:
    """One case with all that it says; `keep`: where its file is put."""
    with tempfile.TemporaryDirectory() as folder:
        seed, data = file_of(reader, READERS[reader](Desk(Path(folder))), number, case)
        print(f"{reader} {case}: {seed.name}, {len(data)} bytes: {data[:2000]!r}")
        if keep:
            keep.write_bytes(data)
        (trial,) = trials(reader, Path(folder), number, range(case, case + 1))
    print(trial.detail, trial, sep="\n")
    return int(bool(trial.fault))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bad_inputs.fuzz", description=__doc__)
    parser.add_argument("--reader", choices=READERS, action="append", help="this one alone; may be given again")
    parser.add_argument("--count", type=int, default=10_000, help="files of each reader")
    parser.add_argument("--first", type=int, default=0, help="the first case")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--case", type=int, help="this one alone, with its traceback")
    parser.add_argument("--keep", type=Path, help="with --case: where its file is written")
    parser.add_argument("--seconds", type=float, default=1e9, help="of each reader at most")
    parser.add_argument("--out", type=Path, help="where the figures are written as JSON")
    given = parser.parse_args()
    readers = given.reader or list(READERS)
    if given.case is not None:
        return one(readers[0], given.seed, given.case, given.keep)
    figures = {}
    for reader in readers:
        started = time.monotonic()
        ended = campaign(reader, given.seed, range(given.first, given.first + given.count), given.seconds)
        figures[reader] = report(reader, ended, time.monotonic() - started)
        if given.out:
            given.out.write_text(json.dumps(figures, indent=1) + "\n")
    return int(any(figure["faults"] for figure in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
