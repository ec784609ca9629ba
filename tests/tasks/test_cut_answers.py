"""Answers that were written to their most tokens without coming to an end are counted, and named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keeltune.evaluation.prediction import prediction_rows
from keeltune.evaluation.scores import score
from keeltune.models import positions
from keeltune.reports.findings import cut_answers
from keeltune.tasks.common.example import Prediction
from keeltune.training.preparation.lengths import generation_length
from tests.helpers import whispers, writers


@pytest.mark.parametrize("architecture", ["bart", "t5", "gpt2"])
def test_an_answer_is_cut_where_it_has_no_end_within_the_most_tokens(architecture):
    """BART starts from the token that ends its texts, which is no end of what it writes."""
    model, task = writers.writer(architecture)
    task.adopt(model, task.processor)
    rows = writers.rows()
    examples = [task.encode(row)[0] for row in rows]
    head, end = model.get_output_embeddings(), task.ends[0]
    bias = torch.zeros(head.out_features)
    hook = head.register_forward_hook(lambda *call: call[2] + bias)
    bias[end] = -1e4
    never = task.predict(model, examples)
    assert all(p.cut for p in never)
    bias[end] = 1e4
    at_once = task.predict(model, examples)
    assert not any(p.cut for p in at_once) and {p.value for p in at_once} == {""}
    hook.remove()
    answers = [replace(never[0]), *at_once[1:]]
    assert score(task, answers, rows).cut == 1
    assert [line.get("cut", False) for line in prediction_rows(task, answers, rows)] == [p.cut for p in answers]


def test_a_recording_is_cut_where_one_of_its_parts_is():
    _, task = whispers.speaker()
    end, letter = task.ends[0], task.tokenizer("a", add_special_tokens=False)["input_ids"][0]
    is_cut = task.architecture.is_cut
    assert is_cut([letter] * 10)
    assert not is_cut([*[letter] * 9, end]) and not is_cut([letter, *[end] * 9]) and not is_cut([letter] * 9)
    parts = [Prediction("a", None, 0.0, 0.0, cut=cut) for cut in (False, True)]
    assert task.combine(parts).cut and not task.combine(parts[:1]).cut


def test_what_is_said_of_them():
    said = {"settings": {"max_new_tokens": 64}, "cut": {"validation": [0, 9], "test": [2, 40], "source": [1, 3]}}
    (line,) = cut_answers.findings(said)
    assert line.startswith("warning: 2 of 40 answers of test, 1 of 3 answers of source reached 64 tokens")
    assert not cut_answers.findings({**said, "cut": {"test": [0, 40]}})
    assert not cut_answers.findings(None) and not cut_answers.findings({"settings": {}})  # of an older version


def test_whisper_writes_as_long_as_it_has_places_for_where_nobody_says_how_long():
    whisper, _ = whispers.speaker()
    bart, _ = writers.writer("bart")
    assert generation_length(None, whisper, None) == positions.target_positions(whisper) == 32
    assert generation_length(8, whisper, None) == 8
    assert generation_length(None, bart, None) == 64
