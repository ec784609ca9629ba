"""What a teacher knows of the validation rows, beside the student's start, in sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from keeltune.evaluation.teacher_report import CHANCE, MENDED, NOTHING
from keeltune.utils.messages import Message


def findings(gate: Mapping[str, Any] | None) -> list[str]:
    """What `reference.gate` of `result.json` says; sentences that begin with "warning: " are for the user to act on."""
    if gate is None:
        return []
    return [sentence for verdict in [*gate["members"], gate] for sentence in _sentences(verdict, gate)]


def _sentences(verdict: Mapping[str, Any], gate: Mapping[str, Any]) -> list[str]:
    """On one teacher, or on the average of several."""
    metric, floor = verdict["metric"], gate["floor"]
    who = Message("the average of the teachers")
    if verdict["model"] is not None:
        who = Message("the teacher {name}", name=verdict["model"])
    teacher = _figures(verdict["teacher"], verdict["intervals"], metric)
    scored = Message("{metric} {figures} on {rows} validation rows", metric=metric, figures=teacher, rows=gate["rows"])
    start = Message("the student's head is new, so that it has no start to compare with")
    if gate["student"] is not None:
        student = _figures(gate["student"], gate["student_intervals"], metric)
        start = Message("the student's start {figures}", figures=student)
    sentence = Message("{who}: {said}; {start}", who=who, said=scored, start=start)
    if verdict["difference"] is not None and verdict["difference"][1] < -NOTHING:
        low, high = (-end for end in reversed(verdict["difference"]))
        sentence = Message(
            "warning: {who} is worse than the student's start by {low:.3f} to {high:.3f}: {said}; {start}; it would "
            "teach its mistakes; take another teacher, or train without one",
            who=who, low=low, high=high, said=scored, start=start,
        )  # fmt: skip
    elif verdict["over_floor"] is not None and verdict["over_floor"][0] <= 0:
        sentence = Message(
            "warning: {who} is not measurably better than the answer {answer} to every row: {floor:.3f}; {said}; "
            "{start}",
            answer=json.dumps(floor["answer"], ensure_ascii=False), floor=floor[metric], who=who, said=scored,
            start=start,
        )  # fmt: skip
    return [sentence, *_temperature_offer(who, verdict)]


def _figures(scores: Mapping[str, float], intervals: Mapping[str, Sequence[float]], metric: str) -> Message:
    low, high = intervals[metric]
    return Message("{value:.3f} ({low:.3f} to {high:.3f})", value=scores[metric], low=low, high=high)


def _temperature_offer(who: Message, verdict: Mapping[str, Any]) -> list[str]:
    """The temperature that would calibrate a teacher, where it clearly would."""
    calibration = verdict["calibration"]
    if calibration is None or verdict["temperature"] is None or calibration["temperature"] is None:
        return []
    if calibration["ece"] - calibration["ece_after"] < MENDED:
        return []
    if 2 * calibration["predictions"] * calibration["gain"] < CHANCE:
        return []
    side = "over-confident" if calibration["temperature"] > 1 else "under-confident"
    return [
        Message(
            "{who} is {side}: ECE {before:.2f}, {after:.2f} at temperature {value:.3g} (fitted on {rows} predictions); "
            "reference: {{model: …, temperature: {value:.3g}}} calibrates it",
            who=who, side=Message(side), before=calibration["ece"], after=calibration["ece_after"],
            rows=calibration["predictions"], value=calibration["temperature"] * verdict["temperature"],
        )
    ]  # fmt: skip
