"""A finished run as its page reads it: the contents of `result.json`, and what else lies in the folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from keeltune.recipe import parse
from keeltune.recipe.fields import Recipe
from keeltune.reports.localization import Translator, translator
from keeltune.reports.uncertainty import ResampledUnits, resampled_units
from keeltune.utils.errors import UserError
from keeltune.utils.json_lines import read_lines


@dataclass(frozen=True)
class FinishedRun:
    """`folder` and `result`, the contents of its `result.json`; all else is read from the folder when it is used."""

    folder: Path
    result: Mapping[str, Any]

    @cached_property
    def recipe_text(self) -> str:
        return (self.folder / "recipe.yaml").read_text(encoding="utf-8")

    @cached_property
    def recipe(self) -> Recipe | None:
        """None where it cannot be read, as one of another version."""
        return read_recipe(self.recipe_text)

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

    def predictions(self, split: str) -> list[dict[str, Any]]:
        """The lines of `predictions/SPLIT.jsonl`; empty where there are none."""
        return read_lines(self.folder / "predictions" / f"{split}.jsonl")


def read_recipe(text: str) -> Recipe | None:
    """A recipe of its text; None where it cannot be read, as one of another version."""
    try:
        return parse(text, folder=".")
    except UserError:
        return None
