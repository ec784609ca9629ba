"""The page of a run: which architectures have passed for which tasks, and why the others have not."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

SHORT = {
    "text-classification": "classification", "semantic-role-labeling": "tagging", "question-answering": "spans",
    "summarization": "summaries", "text-generation": "generation", "image-captioning": "captions",
    "speech-recognition": "speech",
}  # fmt: skip
HEAD = """# Architectures

Every architecture that the mappings of transformers {version} name for one of our tasks, as a small random model
(width 32, two layers, eight rows, four steps of a distillation), tried by `python -m benchmarks.architectures`. A cell
passes where all of this holds:

- **cross-entropy, divergence and gradient** of a step are those of the textbook's formula, computed once more from one
  unpadded row at a time: to 1e-6, 1e-6 and 1e-5, relative, in float64 (in float32 where a model computes in float32
  whatever it holds);
- **4 rows = 2 × 2 accumulated**: to 1e-6 over four steps (float32: to 2e-5 over the first);
- **saved = predicted**: stock transformers loads `model/` without a missing weight, and predicts row by row what the
  run predicted in batches;
- **resumed = uninterrupted**: the same weights, bit for bit, after a stop in the middle of a step.

**{passed} architectures pass for at least one task**, {cells} cells in all; {other} cells do not, each with its reason
below. `refused` is keeltune's own answer, with exit status 2 before the first step. `not made`: this benchmark knows
no small model of it (a library that is missing, pictures or sound that want a processor of their own), and keeltune was
not asked. `failed`: a fault that stood when the cell was last run.

`classification` stands for sentiment analysis too, `tagging` for semantic roles, `summaries` for translation.
"""


def page(lines: Sequence[Mapping[str, Any]], version: str) -> str:
    """Markdown of a run's lines."""
    passed: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        if line["outcome"] == "passed":
            passed[line["architecture"]].append(SHORT[line["task"]])
    others = [line for line in lines if line["outcome"] != "passed"]
    parts = [HEAD.format(version=version, passed=len(passed), cells=len(lines) - len(others), other=len(others))]
    parts += ["## Passed", "", "| architecture | tasks |", "| --- | --- |"]
    parts += [f"| `{kind}` | {', '.join(tasks)} |" for kind, tasks in sorted(passed.items())]
    for outcome in ("refused", "failed", "not made"):
        parts += ["", f"## {outcome.capitalize()}", "", "| architecture | task | reason |", "| --- | --- | --- |"]
        parts += [
            f"| `{line['architecture']}` | {SHORT[line['task']]} | {_plain(line['reason'])} |"
            for line in sorted(others, key=lambda line: (line["architecture"], line["task"]))
            if line["outcome"] == outcome
        ]
    return "\n".join(parts)


def counts(lines: Sequence[Mapping[str, Any]]) -> str:
    """One line for the terminal."""
    return ", ".join(
        f"{count} {outcome}" for outcome, count in Counter(line["outcome"] for line in lines).most_common()
    )


def _plain(reason: str) -> str:
    """A reason without folders of the machine, and nothing that a table would take for its own."""
    text = re.sub(r'"?/tmp/[^\s"]*/(\w+)"?', r"the folder \1", " ".join(reason.split()))
    return re.sub(r"([|<>*_`])", r"\\\1", text)[:220]
