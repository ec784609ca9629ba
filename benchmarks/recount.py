"""A run's forgetting report, counted again from its prediction files by a script that shares no line with keeltune.

    python benchmarks/recount.py RUN RUN …

Scores before and after, their changes and paired 95 % intervals, retention, the change of each label, McNemar's test
and the rows that were right and are wrong now. The metrics are written anew from their definitions: accuracy and
macro-F1, SQuAD's F1 and exact match, CoNLL-2005's span F1, the word error rate. A line for each run: how many figures
were compared, and the largest difference (files of older versions hold no losses). The exit status is 1 where one is
above 1e-12.
"""

from __future__ import annotations

import json
import math
import re
import string
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 1000
PUNCTUATION = {ord(c): None for c in string.punctuation}


def classes(lines: Sequence[dict[str, Any]]) -> tuple[list[str], list[dict[str, tuple[float, float, float]]]]:
    """The labels, and each row's (right, predicted, gold) of each label."""
    labels = sorted({line["gold"] for line in lines} | {line["prediction"] for line in lines})
    return labels, [
        {
            label: (
                float(label == line["gold"] == line["prediction"]),
                float(label == line["prediction"]),
                float(label == line["gold"]),
            )
            for label in labels
        }
        for line in lines
    ]


def spans(tags: Sequence[str]) -> set[tuple[str, tuple[tuple[int, int], ...]]]:
    """Arguments with the places of their pieces: C-X goes on with the last X before it, as srl-eval.pl has it."""
    found, label, start = list[tuple[str, int, int]](), "", 0
    for place, tag in enumerate([*tags, "O"]):
        if label and (tag == "O" or tag[:2] == "B-" or tag[2:] != label):
            found.append((label, start, place))
            label = ""
        if tag != "O" and not label:
            label, start = tag[2:], place
    whole: list[tuple[str, list[tuple[int, int]]]] = []
    for label, start, end in found:
        base = label.removeprefix("C-")
        earlier = [pieces for name, pieces in whole if name == base] if label != base else []
        if earlier:
            earlier[-1].append((start, end))
        else:
            whole.append((base, [(start, end)]))
    return {(label, tuple(pieces)) for label, pieces in whole if label != "V"}


def words(text: str) -> list[str]:
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split()


def overlap(prediction: str, gold: str) -> float:
    ours, theirs = words(prediction), words(gold)
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def edits(said: Sequence[str], true: Sequence[str]) -> int:
    row = list(range(len(true) + 1))
    for i, word in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(true, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


class Count:
    """Statistics of each row, and the scores that their sums make; each task's in its own few lines."""

    def __init__(self, task: str, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]):
        self.task = task
        if task in ("sentiment-analysis", "text-classification"):
            self.labels = classes([*before, *after])[0]
        elif task == "semantic-role-labeling":
            self.labels = sorted({label for line in [*before, *after] for side in ("gold", "prediction")
                                  for label, _ in spans(line[side])})  # fmt: skip

    def table(self, lines: Sequence[dict[str, Any]]) -> np.ndarray:
        rows = []
        for line in lines:
            gold, said = line["gold"], line["prediction"]
            if self.task in ("sentiment-analysis", "text-classification"):
                own = [x for c in self.labels for x in (c == gold == said, c == said, c == gold)]
            elif self.task == "semantic-role-labeling":
                true, ours = spans(gold), spans(said)
                own = [len([s for s in each if s[0] == c]) for c in self.labels for each in (true & ours, ours, true)]
            elif self.task == "question-answering":
                answers = [gold] if isinstance(gold, str) else gold
                own = [1, max(overlap(said, one) for one in answers),
                       max(words(said) == words(one) for one in answers)]  # fmt: skip
            else:
                own = [edits(said.split(), gold.split()), len(gold.split())]
            rows.append([*map(float, own), line.get("loss", math.nan), line.get("predictions", math.nan)])
        return np.array(rows)

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        found = {"loss": sums[-2] / sums[-1]}
        own = sums[:-2]
        if self.task in ("sentiment-analysis", "text-classification", "semantic-role-labeling"):
            right, said, true = own[0::3], own[1::3], own[2::3]
            if self.task == "semantic-role-labeling":
                total = said.sum() + true.sum()
                return found | {"f1": 2 * right.sum() / total if total else 0.0}
            both = said + true
            each = np.where(both > 0, 2 * right / np.where(both > 0, both, 1), 0.0)
            return found | {"accuracy": right.sum() / true.sum(), "macro_f1": each.mean()}
        if self.task == "question-answering":
            return found | {"f1": own[1] / own[0], "exact_match": own[2] / own[0]}
        return found | {"wer": own[0] / own[1]}

    def by_label(self, sums: np.ndarray) -> dict[str, float]:
        right, said, true = sums[:-2][0::3], sums[:-2][1::3], sums[:-2][2::3]
        return {
            label: 2 * r / (s + t) if s + t else 0.0
            for label, r, s, t in zip(self.labels, right, said, true, strict=True)
        }


