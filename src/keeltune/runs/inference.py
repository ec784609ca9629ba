"""A trained model on new rows: `kt.evaluate` and `kt.predict`, for a run of ours or a bare model folder."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from keeltune import recipe
from keeltune.data import audit, dataset, reading
from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.data.labels import known_names
from keeltune.data.row_labels import apply_label_map
from keeltune.data.sources import DataSource
from keeltune.evaluation import prediction, test_set_looks
from keeltune.evaluation.calibration import tempered
from keeltune.evaluation.scores import score
from keeltune.models import loading, model_files
from keeltune.recipe.evaluation_fields import Evaluation
from keeltune.runs import run_folder
from keeltune.tasks.common.example import Prediction
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.task import Task
from keeltune.training.preparation.encoding import encode_rows
from keeltune.training.preparation.lengths import reading_length, writing_length
from keeltune.training.preparation.prepare import find_task
from keeltune.training.preparation.splits import sound_rows, task_columns
from keeltune.utils import registry
from keeltune.utils.device import this_device
from keeltune.utils.errors import Problem, UserError, shown
from keeltune.utils.files import write_text
from keeltune.utils.progress import Display

OUTPUTS = (".jsonl", ".csv", ".tsv")


@dataclass(frozen=True)
class Opened:
    """A model that is ready to predict, with what its run says of its data."""

    model: Any
    task: Task
    columns: list[Column]
    mapping: dict[str, str]
    label_map: Mapping[Any, Any] | None
    clusters: str | None
    device: str


def evaluate(
    model: str | Path,
    data_file: str | Path,
    *,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Scores a model on labelled rows.

    Args:
        model: a run folder, a model folder or a hub id. data_file: what a recipe's `data.test` may be.
        task: the task's name; needed for a bare model. columns: our name -> the file's name.
    Returns {"metrics": {name: value}, "intervals": {name: [low, high]}, "rows": n}, intervals 95 % over rows, or
    over the clusters that the run's recipe names. A run's
    `looks.jsonl` counts how often its model has been scored on these very rows.
    Raises: UserError with every problem of the model and the rows.
    """
    display = display or Display()
    opened = open_model(model, task)
    rows, problems = read_rows(opened, str(data_file), opened.columns, columns)
    if opened.label_map is not None:
        rows, unknown = apply_label_map(rows, opened.label_map)
        problems += unknown
    names = list(opened.task.settings.labels)
    rows, faulty = sound_rows(type(opened.task), rows)
    problems += faulty
    labels_of = None if any(c.name == "label" for c in opened.columns) else opened.task.labels_of
    found, _ = audit.audit({"test": rows}, names, opened.columns, opened.task.settings.multi_label, labels_of)
    _refuse([*problems, *found], display)
    answers = _answers(opened, rows, display, "scoring", labelled=True)
    scores = score(opened.task, answers, rows, clusters=opened.clusters)
    if done := run_folder.finished(Path(model)):
        looks = test_set_looks.look(done.folder, by="evaluate", fingerprint=dataset.fingerprint(rows), rows=len(rows))
        if looks > 1:
            display.say(f"look {looks} at these rows with this run: what was chosen by them they cannot judge")
    return {
        "metrics": scores.metrics,
        "intervals": {name: list(pair) for name, pair in scores.intervals.items()},
        "rows": len(rows),
    }


def predict(
    model: str | Path,
    input_file: str | Path,
    output_file: str | Path | None = None,
    *,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    calibrated: bool = False,
    display: Display | None = None,
) -> list[dict[str, Any]]:
    """Each input row, as it was in its file, with `prediction` and `probabilities`.

    Args: as for `evaluate`; rows need no label. `output_file` (.jsonl, .csv or .tsv) is written whole or not at all.
        calibrated: probabilities at the temperature that the run fitted on its validation rows; answers stay the same.
    Raises: UserError with every problem of the model and the rows.
    """
    display = display or Display()
    if output_file is not None and Path(output_file).suffix not in OUTPUTS:
        raise UserError(
            Problem(
                str(output_file), "--output", shown(Path(output_file).suffix), " ".join(OUTPUTS), "name such a file"
            )
        )
    temperature = _temperature(str(model)) if calibrated else None
    opened = open_model(model, task)
    inputs = [column for column in opened.columns if not column.label]
    rows, problems = read_rows(opened, str(input_file), inputs, columns)
    rows, faulty = sound_rows(type(opened.task), rows, labelled=False)
    answers = _answers(opened, rows, display, "predicting", labelled=False, problems=[*problems, *faulty])
    theirs = {**opened.mapping, **(columns or {})}
    for name in ("prediction", "probabilities"):
        if any(name in row.fields for row in rows):
            display.say(f"warning: the input's own column {name} is replaced by the model's")
    table = []
    for row, answer in zip(rows, answers, strict=True):
        line = {theirs.get(name, name): value for name, value in row.fields.items()}
        line["prediction"] = answer.value
        if answer.probabilities is not None:
            line["probabilities"] = dict(answer.probabilities)
            if temperature is not None:
                several = opened.task.settings.multi_label
                line["probabilities"] = tempered(answer.probabilities, temperature, several=several)
        table.append(line)
    if output_file is not None:
        _write(Path(output_file), table)
    return table


