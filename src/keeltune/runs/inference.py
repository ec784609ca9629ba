"""A trained model on new rows: `kt.evaluate` and `kt.predict`, for a run of ours or a bare model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from keeltune.data import audit, dataset, memory
from keeltune.data.dataset import Row
from keeltune.data.row_labels import apply_label_map
from keeltune.evaluation import prediction, test_set_looks
from keeltune.evaluation.calibration import tempered
from keeltune.evaluation.scores import score
from keeltune.runs import prediction_file, run_folder
from keeltune.runs.call_options import CallOptions, Given
from keeltune.runs.opened_model import OpenedModel, open_model, read_rows
from keeltune.tasks.common import language
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.task import Task
from keeltune.training.model_trial import refusing
from keeltune.training.preparation import scoring_language
from keeltune.training.preparation.row_encoding import encode_rows
from keeltune.training.preparation.splits import sound_rows
from keeltune.training.preparation.task_checks import control_token_warnings
from keeltune.training.row_independence import TOLERANCE, dependence
from keeltune.utils.device import in_eval_mode
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.progress import Display


def evaluate(
    model: str | Path,
    data_file: Any,
    *,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    prompt: Given | None = None,
    normalizer: str | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Scores a model on labelled rows.

    Args:
        model: a run folder, a model folder or a hub id.
        data_file: what a recipe's `data.test` may be, or rows in memory: mappings, a pandas or polars frame, a
            `datasets.Dataset`.
        task: the task's name; needed for a bare model. columns: our name -> the file's name.
        prompt: what a bare model that writes is asked: a text with columns in braces, or messages {role, content},
            also as JSON; None: what it was taught with, else the task's own. A run has its recipe's.
        normalizer: how transcripts are made alike, as `evaluation.normalizer`; None: the run's.
    Returns {"metrics": {name: value}, "intervals": {name: [low, high]}, "rows": n}, intervals 95 % over rows, or
    over the clusters that the run's recipe names. A run's `looks.jsonl` counts how often its model has been scored on
    these very rows.
    Raises: UserError with every problem of the model and the rows.
    """
    display = display or Display()
    opened = open_model(model, task, options=CallOptions(prompt, normalizer))
    found, problems = read_rows(opened, data_file, opened.columns, columns)
    if opened.label_map is not None:
        found, unknown = apply_label_map(found, opened.label_map)
        problems += unknown
    names = list(opened.task.settings.labels)
    rows, faulty = sound_rows(type(opened.task), found)
    problems += faulty
    labels_of = None if any(c.name == "label" for c in opened.columns) else opened.task.labels_of
    faults, _ = audit.audit({"test": rows}, names, opened.columns, opened.task.settings.multi_label, labels_of)
    _refuse([*problems, *faults], display)
    opened = replace(opened, task=_in_language(opened.task, rows, display))
    answers = _answers(opened, rows, display, "scoring", labelled=True)
    scores = score(opened.task, answers, rows, clusters=opened.clusters)
    _say_cut(opened, answers, display)
    if run := run_folder.finished(Path(model)):
        looks = test_set_looks.look(run.folder, by="evaluate", fingerprint=dataset.fingerprint(rows), rows=len(rows))
        if looks > 1:
            display.say(
                f"these rows were scored {looks} times with this run: they cannot judge what was chosen by them"
            )
    return {
        "metrics": scores.metrics,
        "intervals": {name: list(pair) for name, pair in scores.intervals.items()},
        "rows": len(rows),
    }


def _in_language(task: Task, rows: Sequence[Row], display: Display) -> Task:
    """The task in the language of its scores: the run's, else that of the rows; says where a metric does not fit."""
    if not task.scoring.reads_language:
        return task
    sample = language.sample([rows])
    if task.settings.language is None and (told := scoring_language.told(task, sample)):
        task = scoring_language.in_language(task, told)
        display.say(f"answers are scored in {scoring_language.said(task)}")
    for found in task.scoring.misfits(scoring_language.texts_of(task, sample)):
        display.say(f"warning: {found}")
    return task


def predict(
    model: str | Path,
    input_file: Any,
    output_file: str | Path | None = None,
    *,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    calibrated: bool = False,
    display: Display | None = None,
) -> list[dict[str, Any]]:
    """Each row given, as it was, with `prediction` and `probabilities`.

    Args: as for `evaluate`; rows need no label. `output_file` (.jsonl, .csv or .tsv) is written whole or not at all;
            it is not the input.
        calibrated: probabilities at the temperature that the run fitted on its validation rows; answers stay the same.
    Raises: UserError with every problem of the model and the rows.
    """
    if output_file is not None:
        source = "" if memory.is_rows(input_file) else str(input_file)
        prediction_file.refuse_output(Path(output_file), source, str(model))
    temperature = fitted_temperature(str(model)) if calibrated else None
    table = answered(open_model(model, task), input_file, columns, temperature, display or Display())
    if output_file is not None:
        prediction_file.write(Path(output_file), table)
    return table


