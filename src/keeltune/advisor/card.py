"""The advisor's card: what it recommends, how sure it is, on what evidence, and what would change it."""

from __future__ import annotations

from typing import Any

from keeltune.advisor import verdict
from keeltune.advisor.candidates import PLAIN, Arm
from keeltune.advisor.standings import Standings
from keeltune.reports.findings import forgetting, overruled_labels, teacher
from keeltune.utils.messages import Message

POOL_RATIO = 5
"""Texts without labels for each labelled row that make distillation worth a try."""


def card_of(standings: Standings) -> tuple[Arm, dict[str, Any]]:
    """The arm to run, and the card; `cost`, `complete` and `recipe` are added by the race, which knows them."""
    lines = standings.ranked()
    last = [line for line in lines if line["rung"] == lines[0]["rung"]]
    allowed = [line for line in last if line["arm"] not in standings.ruled_out] or last
    chosen = {"arm": PLAIN, "p_better": None, "sure": False, "reason": Message("nothing was compared yet")}
    if allowed:
        chosen = verdict.decided(allowed, [arm.name for arm in standings.arms], PLAIN)
    arm = next(arm for arm in standings.arms if arm.name == chosen["arm"])
    descriptions = {arm.name: arm.description for arm in standings.arms}
    turning = verdict.turning_points(allowed, arm.name, standings.source_weight) if allowed else []
    return arm, {
        "recommended": arm.name,
        "said": arm.description,
        "sure": chosen["sure"],
        "p_better": chosen["p_better"],
        "reason": chosen["reason"],
        "task": standings.recipe.task,
        "metric": standings.metric,
        "source_weight": standings.source_weight,
        "max_source_drop": standings.max_source_drop,
        "arms": [{**line, "said": descriptions[line["arm"]]} for line in lines],
        "ruled_out": standings.ruled_out,
        "evidence": _evidence(standings),
        "turning_points": [*(_turning_point(name, at) for name, at in turning), *_wishes(standings, arm.name)],
    }


def _evidence(standings: Standings) -> list[str]:
    """What the pilots measured on the way."""
    sentences = _of_runs(standings)
    rows, texts = standings.rows
    if texts:
        template = "{texts} texts without labels, {ratio:.1f} for each of {rows} labelled rows"
        sentences.append(Message(template, texts=texts, rows=rows, ratio=texts / rows))
    if (fewer := standings.fewer_rows) is not None:
        template = (
            "learning curve: four times the labelled rows, {few} to {rows}, better {metric} by {gain:+.3g} "
            "({low:+.3g} to {high:+.3g}) at {share:.0%} of the steps"
        )
        low, high = fewer.comparison["interval"]
        gain = {"metric": standings.metric, "gain": fewer.comparison["gain"], "low": low, "high": high}
        sentences.append(Message(template, few=fewer.rows, rows=rows, share=fewer.share, **gain))
    return sentences


def _of_runs(standings: Standings) -> list[str]:
    """The teacher, forgetting, how far the domains are apart, and labels overruled."""
    results = {name: run.result for name, run in standings.runs.items()}
    gate = next((gate for result in results.values() if (gate := result["reference"]["gate"])), None)
    sentences = teacher.findings(gate)
    for name, result in results.items():
        if name == PLAIN:
            sentences += forgetting.findings(result)
        elif name == "anchored":
            sentences += overruled_labels.findings(result["veto"], taught=False)
    return list(dict.fromkeys(sentences))


def _turning_point(arm: str, source_weight: float) -> str:
    template = "if the old domain counted {at:.2f} of the whole: {arm}"
    return Message(template, at=source_weight, arm=Message(arm))


def _wishes(standings: Standings, chosen: str) -> list[str]:
    """What is missing that would allow another arm."""
    sentences: list[str] = []
    if "distilled with a pool" in standings.ruled_out and not chosen.startswith("distilled with"):
        plain = standings.runs.get(PLAIN)
        rows = plain.result["data"]["train"]["rows"] if plain else 0
        if rows:
            template = "with {rows} texts without labels and a good teacher: {arm}"
            sentences.append(Message(template, rows=POOL_RATIO * rows, arm=Message("distilled with a pool")))
    if "anchored on source inputs" in standings.ruled_out and standings.recipe.data.source.validation:
        arm = Message("anchored on source inputs")
        sentences.append(Message("with inputs of the old domain (no labels needed): {arm}", arm=arm))
    return sentences
