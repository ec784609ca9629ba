"""Names that tasks have elsewhere: read as ours, or answered with the nearest."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeltune.recipe import from_dict
from keeltune.recipe.task_names import OTHERS, task_named, unknown_task
from keeltune.utils import registry
from keeltune.utils.errors import UserError

RECIPE = {"method": "fine-tuning", "model": "m", "data": {"train": "a"}, "output": "o"}


def test_every_other_name_is_of_a_task_that_there_is_and_of_no_other():
    assert set(OTHERS.values()) == set(registry.names("tasks"))
    assert not OTHERS.keys() & set(registry.names("tasks"))


@pytest.mark.parametrize(
    ("written", "read"),
    [("ner", "token-classification"), ("Named Entity Recognition", "token-classification"),
     ("POS", "token-classification"), ("sts", "regression"), ("asr", "speech-recognition"),
     ("qa", "question-answering"), ("nmt", "translation"), ("sft", "text-generation"),
     ("classification", "text-classification"), ("text_classification", "text-classification"),
     ("SRL", "semantic-role-labeling"), ("summarisation", "summarization"), ("translation", "translation")],
)  # fmt: skip
def test_a_name_is_read_as_ours_and_said(written, read):
    made = from_dict({**RECIPE, "task": written}, Path())
    assert made.task == read
    assert made.understood == (None if written == read else f"task: {written} is read as {read}")


@pytest.mark.parametrize(
    ("written", "fix"),
    [("multi-label-classification", "data.multi_label: true"), ("image classification", "image-captioning"),
     ("named-entity-recogniton", "(which is token-classification)"), ("sumarization", 'did you mean "summarization"')],
)  # fmt: skip
def test_what_is_none_of_ours_is_answered_with_the_nearest(written, fix):
    with pytest.raises(UserError) as caught:
        from_dict({**RECIPE, "task": written}, Path())
    assert fix in caught.value.problems[0].fix == unknown_task(written)


def test_a_class_of_another_package_keeps_its_name():
    assert task_named("ner:Task") == "ner:Task"
