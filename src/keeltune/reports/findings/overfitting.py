"""The overfitting verdict and the signs that are not green, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.utils.messages import Message


def findings(result: Mapping[str, Any]) -> list[str]:
    """The verdict and what is not green, for the console."""
    report = result.get("overfitting")
    if not report:
        return []
    sentences = [f"verdict: {report['verdict']}"]
    for signal in report["signals"]:
        if signal["light"] != "green":
            warning = "warning: " if signal["light"] == "red" else ""
            sentences.append(f"{warning}{signal['name']}: {signal['said']}")
    return sentences


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """The verdict alone, for a command's last lines; of a training that ended too soon also what tells it."""
    told = ("verdict: ", "undertrained: ", "warning: undertrained: ")
    return [line for line in findings(result) if line.startswith(told)]


def averaged_weights(result: Mapping[str, Any]) -> list[str]:
    """What was measured and kept, where that is not the weights themselves."""
    if not (result["overfitting"] or {}).get("averaged"):
        return []
    return [Message("What was measured and kept is the mean of the weights of two evaluations in a row")]
