"""What was learnt and what was forgotten, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.utils.messages import Message, joined

DOMAINS = {"source": "source domain", "control": "source domain, control slice", "target": "target domain"}

GAPS = {
    "words": "{far:.2f} by their words ({right:.0%} told apart)",
    "features": "{far:.2f} by the features of the model before training ({right:.0%})",
}

SHIFTS = {"target": "{kl:.3f} on target inputs", "source": "{kl:.3f} on source inputs"}


def findings(result: Mapping[str, Any]) -> list[str]:
    """A budget that does not hold, the change of each domain, how far the domains lie apart, and how far the model
    has moved from its start."""
    report = result.get("forgetting")
    sentences = _overdrawn(result.get("budget"))
    of_others = [_change(name, change) for name, change in (result.get("abilities") or {}).items()]
    if not report:
        return sentences + of_others
    sentences += [_change(name, report[name]) for name in ("source", "control", "target") if report[name]]
    sentences += of_others
    gaps = [
        Message(GAPS[name], far=value, right=0.5 + value / 4)  # the distance is 2 · (1 − 2 · error)
        for name, value in (report["gap"] or {}).items()
        if value is not None
    ]
    if gaps:
        template = (
            "proxy A-distance of the domains, from 0 (a linear classifier cannot tell their rows apart) to 2 (it "
            "always can): {far}"
        )
        sentences.append(Message(template, far=joined(gaps, ", ")))
    shifts = [
        Message(template, kl=shift["reverse_kl"])
        for name, template in SHIFTS.items()
        if (shift := report["divergence"][name])
    ]
    if shifts:
        template = "nats a prediction from the model before training: {parts}"
        sentences.append(Message(template, parts=joined(shifts, ", ")))
    return sentences


def _overdrawn(budget: Mapping[str, Any] | None) -> list[str]:
    if not budget or budget["held"]:
        return []
    template = "warning: {kind} is {measured:.4g}, above its limit {limit:g}"
    return [Message(template, **{name: budget[name] for name in ("kind", "measured", "limit")})]


def _change(domain: str, change: Mapping[str, Any]) -> str:
    metric = change["metrics"][change["metric"]]
    interval = ""
    if metric["interval"] is not None:  # of a few metrics of other libraries there is none
        low, high = metric["interval"]
        interval = Message(" ({low:+.4f} to {high:+.4f})", low=low, high=high)
    known = change["retention"] is not None and domain != "target"
    rows = ""
    if change["lost"] is not None:  # of several seeds no one row is lost
        rows = Message("; {lost} rows lost, {won} won", lost=len(change["lost"]), won=change["won"])
    what = f"{domain} ({change['task']})" if "task" in change else Message(DOMAINS[domain])
    return Message(
        "{what}: {metric} {before:.4f} -> {after:.4f}, change {change:+.4f}{interval}{kept}{rows}",
        what=what, metric=change["metric"], interval=interval, rows=rows,
        kept=Message(", {share:.1%} kept", share=change["retention"]) if known else "",
        **{key: metric[key] for key in ("before", "after", "change")},
    )  # fmt: skip
