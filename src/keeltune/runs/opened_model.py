"""A trained model that is ready to predict: of a run of ours, with what its recipe says, an export of one, or a bare
model folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keeltune import recipe
from keeltune.data import memory, reading
from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.data.labels import known_names, labels_of
from keeltune.data.sources import DataSource
from keeltune.exporters import coverage, opening
from keeltune.exporters import folder as exported
from keeltune.models import configuration, generation, loading, model_files, processors, shapes
from keeltune.models.vocabulary import bounds_of
from keeltune.recipe.evaluation_fields import Evaluation
from keeltune.recipe.fields import Recipe
from keeltune.runs import run_folder
from keeltune.runs.call_options import CallOptions
from keeltune.tasks.common.language import Language
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.task import Task
from keeltune.training.preparation.lengths import generation_length, reading_length, writing_length
from keeltune.training.preparation.reading import find_task
from keeltune.training.preparation.scoring_language import in_language
from keeltune.training.preparation.splits import task_columns
from keeltune.utils import registry
from keeltune.utils.device import this_device
from keeltune.utils.errors import Problem, UserError, shown

_log = logging.getLogger(__name__)

NO_OPTIONS = CallOptions()
"""Of a call that says nothing."""


@dataclass(frozen=True)
class OpenedModel:
    """A model that is ready to predict, with what its run says of its data. `batch`: rows that are asked together;
    None: as many as are asked at once (`prediction.predict`)."""

    model: Any
    task: Task
    columns: list[Column]
    mapping: dict[str, str]
    label_map: Mapping[Any, Any] | None
    clusters: str | None
    device: str
    batch: int | None = None


@loading.quiet_transformers()
def open_model(
    model: str | Path,
    task: str | None,
    evaluation: Evaluation | None = None,
    *,
    outside: bool = False,
    options: CallOptions = NO_OPTIONS,
) -> OpenedModel:
    """A run folder's model with its recipe's task, columns and lengths; a bare model with the task that is given; an
    export, by its folder or the graph in it.

    `evaluation` names the metrics, None: the run's recipe does. `outside`: what the folder names of other packages is
    imported too, its task and metrics: only where the folder was made from a recipe that the user names. Elsewhere
    UserError for such a task, so that a folder from somebody else executes nothing. `options`: of the call.
    """
    if Path(model).suffix == ".onnx" and Path(model).is_file():  # a graph is called by its own name too
        model = Path(model).parent
    folder, where = Path(model), str(model)
    if (proof := exported.read_proof(folder)) is not None:
        return _open_export(folder, proof, task, options)
    past = recipe.load(folder / "recipe.yaml") if (folder / "recipe.yaml").is_file() else None
    name = _task_name(task, past.task if past else None, where, outside=outside)
    task_class = find_task(name, where, "--task")
    source = model_files.locate(where, Path, where, "model")
    task_class = task_class.for_model(configuration.read_config(source, where, "model"))
    asked = options.asked(where, of_run=past is not None, writes=task_class.generates)
    stored = _load(task_class, name, source, where)
    scored_by = evaluation or (past.evaluation if past else Evaluation())
    made, chosen = _settings(past, task_class, stored, where), scored_by.chosen_by
    settings = replace(
        made,
        prompt=made.prompt if asked is None else asked,
        metrics=tuple(metric for metric in scored_by.added_metrics if outside or ":" not in metric),
        metric=chosen if outside or ":" not in (chosen or "") else None,
        directions=scored_by.directions,
        language=_stored_language(folder),
        bleu_tokenizer=scored_by.bleu_tokenizer,
        normalizer=options.normalizer or scored_by.normalizer,
        spellings=processors.spellings(stored.loaded.processor),
    )
    device = this_device()
    labels = past.data.labels if past else None
    opened = task_class(stored.loaded.processor, settings)
    if faults := [f for f in opened.recipe_faults() if f.field in ("languages", "model")]:
        raise UserError([Problem(where, f.field, f.found, f.expected, f.fix) for f in faults])
    if problems := options.faults(opened, where):
        raise UserError(problems)
    opened.adopt(stored.loaded.model, stored.loaded.processor)
    return OpenedModel(
        stored.loaded.model.to(device),
        opened,
        task_columns(task_class, stored.multi_label, labels),
        dict(past.data.columns) if past else {},
        labels if isinstance(labels, dict) and labels_of(task_class) is None else None,
        past.evaluation.clusters if past else None,
        device,
    )


def _stored_language(folder: Path, domain: str = "target") -> Language | None:
    """The language that a finished run scored a domain's answers in."""
    run = run_folder.finished(folder)
    scoring = (run.result.get("scoring") or {}).get(domain) if run else None
    code, by = ((scoring or {}).get(key) for key in ("language", "by"))
    return Language(code, by) if code and by else None


