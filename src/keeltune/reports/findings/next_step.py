"""The one thing to do next with a finished run: the advice of the worst thing that is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from keeltune.evaluation.overfitting import VERDICTS
from keeltune.reports.findings import cut_answers, overruled_labels, teacher
from keeltune.tasks.metrics import higher_is_better, scale_of
from keeltune.utils.messages import Message

ADVICE = {
    "learnt": "train longer (training.epochs), or with another training.learning_rate: nothing was learnt yet",
    "undertrained": "train longer (training.epochs), or with a larger training.learning_rate",
    "duplicates": "take the training rows out of the validation file, and train anew",
    "beyond chance": "check that labels and rows belong together, in the training file and in the validation file",
    "validation loss": "train for fewer epochs, or let evaluation.patience stop it",
    "gap": "give it more training rows, or fewer epochs and a regulariser (training.regularizers)",
    "confident errors": "read the surest mistakes below: a label may be wrong where the model is sure",
    "calibration": "use keeltune predict --calibrated where its probabilities matter",
    "gradient norm": "lower training.learning_rate",
    "drift": "hold it nearer to its start with a larger objective.weight, if the old domain still counts",
    "seeds": "train more seeds (training.seed), and take the best by validation",
}
"""What to do about a sign that is red or amber."""

WIDE = 0.1
"""The width of an interval, as a share of the scale, above which more rows are asked for."""


def next_step(result: Mapping[str, Any]) -> Message:
    """What is done next, the most urgent first: a red sign; a budget that does not hold; answers that were cut; a
    teacher that is none, or a reference that overrules labels; an old domain that was forgotten; an amber sign; a fault
    of the data; no test rows, or too few. Of a run with nothing of that: look at its mistakes."""
    return next(_steps(result))


def _steps(result: Mapping[str, Any]) -> Iterator[Message]:
    yield from _signs(result, "red")
    budget = result["budget"]
    if budget and not budget["held"]:
        yield Message("give the budget more room, or train on: {kind} is above its limit", kind=budget["kind"])
    if cut_answers.findings(result["generation"]):
        yield Message("raise generation.max_new_tokens: answers were cut before their end")
    if any(said.startswith("warning: ") for said in teacher.findings((result["reference"] or {}).get("gate"))):
        yield Message("take another teacher, or train without one: it knows no more than its student")
    vetoed = overruled_labels.findings(result["veto"], taught=result["method"] == "distillation")
    if any(said.startswith("warning: ") for said in vetoed):
        yield Message("lower objective.weight: the reference wins against too many new labels")
    if _forgot(result):
        yield Message("hold it nearer to its start (cross-domain, objective.weight): the old domain was forgotten")
    yield from _signs(result, "amber")
    for warning in (result.get("audit") or {}).get("warnings") or []:
        if warning.get("kind"):  # what is cut has none, and may be meant
            yield Message("mend the data: {found}", found=warning["found"])
    yield from _few_rows(result)
    yield Message("read its mistakes below, then try it on rows of your own with keeltune predict")


def _signs(result: Mapping[str, Any], light: str) -> Iterator[Message]:
    """The advice of the signs of a light; of those that make a verdict in its order, then of the others."""
    signals = (result["overfitting"] or {}).get("signals", [])
    found = [signal["name"] for signal in signals if signal["light"] == light]
    yield from (Message(ADVICE[name]) for name in sorted(found, key=_rank) if name in ADVICE)


def _rank(name: str) -> int:
    names = list(VERDICTS)
    return names.index(name) if name in names else len(names)


def _forgot(result: Mapping[str, Any]) -> bool:
    """Whether the old domain is answered worse than before, beyond chance."""
    report = result["forgetting"] or {}
    change = report.get("source") or report.get("control")
    ends = change["metrics"][change["metric"]]["interval"] if change else None
    if change is None or ends is None:
        return False
    low, high = ends
    return bool(high < 0) if higher_is_better(change["metric"]) else bool(low > 0)


def _few_rows(result: Mapping[str, Any]) -> Iterator[Message]:
    tested = result["metrics"]["test"]
    if not tested:
        yield Message("name test rows (data.test): nothing tells yet how good it is on rows that chose nothing")
        return
    if not result["metrics"]["validation"]:
        yield Message(
            "name validation rows (data.validation): without them nothing chooses the best weights, and overfitting is "
            "not seen"
        )
    metric = next(iter(tested))
    scale, ends = scale_of(metric), (result["intervals"]["test"] or {}).get(metric)
    if scale and ends and (ends[1] - ends[0]) / scale > WIDE:
        template = "label more test rows: {rows} leave {metric} open from {low:.3f} to {high:.3f}"
        yield Message(template, rows=result["data"]["test"]["rows"], metric=metric, low=ends[0], high=ends[1])
