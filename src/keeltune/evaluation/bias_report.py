"""Whom a model serves badly, and what its answers hang on: groups of rows, exchanged terms, words that tell a label.

Of the test rows, or of the validation rows where there are none. Training is over; nothing here changes the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from keeltune.data import dataset, term_lists
from keeltune.data.clusters import numbers_of
from keeltune.data.dataset import Row
from keeltune.evaluation import counterfactual, prediction, slices
from keeltune.evaluation.scores import Scores
from keeltune.training.job import Job
from keeltune.utils.json_lines import read_lines

ROWS = 500
"""Rows with a term, or with a predictive word, that are answered once more at most."""

EXAMPLES = 5
"""Answers that changed, shown as examples."""


def report(
    job: Job, model: Any, folder: Path, before: Mapping[str, Scores | None], after: Mapping[str, Scores | None]
) -> dict[str, Any] | None:
    """What `result.json` reports as `bias`; None without labelled rows to look at.

    {"split", "metric", "slices": what `slices.report` says, "before": the same of the model before training, which is
    what a cross-domain run is held near; null where its head is new, "counterfactual": {"terms", **flips, "by_kind":
    {kind: flips}, "examples"} or null, "words": [{"word", "label", "rows", "share", "removed": flips, "against":
    {"rows", "value"}}]}. `against` is the score on rows with a word that have another label than the one that it
    gives away: low where the model follows the word.
    """
    split = next((name for name in ("test", "validation") if after[name] is not None), None)
    scores = after[split] if split else None
    if split is None or scores is None:
        return None
    material, task = job.material, job.material.task
    rows, lines = material.rows[split], read_lines(folder / "predictions" / f"{split}.jsonl")
    lengths = [sum(e.length for e in row) for row in material.encoded[split]]
    columns = slices.columns_of(task, rows, lengths, material.recipe.evaluation.slices)
    chosen = None
    fields = [name for name in task.whole_texts if any(isinstance(row.fields.get(name), str) for row in rows)]
    if fields:
        texts, train = _texts(rows, fields), _texts([*material.rows["train"], *material.rows["unlabeled"]], fields)
        if thirds := slices.by_thirds(slices.rarity(texts, train), slices.WORDS):
            columns[slices.other_group("words", columns)] = thirds
    if task.choices == "labels" and all(isinstance(line["gold"], str) for line in lines):
        chosen = [line["gold"] for line in lines]
        columns["label"] = chosen
    clusters = numbers_of(rows, material.recipe.evaluation.clusters)

    def groups(table: np.ndarray, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        choices = None if chosen is None else ([line["prediction"] for line in predictions], chosen)
        return slices.report(task, table, columns, clusters, choices)

    start, earlier = before[split], folder / "predictions" / "before"
    chooses = bool(fields) and all("probabilities" in line for line in lines)
    return {
        "split": split,
        "metric": task.metrics[0],
        "slices": groups(scores.table, lines),
        "before": groups(start.table, read_lines(earlier / f"{split}.jsonl")) if start else None,
        "counterfactual": _exchanged(job, model, rows, lines, fields) if chooses else None,
        "words": _words(job, model, rows, lines, fields) if chooses and chosen else [],
    }


def _texts(rows: Sequence[Row], fields: Sequence[str]) -> list[str]:
    return [" ".join(str(row.fields.get(name) or "") for name in fields) for row in rows]


def _changed(row: Row, fields: Sequence[str], change: Any) -> Row:
    """The row with its texts changed; the text that was nothing but the change stays."""
    new = {name: change(text) or text for name in fields if isinstance(text := row.fields.get(name), str)}
    return replace(row, fields={**row.fields, **new})


def _exchanged(
    job: Job, model: Any, rows: Sequence[Row], lines: Sequence[Mapping[str, Any]], fields: Sequence[str]
) -> dict[str, Any] | None:
    """What becomes of the answers where a term stands for another."""
    recipe = job.material.recipe
    terms_file = recipe.evaluation.terms
    file = term_lists.BUILT_IN if terms_file is None else recipe.path(terms_file)
    terms = term_lists.read_terms(file, recipe.where("evaluation.terms"), "evaluation.terms")
    exchanged: list[tuple[int, Row, str]] = []
    for index, row in enumerate(rows):
        kind = terms.kind_of(_texts([row], fields)[0])
        if kind is not None:
            exchanged.append((index, _changed(row, fields, partial(terms.variant, kind=kind)), kind))
    exchanged = [exchanged[i] for i in dataset.subset(len(exchanged), ROWS)]
    if not exchanged:
        return None
    before, after = [lines[index] for index, _, _ in exchanged], _answers(job, model, [row for _, row, _ in exchanged])
    by_kind = {}
    for kind in sorted(Counter(kind for _, _, kind in exchanged)):
        indices = [i for i, (_, _, other) in enumerate(exchanged) if other == kind]
        by_kind[kind] = counterfactual.flips([before[i] for i in indices], [after[i] for i in indices])
    flipped = [i for i in range(len(exchanged)) if before[i]["prediction"] != after[i]["prediction"]]
    return {
        "terms": "built in" if terms_file is None else terms_file,
        **counterfactual.flips(before, after),
        "by_kind": by_kind,
        "examples": [
            {
                "row": before[i]["row"],
                "text": _texts([rows[exchanged[i][0]]], fields)[0],
                "changed": _texts([exchanged[i][1]], fields)[0],
                "before": before[i]["prediction"],
                "after": after[i]["prediction"],
            }
            for i in flipped[:EXAMPLES]
        ],
    }


def _words(
    job: Job, model: Any, rows: Sequence[Row], lines: Sequence[Mapping[str, Any]], fields: Sequence[str]
) -> list[dict[str, Any]]:
    """The words that give a label away in the training rows, and how far the model hangs on them."""
    train = [row for row in job.material.rows["train"] if isinstance(row.fields.get("label"), str)]
    candidates = counterfactual.predictive_words(_texts(train, fields), [row.fields["label"] for row in train])
    texts = [set(counterfactual.words_of(text)) for text in _texts(rows, fields)]
    words = []
    for candidate in candidates:
        with_word = [i for i, row_words in enumerate(texts) if candidate.word in row_words]
        chosen = [with_word[i] for i in dataset.subset(len(with_word), ROWS)]
        remove = partial(counterfactual.without, word=candidate.word)
        without_word = [_changed(rows[i], fields, remove) for i in chosen]
        against = [lines[i]["score"] for i in with_word if lines[i]["gold"] != candidate.label]
        words.append(
            {
                **asdict(candidate),
                "removed": counterfactual.flips([lines[i] for i in chosen], _answers(job, model, without_word)),
                "against": {"rows": len(against), "value": sum(against) / len(against) if against else None},
            }
        )
    return words


def _answers(job: Job, model: Any, rows: Sequence[Row]) -> list[dict[str, Any]]:
    task = job.material.task
    encoded = [task.encode_scored(row, labelled=False) for row in rows]
    answers = prediction.predict(model, task, encoded, device=job.device) if rows else []
    return [{"prediction": a.value, "probabilities": dict(a.probabilities or {})} for a in answers]