def compared(run: Path) -> Iterator[tuple[str, float, float]]:
    """(what, ours, the report's) of every figure."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    for name in ("source", "control", "target"):
        told = result["forgetting"].get(name)
        if not told or told["clusters"]:
            continue
        sides = [
            [
                json.loads(line)
                for line in (run / "predictions" / where / f"{told['split']}.jsonl").open(encoding="utf-8")
            ]
            for where in ("before", "")
        ]
        count = Count(result["task"], *sides)
        before, after = map(count.table, sides)
        rows = len(before)
        then, now = (count.scores(table.sum(0)) for table in (before, after))
        drawn = np.random.default_rng(0).multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES).astype(float)
        pairs = [(count.scores(a), count.scores(b)) for a, b in zip(drawn @ before, drawn @ after, strict=True)]
        for metric in sorted(name for name, value in now.items() if name in told["metrics"] and value == value):
            theirs = told["metrics"][metric]
            bounds = np.percentile([b[metric] - a[metric] for a, b in pairs], [2.5, 97.5])
            for what, ours in {
                "before": then[metric],
                "after": now[metric],
                "change": now[metric] - then[metric],
            }.items():
                yield f"{name} {metric} {what}", float(ours), theirs[what]
            for bound, ours in zip(theirs["interval"], bounds, strict=True):
                yield f"{name} {metric} interval", float(ours), bound
        metric = told["metric"]
        kept = (1 - now[metric]) / (1 - then[metric]) if metric == "wer" else now[metric] / then[metric]
        yield f"{name} retention", float(kept), told["retention"]
        if told["by_label"]:
            for label, theirs in told["by_label"].items():
                for what, table in (("before", before), ("after", after)):
                    yield f"{name} {label} {what}", count.by_label(table.sum(0)).get(label, 0.0), theirs[what]
        fell = [b["row"] for a, b in zip(*sides, strict=True) if b["score"] < a["score"] / 2]
        rose = sum(a["score"] < b["score"] / 2 for a, b in zip(*sides, strict=True))
        yield f"{name} rows lost", 0.0 if fell == [row["row"] for row in told["lost"]] else math.inf, 0.0
        yield f"{name} rows won", float(rose), float(told["won"])
        if told["mcnemar"]:
            lost, won = len(fell), rose
            tail = sum(math.comb(lost + won, k) for k in range(min(lost, won) + 1))
            p = float(min(Fraction(1), 2 * Fraction(tail, 2 ** (lost + won))))
            yield f"{name} McNemar", p, told["mcnemar"]["p"]


def main() -> None:
    worst = 0.0
    print("| run | figures | largest difference | where |\n| --- | ---: | ---: | --- |")
    for run in map(Path, sys.argv[1:]):
        found = [(abs(ours - theirs), what) for what, ours, theirs in compared(run)]
        most, what = max(found, default=(math.inf, "nothing to compare"))
        print(f"| {run.name} | {len(found)} | {most:.1e} | {what if most else ''} |", flush=True)
        worst = max(worst, most)
    sys.exit(worst > 1e-12)


if __name__ == "__main__":
    main()
