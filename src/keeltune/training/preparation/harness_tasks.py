"""The tasks of `data.source.lm_eval`: found by their names, read and tried before anything is trained.

They are EleutherAI's lm-evaluation-harness's own objects, with its own prompts and metrics; nothing of them is learnt.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from keeltune.models import libraries
from keeltune.recipe.data_fields import HarnessTasks
from keeltune.recipe.fields import Recipe
from keeltune.training.preparation.problem_log import ProblemLog
from keeltune.utils.errors import Problem, UserError, shown, visible

FIELD = "data.source.lm_eval"

FEWSHOT_SEED = 1234
"""The harness's own default: with it, worked examples are drawn as its command draws them."""

DECODER = "AutoModelForCausalLM"

TRIED = 2
"""Rows of a task whose prompts are made before training, so that a wrong task file is found there."""


@dataclass(frozen=True)
class HarnessTask:
    """A task by the harness's name for it; `rows`: how many of its documents are scored; `file`: its own file where it
    lies in the recipe's `include_path`."""

    name: str
    task: Any
    rows: int
    file: Path | None


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Holds back the bars and the messages of the harness and of `datasets`: keeltune shows its own."""
    import datasets

    held = [import_module(name) for name in ("lm_eval.api.task", "lm_eval.api.model", "lm_eval.models.huggingface")]
    bars, logger = [module.tqdm for module in held], logging.getLogger("lm_eval")
    level, of_data = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        for module, bar in zip(held, bars, strict=True):
            module.tqdm = partial(_silent, bar)  # type: ignore[attr-defined]
        yield
    finally:
        for module, bar in zip(held, bars, strict=True):
            module.tqdm = bar  # type: ignore[attr-defined]
        logger.setLevel(level)
        if not of_data:
            datasets.enable_progress_bars()


def _silent(bar: Any, *given: Any, **options: Any) -> Any:
    return bar(*given, **options | {"disable": True})


def harness_tasks(recipe: Recipe, auto_model: str, log: ProblemLog) -> list[HarnessTask]:
    """The tasks that the recipe names, ready to be asked; problems go to `log`. `auto_model`: the student's class."""
    asked = recipe.data.source.harness
    if asked is None:
        return []
    return log.collect(partial(_tasks, recipe, asked, auto_model)) or []


def _tasks(recipe: Recipe, asked: HarnessTasks, auto_model: str) -> list[HarnessTask]:
    where = recipe.where(FIELD)
    if auto_model != DECODER:
        found, expected = f"a model that transformers loads as {auto_model}", f"a decoder ({DECODER}), which they ask"
        fix = "leave lm_eval out, or name rows of your own: data.source.test"
        raise UserError(Problem(where, FIELD, found, expected, fix))
    if not libraries.installed("lm_eval"):
        expected, fix = "the library that has these tasks", "pip install 'keeltune[lm-eval]'"
        raise UserError(Problem(where, FIELD, "no lm_eval on this machine", expected, fix))
    with quiet_harness():
        index = _index(recipe, asked)
        tasks: dict[str, HarnessTask] = {}
        problems: list[Problem] = []
        for name in asked.tasks:
            try:
                for leaf, task in _loaded(index, name, where).items():
                    tasks[leaf] = _ready(recipe, asked, index, leaf, task)
            except UserError as error:
                problems += error.problems
    if problems:
        raise UserError(problems)
    return list(tasks.values())


def _index(recipe: Recipe, asked: HarnessTasks) -> Any:
    """The harness's index of tasks: that of the recipe's folder where it has all that are asked for, else of all."""
    if asked.include_path is None:
        return index_of(None)
    folder, field = recipe.path(asked.include_path), f"{FIELD}.include_path"
    if not folder.is_dir():
        found, fix = f"no folder {folder}", "correct the path; it is relative to the recipe's folder"
        raise UserError(Problem(recipe.where(field), field, found, "a folder of task files (YAML)", fix))
    own = index_of(folder, built_in=False)
    return own if set(asked.tasks) <= set(own.all_tasks) else index_of(folder)


def index_of(folder: Path | None, *, built_in: bool = True) -> Any:
    """The harness's index of the tasks of a folder, and of its own ones, which takes it seconds to list."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=None if folder is None else str(folder), include_defaults=built_in)


def _loaded(index: Any, name: str, where: str) -> dict[str, Any]:
    """The task of a name, or all of a group or tag; UserError where there is none, or its data cannot be read."""
    known = index.all_tasks
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        said = f"; the nearest: {', '.join(near)}" if near else ""
        fix = "choose one of them: lm_eval ls tasks lists all" if near else "lm_eval ls tasks lists all of them"
        raise UserError(Problem(where, FIELD, shown(name), f"a task of the lm-evaluation-harness{said}", fix))
    try:
        return dict(index.load([name])["tasks"])
    except Exception as error:  # of the hub's client, of datasets, of a task's own code: they have no common class
        raise UserError(_unreadable(where, name, error)) from error


def _unreadable(where: str, name: str, error: Exception) -> Problem:
    found = f"{visible(name)}, which was not read: {visible(f'{type(error).__name__}: {error}', 300)}"
    expected = "a task that fits its data, which lie in files here or on a hub that this machine reaches"
    fix = "go online once (datasets keeps what it has read), correct the task's file, or leave the task out"
    return Problem(where, FIELD, found, expected, fix)


def _ready(recipe: Recipe, asked: HarnessTasks, index: Any, name: str, task: Any) -> HarnessTask:
    """The task with the recipe's settings, set as the harness's own command sets them, its first prompts made."""
    where = recipe.where(FIELD)
    if name in {test.name for test in recipe.data.source.named_tests}:
        expected = "names that no set of data.source.test has"
        raise UserError(Problem(where, FIELD, shown(name), expected, "rename that set"))
    for attribute, does in (("UNSAFE_CODE", "runs code that the model writes"), ("MULTIMODAL", "shows pictures")):
        if getattr(task, attribute, False):
            expected = "a task of texts alone, whose answers are compared and not run"
            raise UserError(Problem(where, FIELD, f"{visible(name)}, which {does}", expected, "leave it out"))
    own = task.get_config("num_fewshot")
    if asked.num_fewshot is not None and own != 0:  # a task that says 0 means it
        task.set_config(key="num_fewshot", value=asked.num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    try:
        rows = len(task.eval_docs)
        task.build_all_requests(limit=min(TRIED, rows))
    except Exception as error:  # a task's templates and functions are code, which may fail in any way
        raise UserError(_unreadable(where, name, error)) from error
    return HarnessTask(name, task, min(rows, asked.limit or rows), _own_file(recipe, asked, index, name))


def _own_file(recipe: Recipe, asked: HarnessTasks, index: Any, name: str) -> Path | None:
    file = getattr(index.task_index.get(name), "yaml_path", None)
    if file is None or asked.include_path is None:
        return None
    file, folder = Path(file), recipe.path(asked.include_path)
    return file if file.resolve().is_relative_to(folder.resolve()) else None
