"""What is tried of a model before its first step: that it reads these rows, and not the token that it is asked for."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from keeltune.models.half_precision import HALF
from keeltune.objective.predictions import IGNORED
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.padding_effect import observed
from keeltune.tasks.common.stored_examples import lengths_of
from keeltune.tasks.task import Task
from keeltune.utils.device import in_eval_mode
from keeltune.utils.errors import KeeltuneError, Problem, UserError
from keeltune.utils.system_faults import foreseen

ROWS = 4
"""How many examples are read."""

PACKAGE = Path(__file__).parents[1]

TOLERANCE = 1e-3
"""The relative difference of logits above which a later token was read."""


@torch.no_grad()
def try_model(model: Any, task: Task, examples: Sequence[Example], device: str, place: tuple[str, str]) -> None:
    """Reads a few examples, from the shortest to the longest, as training will; eval mode, the random state untouched.

    Args:
        place: where the recipe names the model, and the field.

    Raises: UserError where transformers raises over the rows, in its own words; where there are fewer outputs than
        predictions, or fewer choices than targets; and where a prediction depends on tokens behind it: such a model
        reads the answer while it is trained, and has none to read when it writes.
    """
    if not examples:
        return
    last = max(max(example.targets, default=IGNORED) for example in examples)
    order = lengths_of(examples).argsort(kind="stable")
    places = torch.linspace(0, len(order) - 1, min(ROWS, len(order))).round().int().tolist()
    examples = [examples[order[place]] for place in places]
    with in_eval_mode(model):
        batch = to_device(task.collate(examples), device)
        with refusing(model, place):
            outputs = task.forward(model, batch)
        try:
            rows = task.rows(outputs, batch)
        except IndexError as error:
            found = f"{type(model).__name__}, whose outputs are fewer than the predictions of a row: {error}"
            fix = "take another model, or the processor that belongs to it"
            raise _refused(place, found, "an output for each prediction", fix, "other outputs") from error
        if task.choices != "positions" and last >= rows.choices:
            found = f"{type(model).__name__}, which chooses among {rows.choices} outputs, where a row has the id {last}"
            fix = "take the tokenizer that belongs to it, or another model"
            raise _refused(place, found, f"ids from 0 to {rows.choices - 1}", fix, "other outputs")
        if task.choices == "tokens" and _looks_ahead(model, task, examples, device):
            found = f"{type(model).__name__}, whose prediction of a token changes with the tokens behind it"
            expected = "a model that reads the tokens before it alone: it writes one after the other"
            fix = "take a decoder (GPT-2's or Llama's kind), or an encoder-decoder"
            raise _refused(place, found, expected, fix, "looks ahead")


def require_packable(model: Any, task: Task, examples: Sequence[Example], device: str, where: str) -> None:
    """UserError for a model that would read a text otherwise behind another one (`training.packing`)."""
    batch = to_device(task.collate([max(examples, key=lambda example: example.length)]), device)
    if reason := task.unpackable(model, batch):
        found, expected = f"true, for {type(model).__name__}", f"no packing: {reason}"
        raise UserError(Problem(where, "training.packing", found, expected, "leave packing out", "unpackable model"))


@contextmanager
def refusing(model: Any, place: tuple[str, str]) -> Iterator[None]:
    """Within: what a model's own code raises over rows is a UserError in its own words; `place` as of `try_model`.

    Some raise in train mode alone: Reformer takes one length there.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        if isinstance(error, KeeltuneError) or foreseen(error, Path()) is not None or not _of_model(error):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        found = f"{model.config.model_type}, whose forward pass fails on a row: {reason}"
        fix = "take another architecture, or correct its config.json"
        if any(weight.dtype in HALF for weight in model.parameters()):
            held = "training.lora.base" if place[1] == "model" else f"{place[1]}.held"
            fix = f"write {held}: fp32, as it may not run in bfloat16; or {fix}"
        raise _refused(place, found, "a model that takes rows of any length", fix, "model fails") from error


def _refused(place: tuple[str, str], found: str, expected: str, fix: str, kind: str) -> UserError:
    where, field = place
    return UserError(Problem(where, field, found, expected, fix, kind))


def _of_model(error: Exception) -> bool:
    """Whether it was raised in a model of transformers, and not by us."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    models = Path(transformers.__file__).parent / "models"
    return not files[-1].is_relative_to(PACKAGE) and any(file.is_relative_to(models) for file in files)


def _looks_ahead(model: Any, task: Task, examples: Sequence[Example], device: str) -> bool:
    """Whether another last token changes what is predicted before it."""
    for example in examples:
        batch = to_device(task.collate([example]), device)
        inputs: Mapping[str, Any] = batch["inputs"]
        name = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
        if "predicted" not in batch or name not in inputs or int(batch["predicted"].sum()) < 2:
            continue
        ids = inputs[name]
        written = next((i for i in example.targets if i not in (IGNORED, int(ids[0, -1]))), None)
        if written is None:  # one word, again and again
            continue
        other = ids.clone()
        other[0, -1] = written
        before, after = (observed(model, {**inputs, name: row}).logits for row in (ids, other))
        asked = torch.nn.functional.pad(batch["predicted"], (before.shape[1] - ids.shape[1], 0), value=False)
        asked[:, -1] = False
        difference = (before[asked] - after[asked]).abs()
        return bool(difference.numel() and difference.max() > TOLERANCE * before[asked].abs().max())
    return False
