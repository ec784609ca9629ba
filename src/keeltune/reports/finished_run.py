"""A finished run as its page reads it: the contents of `result.json`, and what else lies in the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from keeltune.recipe import parse
from keeltune.recipe.fields import Recipe
from keeltune.reports.localization import Translator, translator
from keeltune.reports.row_view import RowView, Viewer
from keeltune.reports.rows_again import RowsAgain, known_task, rows_again
from keeltune.reports.uncertainty import ResampledUnits, resampled_units
from keeltune.tasks.task import Task
from keeltune.utils.errors import UserError
from keeltune.utils.json_lines import read_lines


@dataclass(frozen=True)
class FinishedRun:
    """`folder` and `result`, the contents of its `result.json`; all else is read from the folder when it is used.

    `stored`: what the folder's recipe.yaml says, of who has it at hand.
    """

    folder: Path
    result: Mapping[str, Any]
    stored: Recipe | None = None

    @cached_property
    def recipe_text(self) -> str:
        return (self.folder / "recipe.yaml").read_text(encoding="utf-8")

    @cached_property
    def recipe(self) -> Recipe | None:
        """None where it cannot be read, as one of another version."""
        return self.stored or read_recipe(self.recipe_text, self.folder)

    @cached_property
    def say(self) -> Translator:
        """Says a sentence in the page's language."""
        return translator(self.recipe.report.language if self.recipe else "en")

    @cached_property
    def parts(self) -> dict[int, Path]:
        """The folder of each seed of a run of several; empty for a run of one."""
        seeds = self.result["seeds"]
        if not seeds:
            return {}
        return {n: self.folder / name for n, name in zip(seeds["numbers"], seeds["folders"], strict=True)}

    @cached_property
    def units(self) -> ResampledUnits:
        """What the intervals of the page are over."""
        column = self.recipe.evaluation.clusters if self.recipe else None
        return resampled_units(column, [folder / "predictions" for folder in self.parts.values() or [self.folder]])

    def predictions(self, split: str, *, before: bool = False) -> list[dict[str, Any]]:
        """The lines of `predictions/SPLIT.jsonl`, or of the model as it was before; empty where there are none."""
        where = self.folder / "predictions" / ("before" if before else "")
        return read_lines(where / f"{split}.jsonl")

    @cached_property
    def scored_split(self) -> str:
        """The split whose single rows are shown: the test rows, else the validation rows."""
        return next((split for split in ("test", "validation") if self.predictions(split)), "test")

    @cached_property
    def task(self) -> type[Task] | None:
        """None of a task from outside that is not loaded."""
        return known_task(self.result["task"])

    def rows(self, split: str) -> RowsAgain:
        """The rows behind a split's predictions, read again."""
        if split not in self._rows:
            lines = self.predictions(split)
            self._rows[split] = rows_again(self.folder, self.recipe, self.result, split, lines)
        return self._rows[split]

    @cached_property
    def _rows(self) -> dict[str, RowsAgain]:
        return {}

    def views(self, split: str, lines: Sequence[Mapping[str, Any]]) -> list[RowView]:
        """Lines of a split's predictions as a page shows them, with their texts where those can be had."""
        if self.task is None:
            return []
        scoring = (self.result["scoring"] or {}).get("source" if split.startswith("source") else "target") or {}
        language = str(scoring.get("language") or "").split("-")[0]
        viewer = Viewer(self.task, language, self.recipe.evaluation.normalizer if self.recipe else None)
        rows = self.rows(split)
        return [viewer.view(line, rows.row(line)) for line in lines]

    def no_texts(self, split: str) -> str | None:
        """Why a split's texts are not shown; None where they are."""
        missing = self.rows(split).missing
        return None if missing is None else self.say("The texts are not shown: {why}.", why=missing)


def read_recipe(text: str, folder: Path) -> Recipe | None:
    """The recipe of a run, of its text; None where it cannot be read, as one of another version."""
    try:
        return parse(text, folder=folder)
    except UserError:
        return None