def _open_export(folder: Path, proof: Mapping[str, Any], task: str | None, options: CallOptions) -> OpenedModel:
    """An exported model, read as the run's own; a graph that differs from that is used with a warning."""
    where = str(folder)
    config = configuration.read_config(where, where, "model")
    name = _task_name(task, proof["task"], where, outside=False)
    task_class = find_task(name, where, "--task").for_model(config)
    asked = options.asked(where, of_run=False, writes=task_class.generates)
    coverage.refuse_format(proof["to"])
    if not proof["equal"]:
        _log.warning("%s answers otherwise than its run's model: %s", where, "; ".join(proof["faults"]))
    processor = processors.read_processor(where, where, "model", task_class.reads)
    auto_model = loading.pick(task_class.auto_models, config, where, "model")
    shape = shapes.shape_of(config, auto_model, where)  # whose tables say what bounds it
    loaded = loading.Loaded(shape, processor, where)
    stored = _Stored(loaded, where, auto_model, _names(task_class, config), _is_multi_label(config))
    settings = _settings(None, task_class, stored, where)
    said = {name: proof[name] for name in ("max_length", "target_max_length") if name in proof}
    said |= {"prompt": asked, "normalizer": options.normalizer, "spellings": processors.spellings(processor)}
    opened = task_class(processor, replace(settings, **said))
    if problems := options.faults(opened, where):
        raise UserError(problems)
    coverage.refuse_uncovered(opened, name, config, where)
    graph = opening.graph_of(folder, opened, config, proof["to"], stored=settings.stored)
    if opened.generates:
        opened.adopt(graph, processor)
    columns = task_columns(task_class, stored.multi_label, None)
    return OpenedModel(graph, opened, columns, {}, None, None, "cpu", 1 if opened.generates else None)


def _task_name(task: str | None, own: str | None, where: str, *, outside: bool) -> str:
    """The task that the caller names, else that of the run."""
    name = task or own
    if task is None and name is not None and ":" in name and not outside:
        expected = "a task of keeltune: code of another package is run where you name it, not where a folder does"
        raise UserError(Problem(where, "task", shown(name), expected, f"name it: --task {name}"))
    if name is None:
        expected = f"the task that it was trained for: {', '.join(registry.names('tasks'))}"
        raise UserError(Problem(where, "--task", "a bare model folder", expected, "add --task TASK"))
    return name


@dataclass(frozen=True)
class _Stored:
    """A loaded model with what its folder says of it; `names`: of its labels, where its task chooses among labels."""

    loaded: loading.Loaded
    source: str
    auto_model: str
    names: list[str]
    multi_label: bool


def _load(task_class: type[Task], name: str, source: str, where: str) -> _Stored:
    """The model with its trained head; UserError where it has none."""
    config = configuration.read_config(source, where, "model")
    multi_label, names = _is_multi_label(config), _names(task_class, config)
    auto_model = loading.pick(task_class.auto_models, config, where, "model")
    head = loading.Head(names, multi_label, numbers=task_class.choices == "numbers")
    loading.check_weights(source, config, auto_model, where, "model")
    loaded = loading.load(source, auto_model, head, where=where, field="model", reads=task_class.reads)
    if loaded.fresh:
        found, expected = f"no trained head: {', '.join(loaded.fresh)} would be random", f"a model trained for {name}"
        raise UserError(Problem(where, "model", found, expected, "train it first: keeltune train RECIPE.yaml"))
    return _Stored(loaded, source, auto_model, names, multi_label)


