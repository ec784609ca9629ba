"""Names that other programs have for our fields: each leads to a field that there is, or has a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import pytest
from transformers import TrainingArguments

from keeltune.recipe import from_dict
from keeltune.recipe.other_names import FIELDS, NOT_NEEDED, PASSED, TRAINERS
from keeltune.utils.errors import UserError

RECIPE = {"task": "text-classification", "method": "fine-tuning", "model": "m", "data": {"train": "a"}, "output": "o"}


def fault_of(values: dict[str, Any]):
    with pytest.raises(UserError) as caught:
        from_dict({**RECIPE, **values}, Path())
    return caught.value.problems[0]


def test_each_name_leads_to_a_field_that_there_is():
    hints = get_type_hints(TrainingArguments)
    for name, target in FIELDS.items():
        field = target.split(" ")[0]
        if field == "the":
            continue
        steps = field.split(".")
        values: Any = [object()]  # of no kind that a field takes
        for step in reversed(steps):
            values = {step: values}
        assert "no " not in fault_of(values).expected and "one of: task" not in fault_of(values).expected, (name, field)
    assert all(name in hints for name in PASSED)
    assert not (FIELDS.keys() & NOT_NEEDED.keys()) and TRAINERS.keys() <= NOT_NEEDED.keys()


@pytest.mark.parametrize(
    ("values", "fix"),
    [
        ({"early_stopping_patience": 3}, "use evaluation.patience"),
        ({"training": {"early_stopping_patience": 3}}, "use evaluation.patience"),
        ({"lr": 1e-4}, "use training.learning_rate"),
        ({"training": {"per_device_train_batch_size": 8}}, "use training.batch_size"),
        ({"training": {"bf16": True}}, "use training.precision"),
        ({"max-seq-length": 3}, "use max_length"),
        ({"training": {"max_length": 3}}, "use max_length"),
        ({"training": {"lora": {"r": 8}}}, "use training.lora.rank"),
        ({"dataset_text_field": "body"}, "use data.columns"),
        ({"data": {"train": "a", "streaming": True}}, "leave it out"),
        ({"load_in_4bit": True}, "use training.lora.base"),
        ({"load_in_8bit": True}, "leave it out"),
        ({"training": {"attn_implementation": "sdpa"}}, "use training.attention"),
        ({"packing": True}, "leave it out"),
        ({"weight_decay": 0.1}, "write it as training.weight_decay"),
        ({"epochs": 3}, "write it as training.epochs"),
        ({"training": {"learning_rte": 3}}, 'leave it out; did you mean "learning_rate"?'),
        ({"evaluation": {"patiense": 3}}, 'correct the name; did you mean "patience"?'),
    ],
)
def test_a_name_of_another_program_is_answered_with_ours(values: dict[str, Any], fix: str):
    problem = fault_of(values)
    assert problem.fix == fix
    assert fix != "leave it out" or problem.expected.startswith("no "), "with a reason"


def test_what_training_arguments_take_is_still_taken():
    for name, value in {"weight_decay": 0.1, "run_name": "x", "optim": "adamw_torch", "warmup_steps": 0.1}.items():
        assert from_dict({**RECIPE, "training": {name: value}}, Path()).training.passed == {name: value}