def _temperature(model: str) -> float:
    """What a run fitted on its validation rows; UserError where it fitted none."""
    done = run_folder.finished(Path(model))
    one = run_folder.finished(done.parts[done.best]) if done else None
    found = ((one.result.get("calibration") or {}).get("validation") or {}).get("temperature") if one else None
    if found is None:
        expected = "a run folder that fitted a temperature: of one class a row, with validation rows"
        fix = "leave --calibrated out, or train with data.validation"
        raise UserError(Problem(model, "--calibrated", "no fitted temperature", expected, fix))
    return float(found)


@loading.quiet_transformers()
def open_model(
    model: str | Path, task: str | None, evaluation: Evaluation | None = None, *, outside: bool = False
) -> Opened:
    """A run folder's model with its recipe's task, columns and lengths; a bare model with the task that is given.

    `evaluation` names the metrics, None: the run's recipe does. `outside`: also those of other packages, which are
    imported only where a recipe that the user named asks for them.
    """
    folder = Path(model)
    past = recipe.load(folder / "recipe.yaml") if (folder / "recipe.yaml").is_file() else None
    scored_by = evaluation or (past.evaluation if past else Evaluation())
    name = task or (past.task if past else None)
    if name is None:
        raise UserError(
            Problem(
                str(model),
                "--task",
                "a bare model folder",
                f"the task that it was trained for: {', '.join(registry.names('tasks'))}",
                "add --task TASK",
            )
        )
    task_class = find_task(name, str(model), "--task")
    source = model_files.locate(str(model), Path, str(model), "model")
    config = loading.read_config(source, str(model), "model")
    multi_label = getattr(config, "problem_type", None) == "multi_label_classification"
    auto_model = loading.pick(task_class.auto_models, config, str(model), "model")
    names = (loading.head_names(config) or []) if task_class.choices == "labels" else []
    head = loading.Head(names, multi_label)
    loaded = loading.load(source, auto_model, head, where=str(model), field="model", reads=task_class.reads)
    if loaded.fresh:
        raise UserError(
            Problem(
                str(model),
                "model",
                f"no trained head: {', '.join(loaded.fresh)} would be random",
                f"a model trained for {name}",
                "train it first: keeltune train RECIPE.yaml",
            )
        )
    digits = [str(i) for i in range(len(names))]
    labels = known_names(names, digits) or names
    asked = past.max_length if past else None
    length = reading_length(asked, config, loaded.processor, task_class, auto_model, str(model))
    settings = Settings(
        labels,
        length,
        multi_label,
        None,
        loaded.model.config,
        auto_model,
        writing_length(past.target_max_length if past else None, config, length),
        past.prompt if past else None,
        (past.languages.source, past.languages.target) if past and past.languages else None,
        past.generation.beams if past else 1,
        past.generation.max_new_tokens if past else 64,
        tuple(name for name in scored_by.metrics if outside or ":" not in name),
        scored_by.metric,
    )
    device = this_device()
    given = past.data.labels if past else None
    return Opened(
        loaded.model.to(device),
        task_class(loaded.processor, settings),
        task_columns(task_class, multi_label),
        dict(past.data.columns) if past else {},
        given if isinstance(given, dict) else None,
        past.evaluation.clusters if past else None,
        device,
    )


def tasks_of(folder: Path, *, outside: bool = False) -> dict[str, Task]:
    """A run's task on "target" rows, and on those of the "source" domain, whose labels may be an old head's own.

    `outside`: with its recipe's metrics of other packages.
    """
    past, old = recipe.load(folder / "recipe.yaml"), folder / "source_model"
    task = open_model(folder, None, outside=outside).task
    source = open_model(old, past.task, past.evaluation, outside=outside).task if old.is_dir() else task
    return {"target": task, "source": source}


def read_rows(
    opened: Opened, file: str, columns: Sequence[Column], mapping: Mapping[str, str] | None
) -> tuple[list[Row], list[Problem]]:
    inputs = {column.name for column in columns}
    known = {ours: theirs for ours, theirs in opened.mapping.items() if ours in inputs}
    source = DataSource(file, where="the call", split="test")
    return reading.read(source, columns, {**known, **(mapping or {})})


def _answers(
    opened: Opened,
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
    _refuse([*problems, *faulty], display)
    with display.bar(label, sum(map(len, encoded))) as advance:
        return prediction.predict(opened.model, task, encoded, device=opened.device, progress=advance)


def _refuse(problems: Sequence[Problem], display: Display) -> None:
    """Says the warnings, and raises with the errors where there are any."""
    for warning in (p for p in problems if p.severity == "warning"):
        display.say(f"warning: {warning}")
    if errors := [p for p in problems if p.severity == "error"]:
        raise UserError(errors)


def _write(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    if path.suffix == ".jsonl":
        write_text(path, "".join(json.dumps(line, ensure_ascii=False, default=_plain) + "\n" for line in table))
        return
    names = list(dict.fromkeys(name for line in table for name in line))
    lines: list[str] = []
    writer = csv.DictWriter(_Lines(lines), names, delimiter="\t" if path.suffix == ".tsv" else ",")
    writer.writeheader()
    for line in table:
        writer.writerow(
            {
                k: json.dumps(v, ensure_ascii=False, default=_plain) if isinstance(v, dict | list) else v
                for k, v in line.items()
            }
        )
    write_text(path, "".join(lines))


def _plain(value: Any) -> str:
    """A value that JSON has no form for (a date, bytes of a Parquet column), as text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


class _Lines:
    """What `csv` writes to: a list of lines."""

    def __init__(self, lines: list[str]):
        self.lines = lines

    def write(self, text: str) -> None:
        self.lines.append(text)
