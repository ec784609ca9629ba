"""The page of a campaign: n of N for each family, before and now, and what was wrong where anything was."""

from __future__ import annotations

from collections.abc import Sequence

HEAD = """# What a run survives

`python -m benchmarks.faults` loses work in every way that we know, on small random models of all families and methods
(CPU, one thread, some 2,500 trials, 40 to 80 minutes).
A trial passes where the run that goes on ends as the one that nothing happened to,
to the bit: weights, predictions, `log.jsonl`, `result.json` but times; and where every folder that is named as a
checkpoint is whole at every moment, no half written file and no process is left, the exit status is the promised one,
no traceback is printed, and the message says what the line promises. `tests/faults` has a few trials of each family
that every change is held against.
"""

PROMISES = {
    "random kills": "14 workloads, 20 kills of each in a step, an evaluation, a save or elsewhere: the same end",
    "chains of five kills": "killed again while it goes on: the same end",
    "a kill at every file call": "of the start, each save, the best weights, the removal of old ones, the final stage",
    "a torn write": "killed in the middle of every write: the same end",
    "a power cut": "after every flush: nothing that was not flushed is left, or names without contents",
    "a kill at every file call of the cache": "the next start fills it up, to the same end",
    "ENOSPC at file calls": "at each: the disk is full from then on: exit 5, with path and free bytes; it goes on",
    "EFBIG at file calls": "at every third: the same for a limit on the size of files",
    "EIO at file calls": "at each: it fails once: tried again, or exit 5; it goes on",
    "flipped bits: checkpoints": "found and named; the newest whole checkpoint before it is taken",
    "cut and deleted files: checkpoints": "the same",
    "flipped bits: model": "`evaluate` refuses a finished model that is not as it was written, naming the file (3)",
    "cut and deleted files: model": "the same",
    "flipped bits: kept": "a broken cache is made again where the teacher is at hand, or refused (3)",
    "cut and deleted files: kept": "the same",
    "signals at every moment": "SIGTERM, Ctrl-C, SIGHUP: exit 75, it goes on; twice: 130; killed after it: as a kill",
    "two runs in one folder": "the second is refused (2), naming the first one's process; a killed one's lock is taken",
    "data workers": "one dies, hangs or fails: all is ended within 30 s, the worker named; it goes on",
    "ranks": "one of two is killed, stopped or fails: all is ended within 30 s, the rank named; it goes on",
    "a changed recipe": "refused (3), naming the field; undone, it goes on",
    "changed data": "refused (3), naming the file, when it goes on and while it trains",
    "the clock": "wrong by a year, a day, an hour: the same end",
    "versions": "another version of torch is said",
    "another place": "the folder is carried away in the middle of a run and goes on there, to the same end",
    "gradients that are no numbers": "exit 4 before the update, naming the step; the last checkpoint is finite",
    "an output that cannot be written": "refused (2) within 5 s, before a model is read",
    "out of memory": "exit 5, naming a smaller batch; it goes on",
    "commands of their own": "each start a Python of its own, two ranks by torchrun: the same end",
}
"""family: what is promised."""

ELSEWHERE = """
Tested elsewhere: a cache of another teacher, tokenizer, data, length, form or type (`tests/training/test_cache.py`);
a served teacher that dies, is slow or answers nonsense (`tests/objective/test_served.py`); the same gradients however a
step is cut and over however many processes (`tests/exactness`).
"""


def page(now: Sequence[dict], before: Sequence[dict]) -> str:
    """Markdown of both campaigns' lines; `before` was a sample, at 2026-11-30, of the code before this one."""
    lines = [HEAD, "| faults | promised | passed | before |", "| --- | --- | --- | --- |"]
    families = list(dict.fromkeys(line["family"] for line in now))
    for family in families:
        lines.append(f"| {family} | {PROMISES[family]} | {_share(now, family)} | {_share(before, family)} |")
    total = f"{sum(not line['wrong'] for line in now)} of {len(now)}"
    earlier = f"{sum(not line['wrong'] for line in before)} of {len(before)}" if before else "–"
    lines += [f"| all | | {total} | {earlier} |", "", "Before: a sample of each family, on the code of the day before."]
    lines += [ELSEWHERE]
    failed = [line for line in now if line["wrong"]]
    lines += ["## What did not pass", ""] if failed else []
    lines += [f"- {line['family']}, {line['trial']}: {line['wrong'][:300]}" for line in failed]
    return "\n".join(lines)


def _share(lines: Sequence[dict], family: str) -> str:
    mine = [line for line in lines if line["family"] == family]
    return f"{sum(not line['wrong'] for line in mine)} of {len(mine)}" if mine else "–"
