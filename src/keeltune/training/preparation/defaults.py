"""Defaults that depend on what there is: how long a run trains, how fast, and which rows choose its best weights.

What a recipe names stands. What it leaves at auto is decided here, from the rows and the model alone and never from the
machine, so that the same recipe means the same training everywhere. None of it depends on the method: plain
fine-tuning, a distillation and an anchored training of one model on the same rows have the same steps and rates.

Three epochs that refine a trained head are too few updates for a new one on few rows: 400 rows in batches of 32 make 36
steps, after which a head of ten classes is right more often than not and still gives each of them a tenth. Mosbach et
al. 2020 (https://arxiv.org/abs/2006.04884) train small data for twenty epochs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from keeltune.data import held_out
from keeltune.data.dataset import Row
from keeltune.recipe.data_fields import AUTO
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.stored_examples import lengths_of
from keeltune.tasks.task import Task
from keeltune.training.preparation.head_compatibility import NEW
from keeltune.training.preparation.material import Default, Material
from keeltune.training.preparation.sizes import student_sizes
from keeltune.utils.messages import Message

EPOCHS = 3

NEW_HEAD_EPOCHS = 20

FEWEST, MOST = 200, 1000
"""Steps that a new head's epochs come to, where `EPOCHS` are fewer."""

OPERATIONS = 4e14
"""What a floor of steps may cost, 6 operations a weight and token: an hour of a machine that does 10¹¹ a second."""

RATE = 5e-5

"""Of a head that is trained already; and of a new one on a model of `WIDTH`, a narrower one having more."""

WIDTH = 768

RATES = (1e-5, 5e-4)

NEW_MODEL_RATE = 5e-4

HEAD = 10
"""The rate of a new head, as a multiple of the others'."""


def divided(
    recipe: Recipe, task_class: type[Task], train: Sequence[Row]
) -> tuple[Sequence[Row], Sequence[Row], Default | None]:
    """`train` as (train, validation) where the recipe says nothing of validation rows, and what is said of it."""
    if recipe.data.validation != AUTO or not train:
        return train, [], None
    if held := held_out.count(len(train), written=task_class.generates):
        clusters = recipe.evaluation.clusters
        rows, chosen = held_out.hold_out(train, task_class.columns, held, recipe.seed, clusters)
        if chosen:
            template = "{held} of the {rows} training rows, as no others are named: they choose the best weights"
            return rows, chosen, Default(len(chosen), Message(template, held=len(chosen), rows=len(train)))
    template = "none of {rows} training rows: too few to spare any, or all alike in an input"
    return train, [], Default(0, Message(template, rows=len(train)))


def decide(
    material: Material, untrained: Sequence[str], held: Default | None, begun: Mapping[str, int | float]
) -> None:
    """Puts numbers in the place of what the recipe leaves at auto, and says why in `material.defaults`.

    `untrained`: the weights of the head that the model's folder does not hold; `held`: what `divided` said; `begun`:
    what a run that goes on was begun with, by another version perhaps, which stands.
    """
    training = material.recipe.training
    new_head = material.source == NEW or _has_new_head(material, untrained)
    decided = {"data.validation": held} if held else {}
    if training.epochs == AUTO:
        decided["training.epochs"] = _kept(begun.get("epochs"), _epochs(material, new_head))
    if isinstance(rate := training.learning_rate, str):
        decided["training.learning_rate"] = _kept(begun.get("learning_rate"), _rate(material, new_head))
        rate = decided["training.learning_rate"].value
    if training.head_learning_rate == AUTO:
        of_its_own = new_head and material.source != NEW
        now = _head_rate(rate, training.learning_rate != AUTO, of_its_own)
        decided["training.head_learning_rate"] = _kept(begun.get("head_learning_rate"), now)
    elif not new_head and training.head_learning_rate != rate:
        material.notices.append("training.head_learning_rate has no effect: no weights are new")
    chosen = {
        field.removeprefix("training."): of.value for field, of in decided.items() if field.startswith("training.")
    }
    material.recipe = material.recipe.model_copy(update={"training": training.model_copy(update=chosen)})
    if "training.head_learning_rate" in decided and decided["training.head_learning_rate"].value == rate:
        del decided["training.head_learning_rate"]  # which is nothing to tell
    material.defaults = decided


def _kept(begun: int | float | None, now: Default) -> Default:
    return now if begun is None or begun == now.value else Default(begun, Message("as the run was begun"))


def sentences(material: Material) -> Iterator[str]:
    """What was decided, one line each."""
    for field, default in material.defaults.items():
        yield Message("{field} {value:.4g} ({reason})", field=field, value=default.value, reason=default.reason)


def _has_new_head(material: Material, untrained: Sequence[str]) -> bool:
    """Whether the head starts from random weights. A hub id is not looked into: its configuration says what it is."""
    if material.task.choices == "tokens":
        return bool(untrained)
    if untrained or (material.task.choices == "labels" and material.new_head):
        return True
    kinds = getattr(material.config, "architectures", None) or []
    suffix = material.auto_model.removeprefix("AutoModel")
    return not Path(material.source).is_dir() and bool(kinds) and not any(kind.endswith(suffix) for kind in kinds)


def _epochs(material: Material, new: bool) -> Default:
    per_epoch = material.steps_per_epoch
    usual = EPOCHS * per_epoch
    if not new:
        return Default(EPOCHS, Message("{steps} steps for a head that is trained already", steps=usual))
    wanted = min(max(NEW_HEAD_EPOCHS * per_epoch, FEWEST), MOST)
    affordable = int(OPERATIONS / _operations_of_step(material))
    epochs = max(EPOCHS, math.ceil(wanted / per_epoch))
    capped = max(EPOCHS, min(epochs, affordable // per_epoch))
    if capped == EPOCHS and epochs == EPOCHS:
        return Default(EPOCHS, Message("{steps} steps, enough for a new head", steps=usual))
    if capped < epochs:
        template = "{steps} steps for a new head, fewer than {wanted}: the model is large"
        return Default(capped, Message(template, steps=capped * per_epoch, wanted=wanted))
    template = "{steps} steps for a new head: {usual} epochs would be {few}"
    return Default(epochs, Message(template, steps=epochs * per_epoch, usual=EPOCHS, few=usual))


def _operations_of_step(material: Material) -> float:
    lengths = lengths_of(material.main_stream)
    tokens = material.batch_size * material.micro_batches * int(lengths.sum()) / len(lengths)
    return max(1.0, 6 * student_sizes(material).body * tokens)


def _rate(material: Material, new_head: bool) -> Default:
    """Adam's best rate falls with the width of a model (Yang et al. 2022, https://arxiv.org/abs/2203.03466)."""
    if material.source == NEW:
        return Default(NEW_MODEL_RATE, Message("the model starts from random weights"))
    if not new_head:
        return Default(RATE, Message("the head is trained already"))
    width = student_sizes(material).width
    rate = min(max(RATE * WIDTH / width, RATES[0]), RATES[1])
    return Default(float(f"{rate:.1g}"), Message("a model {width} wide with a new head", width=width))


def _head_rate(rate: float, named: bool, new: bool) -> Default:
    """`named`: whether the recipe names the others' rate, which is then meant for all."""
    if not new:
        return Default(rate, Message("no weights but the model's own"))
    if named:
        return Default(rate, Message("the learning rate that the recipe names"))
    return Default(HEAD * rate, Message("the head is new; the rest has {rate:.3g}", rate=rate))
