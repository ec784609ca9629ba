"""Model folders of small random weights, each with a tokenizer (and what reads pictures or sound), and their rows."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from benchmarks.architectures import configurations
from benchmarks.architectures.discovery import Cell
from tests.helpers import captioners, speakers
from tests.helpers.families import FAMILIES

from keeltune.models import initialization, saving, surgery, tokenizer_training
from keeltune.models.processors import Pair
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.tasks.task import Task
from keeltune.utils import registry

LARGEST = 12_000_000
"""Weights beyond which a configuration was not made small."""
ROWS = 8


class NotMade(Exception):
    """This benchmark made no small model of the architecture; keeltune has not been asked."""


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for inner in value.values() for text in strings(inner))
    elif isinstance(value, list):
        yield from (text for inner in value for text in strings(inner))


def rows(folder: Path, task: str) -> list[dict[str, Any]]:
    """The first rows that the tests have for a task, in `rows.jsonl` with what lies beside it."""
    file = folder / "rows.jsonl"
    FAMILIES[task].write(file)
    lines = file.read_text(encoding="utf-8").splitlines()[:ROWS]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [json.loads(line) for line in lines]


def make(cell: Cell, folder: Path) -> None:
    """`student` and `teacher`, two folders of the same architecture; NotMade with transformers' own reason."""
    task = registry.find("tasks", cell.task)
    made = rows(folder, cell.task)
    if save := by_hand(cell):
        for seed, name in enumerate(("student", "teacher")):
            save(folder / name, seed)
        return
    tokenizer = tokenizer_of(task, cell, list(strings(made)))
    reasons, unread = list[str](), None
    candidates = configurations.candidates(cell.config_class, cell.auto_model, tokenizer)
    while True:
        try:
            config = next(candidates)
            head(config, task, made)
            model = model_of(cell, config)
            if task.reads == "text":
                try:
                    runs(model, writes=task.choices == "tokens")
                except (ValueError, AssertionError):  # it wants more than a text: keeltune is asked all the same
                    unread = unread or model
                    raise
            processor = tokenizer if task.reads == "text" else reader(task, config, tokenizer)
            break
        except StopIteration:
            if unread is None:
                raise NotMade(reasons[0]) from None
            model, processor = unread, tokenizer
            break
        except NotMade as error:
            reasons.append(str(error))
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    for name in ("student", "teacher"):
        stir(model)
        saving.save(model, processor, folder / name)


def by_hand(cell: Cell) -> Callable[[Path, int], Any] | None:
    """The tests' own small models, where a processor knows its model's marks and sizes; None where they have none."""
    if cell.task == "image-captioning" and cell.architecture in captioners.LOADABLE:
        return lambda folder, seed: captioners.save(cell.architecture, folder, seed)
    if cell.task == "speech-recognition" and cell.architecture in speakers.SEQ2SEQ:
        return lambda folder, seed: speakers.save(cell.architecture, folder, seed)
    return None


def model_of(cell: Cell, config: Any) -> Any:
    """A random model; NotMade where it is too large to be called small."""
    with torch.device("meta"):
        shape = getattr(transformers, cell.auto_model).from_config(config)
    if (size := sum(weight.numel() for weight in shape.parameters())) > LARGEST:
        largest = max(shape.named_parameters(), key=lambda named: named[1].numel())
        raise NotMade(f"{size / 1e6:.0f} million weights, {largest[0]} {list(largest[1].shape)}")
    torch.manual_seed(0)
    return getattr(transformers, cell.auto_model).from_config(config, dtype=torch.float32)


def tokenizer_of(task: type[Task], cell: Cell, texts: list[str]) -> Any:
    """WordPiece as encoders have it where labels or places are predicted, bytes where text is written."""
    if cell.auto_model == "AutoModelForCTC":
        return tokenizer_training.train(TrainTokenizer(train="characters", size=100), texts, ends=False, spells=True)
    if task.choices == "tokens":
        ends = "Seq2Seq" in cell.auto_model
        made = tokenizer_training.train(TrainTokenizer(train="bpe", size=300), texts, ends=ends)
    else:
        made = tokenizer_training.train(TrainTokenizer(train="wordpiece", size=200), texts, ends=False)
    made.model_max_length = configurations.POSITIONS // 2
    return made


def head(config: Any, task: type[Task], made: list[dict[str, Any]]) -> None:
    """The label names of a head, as a trained model's configuration has them."""
    if task.choices != "labels":
        return
    if "tags" in made[0]:
        names = task.label_inventory([tag for row in made for tag in row["tags"]])  # type: ignore[attr-defined]
    else:
        names = sorted({row["label"] for row in made})
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}


def reader(task: type[Task], config: Any, tokenizer: Any) -> Any:
    """A processor for pictures or sound in the sizes of the configuration."""
    return Pair(tokenizer, initialization._extractor(config, task.reads, config.model_type, ""))


def runs(model: Any, writes: bool) -> None:
    """One forward and backward pass of stock transformers: a small configuration may be built and yet not run."""
    ids = torch.arange(6, 12)[None]
    if (end := getattr(model.config, "eos_token_id", None)) is not None:  # what BART's kind classifies
        ids[0, -1] = end
    decodes = writes and "decoder_input_ids" in inspect.signature(model.forward).parameters
    more = {"decoder_input_ids": ids[:, :4]} if decodes else {}
    outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)
    logits = outputs.logits if "logits" in outputs else outputs.start_logits
    logits.sum().backward()
    model.zero_grad()


def stir(model: Any) -> None:
    """Fresh weights are so small that no input matters; fresh batch norms have seen no batch."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
        for norm in surgery.batch_norms(model):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