def _is_multi_label(config: Any) -> bool:
    return getattr(config, "problem_type", None) == "multi_label_classification"


def _names(task_class: type[Task], config: Any) -> list[str]:
    """Of its labels or numbers, where its task chooses among them."""
    return (configuration.head_names(config) or []) if task_class.choices in ("labels", "numbers") else []


def _settings(past: Recipe | None, task_class: type[Task], stored: _Stored, where: str) -> Settings:
    """What the model and its run's recipe say of how rows are read and answered."""
    names = stored.names
    most = past.max_length if past else None
    model = stored.loaded.model
    length = reading_length(most, model, stored.loaded.processor, task_class, where)
    own = generation.stored_generation(stored.source, model.config, where) if task_class.generates else None
    asked = past.generation if past else None
    said = asked.max_new_tokens if asked else None  # where a recipe says nothing, its run's model holds what was chosen
    return Settings(
        labels=known_names(names, [str(i) for i in range(len(names))]) or names,
        max_length=length,
        multi_label=stored.multi_label,
        config=model.config,
        auto_model=stored.auto_model,
        bounds=bounds_of(model),
        target_max_length=writing_length(past.target_max_length if past else None, model, length),
        prompt=past.asked if past else None,
        languages=(past.languages.source, past.languages.target) if past and past.languages else None,
        beams=asked.beams if asked else generation.own_beams(own),
        max_new_tokens=generation_length(said or generation.own_length(own, model.config), model, length),
        decoding=asked.decoding() if asked else generation.own_choices(own),
        stored=own,
    )


def tasks_of(folder: Path, task: str | None = None, *, outside: bool = False) -> dict[str, Task]:
    """A run's task on "target" rows, on those of the "source" domain, whose labels may be an old head's own, and on
    each of its named sets, by where their predictions lie.

    `task` and `outside` as in `open_model`.
    """
    past, old = recipe.load(folder / "recipe.yaml"), folder / "source_model"
    target = open_model(folder, task, outside=outside).task
    source = open_model(old, task or past.task, past.evaluation, outside=outside).task if old.is_dir() else target
    if source is target and (language := _stored_language(folder, "source")):
        source = in_language(target, language)
    return {"target": target, "source": source} | _tasks_of_abilities(folder, target, outside=outside)


def _tasks_of_abilities(folder: Path, target: Task, *, outside: bool) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    run = run_folder.finished(folder)
    for ability in ((run.result.get("abilities") or {}) if run else {}).values():
        if "harness" in ability:  # whose tasks are no tasks of ours
            continue
        asked = find_task(ability["task"], str(folder), "task") if outside or ":" not in ability["task"] else None
        if asked is None:
            continue
        made = asked.for_model(target.settings.config)(target.processor, target.settings)
        told = ability["language"]
        tasks[ability["split"]] = in_language(made, Language(told["code"], told["by"])) if told else made
    return tasks


def read_rows(
    opened: OpenedModel, given: Any, columns: Sequence[Column], mapping: Mapping[str, str] | None
) -> tuple[Sequence[Row], list[Problem]]:
    """The rows of a file, or those in memory, under our column names, as the run's recipe and `mapping` (our name ->
    the file's) name them; other data than the run's may also have our own names."""
    inputs = {column.name for column in columns}
    known = {name: file_name for name, file_name in opened.mapping.items() if name in inputs}
    held = memory.is_rows(given)
    name = "the rows given" if held else str(given)
    source = DataSource(name, where="the call", split="test", rows=given if held else None)
    asked = mapping or {}
    return reading.read(source, columns, {**known, **asked}, or_ours=known.keys() - asked.keys())
