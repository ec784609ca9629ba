"""The tasks of `data.source.lm_eval`, asked of the model in memory by the lm-evaluation-harness itself.

Its prompts, its metrics and its numbers: what stands in `result.json` is what its own command says of the saved model,
in float32. The harness gives each document's values too, of which `harness_change` makes paired intervals.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic_core import to_jsonable_python
from transformers import GenerationConfig

from keeltune.training.job import Job
from keeltune.training.preparation.harness_tasks import FEWSHOT_SEED, FIELD, HarnessTask, quiet_harness
from keeltune.training.random_state import random_state, restore_random_state
from keeltune.utils import distributed
from keeltune.utils.device import in_eval_mode
from keeltune.utils.errors import KeeltuneError, Problem, UserError, visible
from keeltune.utils.files import write_text
from keeltune.utils.progress import Display
from keeltune.utils.stop_signals import raise_if_asked

NAME = "lm_eval"
"""What `result.json` has as the task of these abilities."""


@dataclass(frozen=True)
class HarnessScores:
    """The harness's own numbers of a task, its primary metric first; what each document gave to each of them; and the
    documents' lines of the prediction file."""

    metrics: dict[str, float]
    values: dict[str, list[Any]]
    lines: list[dict[str, Any]]


class _Asked:
    """The model as the harness calls it, which stops where a signal asks. It is no torch module: of one the harness
    would tie the weights anew."""

    def __init__(self, model: Any, device: str):
        self.model, self.config, self.device = model, model.config, torch.device(device)

    def __call__(self, inputs: torch.Tensor) -> Any:
        raise_if_asked()
        return self.model(inputs)

    def generate(self, **options: Any) -> Any:
        raise_if_asked()
        return self.model.generate(**options)


def scores(job: Job, model: Any, predictions: Path, display: Display) -> dict[str, HarnessScores]:
    """Each task's scores, by its name, its answers in the folder `predictions`; random state and model as before.

    Every process scores all of it, as the harness does with a model that it is handed.
    """
    found: dict[str, HarnessScores] = {}
    if not job.material.harness:
        return found
    state = random_state()
    try:
        with in_eval_mode(model), _own_decoding(model), quiet_harness():
            wrapped = _wrapped(job, model)
            for each in job.material.harness:
                with display.bar(f"scoring {each.name}", each.rows) as advance:
                    found[each.name] = _score(job, wrapped, each)
                    advance(each.rows)
                if distributed.is_main_process():
                    lines = found[each.name].lines
                    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
                    write_text(predictions / f"{file_name(each.name)}.jsonl", text)
    finally:
        restore_random_state(state)
    return found


def file_name(name: str) -> str:
    """A task's name as that of a file."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


@contextmanager
def _own_decoding(model: Any) -> Iterator[None]:
    """Within, the model has none of the recipe's settings of how texts are written: the harness's tasks have theirs.
    Of a model with adapters both it and its base carry some."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    held = [(each, each.generation_config) for each in (model, base)]
    own = base.generation_config
    marks = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    try:
        for each, _ in held:
            each.generation_config = GenerationConfig(**marks)
        yield
    finally:
        for each, config in held:
            each.generation_config = config


def _wrapped(job: Job, model: Any) -> Any:
    """The model as the harness asks for it; its tokenizer a copy, as the harness changes it."""
    from lm_eval.models.huggingface import HFLM

    wrapped = HFLM(
        pretrained=_Asked(model, job.device),
        tokenizer=copy.deepcopy(job.student.processor),
        backend="causal",
        batch_size=job.material.batch_size,
        softmax_dtype=torch.float32,
    )
    return wrapped


def _score(job: Job, wrapped: Any, each: HarnessTask) -> HarnessScores:
    """UserError where the harness cannot score it: its tasks are code, and their options may not fit the model."""
    from lm_eval import evaluate

    each.task.set_fewshot_seed(seed=FEWSHOT_SEED)  # the same worked examples before and after
    try:
        # no standard errors: for some the harness starts processes; the change has a paired interval of ours
        result = evaluate(wrapped, {"tasks": {each.name: each.task}}, limit=each.rows, bootstrap_iters=0)
    except KeeltuneError:
        raise
    except Exception as error:
        said = f"{visible(each.name)}, which the harness did not score: {type(error).__name__}: {visible(str(error))}"
        expected = "a task that fits the model: its prompts, and what is written, within its length"
        recipe = job.material.recipe
        raise UserError(Problem(recipe.where(FIELD), FIELD, said, expected, "leave it out, or correct it")) from error
    return _read(each, result["results"][each.name], result["samples"][each.name])


def _read(each: HarnessTask, aggregated: Mapping[str, Any], samples: list[dict[str, Any]]) -> HarnessScores:
    """What the harness returns of one task: `acc,none` there is `acc` here, and `acc_stderr,none` is left out."""
    metrics: dict[str, float] = {}
    values: dict[str, list[Any]] = {}
    filters: dict[str, str] = {}
    for key, value in aggregated.items():
        metric, comma, chain = key.rpartition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        name = metric if chain == "none" else key
        metrics[name], filters[name] = float(value), chain
        values[name] = [_numbers(s[metric]) for s in samples if s["filter"] == chain and metric in s]
    lines: list[dict[str, Any]] = []
    primary = next(iter(metrics), "")
    answered = [sample for sample in samples if sample["filter"] == filters.get(primary)]
    for number, sample in enumerate(answered):
        of_row = {name: column[number] for name, column in values.items() if len(column) == len(answered)}
        score = of_row.get(primary)
        lines.append({
            "key": sample["doc_hash"], "row": sample["doc_id"] + 1, "prediction": _answer(each.task, sample),
            "gold": _plain(sample["target"]), "score": score if isinstance(score, float) else None, "values": of_row,
        })  # fmt: skip
    return HarnessScores(metrics, values, lines)


def _answer(task: Any, sample: Mapping[str, Any]) -> Any:
    """What the model answered: of choices the number of the likeliest, from 0, else what the task's filter left."""
    answers = sample["filtered_resps"]
    if getattr(task, "OUTPUT_TYPE", None) == "multiple_choice":
        likelihoods = [answer[0] for answer in answers[: len(task.doc_to_choice(sample["doc"]))]]
        return max(range(len(likelihoods)), key=likelihoods.__getitem__)
    return _plain(answers[0] if len(answers) == 1 else answers)


def _plain(value: Any) -> Any:
    """A value as JSON has it; numbers of numpy as Python's."""
    return to_jsonable_python(value, fallback=lambda v: v.item() if hasattr(v, "item") else str(v), inf_nan_mode="null")


def _numbers(value: Any) -> Any:
    """What a document gave to a metric, numbers as floats: most of the harness's are 0, 1 or True."""
    if isinstance(value, tuple | list):
        return [_numbers(part) for part in value]
    value = _plain(value)
    return float(value) if isinstance(value, bool | int) else value


def aggregation(each: HarnessTask, metric: str) -> Callable[[list[Any]], float] | None:
    """How the harness makes a metric's number of the documents' values."""
    found: Callable[[list[Any]], float] | None = each.task.aggregation().get(metric.partition(",")[0])
    return found
