"""The columns that evaluation reads of the scored rows: clusters, slices; and the file of terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keeltune.data import clusters
from keeltune.data.clusters import FEW_CLUSTERS
from keeltune.data.dataset import Row
from keeltune.data.term_lists import read_terms
from keeltune.recipe.fields import Recipe
from keeltune.utils.errors import Problem, UserError


def missing_columns(recipe: Recipe, scored: Mapping[str, Sequence[Row]]) -> list[Problem]:
    """Columns of clusters and slices that no row of the scored splits has, and a file of terms that is none."""
    spec, problems = recipe.evaluation, list[Problem]()
    if spec.terms is not None:
        try:
            read_terms(recipe.path(spec.terms), recipe.where("evaluation.terms"), "evaluation.terms")
        except UserError as error:
            problems += error.problems
    given = [name for name in (spec.clusters, *(spec.slices or ())) if name]
    lacking = _lacking(given, scored)
    columns = {"clusters": [spec.clusters] if spec.clusters else [], "slices": spec.slices or []}
    for field, names in columns.items():
        if lacking & set(names):
            first = next(row for split in scored.values() for row in split)
            expected = f"a column of the rows that are scored, which have {', '.join(sorted(first.fields))}"
            problems.append(
                recipe.problem(f"evaluation.{field}", expected=expected, fix="name one of them, or leave it out")
            )
    return problems


def _lacking(names: Sequence[str], scored: Mapping[str, Sequence[Row]]) -> set[str]:
    """Those of the columns that no row has, if there are rows."""
    lacking = set(names) if any(scored.values()) else set[str]()
    for row in (row for split in scored.values() if lacking for row in split):
        lacking -= row.fields.keys()
        if not lacking:
            break
    return lacking


def cluster_warnings(recipe: Recipe, scored: Mapping[str, Sequence[Row]]) -> list[Problem]:
    """Warnings of splits with so few clusters that resampling them shows next to nothing; with one, nothing."""
    column, problems = recipe.evaluation.clusters, list[Problem]()
    for split, rows in scored.items() if column else ():
        numbers = clusters.numbers_of(rows, column)
        if numbers is not None and numbers.max() + 1 < FEW_CLUSTERS:
            found = f"{numbers.max() + 1} clusters in the rows of {split}"
            expected = f"{FEW_CLUSTERS} or more: over fewer, intervals and bounds are too narrow; over one, a point"
            where, fix = recipe.where("evaluation.clusters"), "score more of them, or leave clusters out"
            problems.append(Problem(where, "evaluation.clusters", found, expected, fix, severity="warning"))
    return problems
