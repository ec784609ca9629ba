"""What a race knows so far: its arms, those that are out, and what their pilots scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keeltune.advisor import verdict
from keeltune.advisor.candidates import PLAIN, Arm
from keeltune.advisor.pilots import Rung
from keeltune.advisor.verdict import Scored
from keeltune.recipe.fields import Recipe
from keeltune.runs.run_folder import Run


@dataclass(frozen=True)
class FewerRows:
    """What four times the labelled rows are worth: `gain` and `interval` of `comparison`, at a share of the steps."""

    comparison: Mapping[str, Any]
    share: float
    rows: int


@dataclass
class Standings:
    """`ruled_out`: arm -> why. `runs`: each arm's latest pilot. `rungs`: in their order, each arm's scores by name.

    `source_weight`: what the old domain counts; `max_source_drop`: how far its score may fall, None for no limit.
    """

    recipe: Recipe
    arms: list[Arm]
    ruled_out: dict[str, str]
    source_weight: float
    max_source_drop: float | None
    runs: dict[str, Run] = field(default_factory=dict)
    rungs: list[tuple[Rung, dict[str, Scored]]] = field(default_factory=list)
    fewer_rows: FewerRows | None = None

    @property
    def metric(self) -> str | None:
        """What arms are compared in; None before the first pilot."""
        plain = self.runs.get(PLAIN)
        return next(iter(plain.result["metrics"]["validation"])) if plain else None

    @property
    def rows(self) -> tuple[int, int]:
        """Labelled rows, and texts without labels."""
        data = [run.result["data"] for run in self.runs.values()]
        counts = [
            [splits[name]["rows"] if splits.get(name) else 0 for splits in data] for name in ("train", "unlabeled")
        ]
        return max(counts[0], default=0), max(counts[1], default=0)

    def ranked(self) -> list[dict[str, Any]]:
        """The arms of the last rung that has plain and another one, then those of earlier rungs alone."""
        lines: list[dict[str, Any]] = []
        with_plain = [(rung, scored) for rung, scored in reversed(self.rungs) if PLAIN in scored]
        for rung, scored in [pair for pair in with_plain if len(pair[1]) > 1] or with_plain[:1]:
            known = {line["arm"] for line in lines}
            ranked = verdict.ranked(scored, PLAIN, self.source_weight, self.max_source_drop, rung.share)
            lines += [{**line, "rung": rung.share} for line in ranked if line["arm"] not in known]
        return lines
