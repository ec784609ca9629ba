"""The page of a campaign: n of N for each family, before and now, and what was wrong where anything was."""

from __future__ import annotations

from collections.abc import Sequence

HEAD = """# What a run survives

Made by `python -m benchmarks.faults`: small random models of all families and methods, CPU, one thread. A trial passes
where the run that goes on ends as the one that nothing happened to, to the bit (weights, predictions, `log.jsonl`,
`result.json` but times), with no half written file left, no process left, the exit status that is promised and no
traceback.
"""


def page(now: Sequence[dict], before: Sequence[dict]) -> str:
    lines = [HEAD, "| faults | passed | before |", "| --- | --- | --- |"]
    families = list(dict.fromkeys(line["family"] for line in now))
    for family in families:
        lines.append(f"| {family} | {_share(now, family)} | {_share(before, family)} |")
    failed = [line for line in now if line["wrong"]]
    lines += ["", "## What did not pass", ""] if failed else []
    lines += [f"- {line['family']}, {line['trial']}: {line['wrong'][:300]}" for line in failed]
    return "\n".join(lines)


def _share(lines: Sequence[dict], family: str) -> str:
    mine = [line for line in lines if line["family"] == family]
    return f"{sum(not line['wrong'] for line in mine)} of {len(mine)}" if mine else "–"
