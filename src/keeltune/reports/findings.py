"""Sentences of a finished result: teacher, overruled labels, forgetting, overfitting, bias."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from keeltune.evaluation import overruled_labels
from keeltune.evaluation.overfitting import scale_of
from keeltune.evaluation.teacher_report import CHANCE, MENDED, NOTHING
from keeltune.utils.messages import Message, joined


def bias_findings(result: Mapping[str, Any]) -> list[str]:
    """What stands out, for the console."""
    found = result.get("bias")
    if not found:
        return []
    said = []
    for column, groups in found["slices"].items():
        scale = scale_of(found["metric"])
        if scale is not None and groups["gap"] is not None and groups["gap"] > 0.1 * scale:
            worst = groups["groups"][groups["worst"]]
            between = "" if worst["interval"] is None else " ({:.3f} to {:.3f})".format(*worst["interval"])
            said.append(
                f"{column} {groups['worst']}: {found['metric']} {worst['value']:.3f}{between} on "
                f"{worst['rows']} {found['split']} rows, {groups['gap']:.3f} worse than the best group"
            )
    exchanged = found["counterfactual"]
    if exchanged and exchanged["interval"][0] > 0.01:
        low, high = exchanged["interval"]
        said.append(
            f"warning: {exchanged['flip_rate']:.1%} ({low:.1%} to {high:.1%}) of {exchanged['rows']} answers change "
            "where a term stands for another"
        )
    for word in found["words"]:
        removed, against = word["removed"], word["against"]
        low = against["value"] is not None and against["rows"] >= 5 and against["value"] < 0.5
        if low or (removed["interval"] and removed["interval"][0] > 0.2):
            said.append(
                f"warning: answers hang on the word {word['word']!r} ({word['share']:.0%} {word['label']} in "
                f"{word['rows']} training rows): without it {removed['flips']} of {removed['rows']} change"
                + (
                    f"; of {against['rows']} rows with it and another label {against['value']:.0%} are right"
                    if low
                    else ""
                )
            )
    return said


def veto_findings(found: Mapping[str, Any] | None, *, taught: bool) -> list[str]:
    """What `veto` found, in a sentence; a warning where a source model wins too often against the new labels."""
    if found is None or not found["contradicted"]:
        return []
    said = Message(
        "the reference would choose otherwise than {contradicted:.1%} of {predictions} labels; at weight {weight:.3g} "
        "it wins against {overruled:.1%} of them all",
        **{name: found[name] for name in ("contradicted", "predictions", "weight", "overruled")},
    )
    if found["confidence"] is not None:
        said = joined([said, Message(", those of which it is surer than {p:.4g}", p=found["confidence"])])
    if found["overruled"] < overruled_labels.WARNED or taught:
        return [said]
    fix = Message(
        "; with objective.weight: {weight} it would win against {share:.0%}",
        weight=_two_digits(found["weight_kept"]),
        share=overruled_labels.TOLERATED,
    )
    return [joined([Message("warning: "), said, fix])]


def _two_digits(value: float) -> str:
    """Rounded down, so that the weight still keeps what it promises."""
    digits = 1 - math.floor(math.log10(value))
    return f"{math.floor(value * 10**digits) / 10**digits:g}"


# ----------------------------------------------------------------------------------------------------------- in words


def forgetting_findings(result: Mapping[str, Any]) -> list[str]:
    """The forgetting report in a few sentences, for the console and the page."""
    report, budget = result.get("forgetting"), result.get("budget")
    over: list[str] = []
    if budget and not budget["held"]:
        template = "warning: {kind} is {measured:.4g}, above its limit {limit:g}"
        over = [Message(template, **{name: budget[name] for name in ("kind", "measured", "limit")})]
    if not report:
        return over
    said: list[str] = [
        _forgetting_sentence(name, report[name]) for name in ("source", "control", "target") if report[name]
    ]
    if report["gap"]:
        named = {"words": "{far:.2f} by their words", "features": "{far:.2f} by what the model makes of them"}
        far = [Message(named[name], far=value) for name, value in report["gap"].items() if value is not None]
        if far:
            apart = "the domains are {far} apart (0: the same, 2: never taken for each other)"
            said.append(Message(apart, far=joined(far, ", ")))
    moved = report["divergence"]
    on = {"target": "{kl:.3f} on target inputs", "source": "{kl:.3f} on source inputs"}
    parts = [Message(template, kl=moved[name]["reverse_kl"]) for name, template in on.items() if moved[name]]
    if parts:
        said.append(Message("nats a prediction from the model before training: {parts}", parts=joined(parts, ", ")))
    return [*over, *said]


def _forgetting_sentence(name: str, change: Mapping[str, Any]) -> str:
    what = {"source": "source domain", "control": "source domain, control slice", "target": "target domain"}
    found = change["metrics"][change["metric"]]
    low, high = found["interval"]
    known = change["retention"] is not None and name != "target"
    rows = ""
    if change["lost"] is not None:  # of several seeds no one row is lost
        rows = Message("; {lost} rows lost, {won} won", lost=len(change["lost"]), won=change["won"])
    return Message(
        "{what}: {metric} {before:.4f} -> {after:.4f}, change {change:+.4f} ({low:+.4f} to {high:+.4f}){kept}{rows}",
        what=Message(what[name]), metric=change["metric"], low=low, high=high, rows=rows,
        kept=Message(", {share:.1%} kept", share=change["retention"]) if known else "",
        **{key: found[key] for key in ("before", "after", "change")},
    )  # fmt: skip


def teacher_findings(gate: Mapping[str, Any] | None) -> list[str]:
    """What `judge` found, in sentences; those that begin with "warning: " are for the user to act on."""
    if gate is None:
        return []
    return [line for verdict in [*gate["members"], gate] for line in _teacher_sentences(verdict, gate)]


def _teacher_sentences(verdict: Mapping[str, Any], gate: Mapping[str, Any]) -> list[str]:
    metric, floor = verdict["metric"], gate["floor"]
    who = Message("the average of the teachers")
    if verdict["model"] is not None:
        who = Message("the teacher {name}", name=verdict["model"])

    def figures(scores: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> Message:
        low, high = intervals[metric]
        return Message("{value:.3f} ({low:.3f} to {high:.3f})", value=scores[metric], low=low, high=high)

    mine = figures(verdict["teacher"], verdict["intervals"])
    said = Message("{metric} {figures} on {rows} validation rows", metric=metric, figures=mine, rows=gate["rows"])
    start = Message("the student's head is new, so that it has no start to compare with")
    if gate["student"] is not None:
        theirs = figures(gate["student"], gate["student_intervals"])
        start = Message("the student's start {figures}", figures=theirs)
    found = Message("{who}: {said}; {start}", who=who, said=said, start=start)
    if verdict["difference"] is not None and verdict["difference"][1] < -NOTHING:
        low, high = (-end for end in reversed(verdict["difference"]))
        found = Message(
            "warning: {who} is worse than the student's start by {low:.3f} to {high:.3f}: {said}; {start}; it would "
            "teach its mistakes; take another teacher, or train without one",
            who=who, low=low, high=high, said=said, start=start,
        )  # fmt: skip
    elif verdict["over_floor"] is not None and verdict["over_floor"][0] <= 0:
        found = Message(
            "warning: {who} is not measurably better than the answer {answer} to every row: {floor:.3f}; {said}; "
            "{start}",
            answer=json.dumps(floor["answer"], ensure_ascii=False), floor=floor[metric], who=who, said=said,
            start=start,
        )  # fmt: skip
    return [found, *_temperature_offer(who, verdict)]


def _temperature_offer(who: Message, verdict: Mapping[str, Any]) -> list[str]:
    """The temperature that would calibrate a teacher, where it clearly would."""
    found = verdict["calibration"]
    if found is None or verdict["temperature"] is None or found["temperature"] is None:
        return []
    if found["ece"] - found["ece_after"] < MENDED or 2 * found["predictions"] * found["gain"] < CHANCE:
        return []
    side = "over-confident" if found["temperature"] > 1 else "under-confident"
    return [
        Message(
            "{who} is {side}: ECE {before:.2f}, {after:.2f} at temperature {value:.3g} (fitted on {rows} predictions); "
            "reference: {{model: …, temperature: {value:.3g}}} calibrates it",
            who=who, side=Message(side), before=found["ece"], after=found["ece_after"], rows=found["predictions"],
            value=found["temperature"] * verdict["temperature"],
        )
    ]  # fmt: skip


def kept_weights_findings(result: Mapping[str, Any]) -> list[str]:
    """What was measured and kept, where that is not the weights themselves."""
    if not (result["overfitting"] or {}).get("averaged"):
        return []
    return [Message("what was measured and kept is the mean of the weights of two evaluations in a row")]


def overfitting_findings(result: Mapping[str, Any]) -> list[str]:
    """The verdict and what is not green, for the console."""
    found = result.get("overfitting")
    if not found:
        return []
    said = [f"verdict: {found['verdict']}"]
    for signal in found["signals"]:
        if signal["light"] != "green":
            said.append(("warning: " if signal["light"] == "red" else "") + f"{signal['name']}: {signal['said']}")
    return said