def answered(
    opened: OpenedModel, given: Any, columns: Mapping[str, str] | None, temperature: float | None, display: Display
) -> list[dict[str, Any]]:
    """`predict` by a model that is open."""
    inputs = [column for column in opened.columns if not column.label]
    rows, problems = read_rows(opened, given, inputs, columns)
    rows, faulty = sound_rows(type(opened.task), rows, labelled=False)
    answers = _answers(opened, rows, display, "predicting", labelled=False, problems=[*problems, *faulty])
    _say_cut(opened, answers, display)
    file_names = {**opened.mapping, **(columns or {})}
    for name in ("prediction", "probabilities"):
        if any(name in row.fields for row in rows):
            display.say(f"warning: the input's own column {name} is replaced by the model's")
    table = []
    for row, answer in zip(rows, answers, strict=True):
        line = {file_names.get(name, name): value for name, value in row.fields.items()}
        line["prediction"] = answer.value
        if answer.probabilities is not None:
            line["probabilities"] = dict(answer.probabilities)
            if temperature is not None:
                several = opened.task.settings.multi_label
                line["probabilities"] = tempered(answer.probabilities, temperature, several=several)
        line |= opened.task.explained(row, answer.value)
        table.append(line)
    return table


def _say_cut(opened: OpenedModel, answers: Sequence[Prediction], display: Display) -> None:
    """Warns of answers that came to no end within the most tokens."""
    most = opened.task.settings.max_new_tokens
    if cut := sum(answer.cut for answer in answers):
        display.say(
            f"warning: {cut} of {len(answers)} answers reached {most} tokens (generation.max_new_tokens) without "
            "coming to their end"
        )


def fitted_temperature(model: str) -> float:
    """What a run fitted on its validation rows; UserError where it fitted none."""
    pool = run_folder.finished(Path(model))
    run = run_folder.finished(pool.parts[pool.best]) if pool else None
    temperature = ((run.result.get("calibration") or {}).get("validation") or {}).get("temperature") if run else None
    if temperature is None:
        expected = "a run folder that fitted a temperature: of one class a row, with validation rows"
        fix = "leave --calibrated out, or train with data.validation"
        raise UserError(Problem(model, "--calibrated", "no fitted temperature", expected, fix))
    return float(temperature)


def _answers(
    opened: OpenedModel,
    rows: Sequence[Row],
    display: Display,
    label: str,
    *,
    labelled: bool,
    problems: Sequence[Problem] = (),
) -> list[Prediction]:
    """The model's answers; UserError with `problems`, and those of the rows that it cannot take."""
    task = opened.task
    _, encoded, faulty = encode_rows(task, rows, partial(task.encode_scored, labelled=labelled))
    warnings = control_token_warnings(task, {"input": rows}, lambda split: rows[0].file if rows else split)
    _refuse([*problems, *faulty, *warnings], display)
    place = (opened.model.config.name_or_path, "model")
    with refusing(opened.model, place):
        for note in task.listen(opened.model, encoded, opened.device):
            display.say(note)
        encoded = [
            task.encode_scored(row, labelled=labelled) if any(e.notes.get("open") for e in examples) else examples
            for row, examples in zip(rows, encoded, strict=True)
        ]
        found = 0.0 if opened.batch == 1 else _dependence(opened, [example for row in encoded for example in row])
    if found > TOLERANCE:
        display.say(
            f"warning: what this model answers to a row depends on the rows beside it: log P by {found:.1g} of it"
        )
    with display.bar(label, sum(map(len, encoded))) as advance, refusing(opened.model, place):
        return prediction.predict(
            opened.model, task, encoded, batch_size=opened.batch, device=opened.device, progress=advance
        )


def _dependence(opened: OpenedModel, examples: Sequence[Example]) -> float:
    """How far the model's answers depend on the rows that share a batch (`row_independence`)."""
    task, model = opened.task, opened.model
    with in_eval_mode(model):
        return dependence(lambda batch: task.rows(task.forward(model, batch), batch), task, examples, opened.device)


def _refuse(problems: Sequence[Problem], display: Display) -> None:
    """Says the warnings, and raises with the errors where there are any."""
    for warning in (p for p in problems if p.severity == "warning"):
        display.warn(warning)
    if errors := [p for p in problems if p.severity == "error"]:
        raise UserError(errors)
