"""Answers as spans: strides, targets, losses, decoding over strides, rows without an answer, and SQuAD's metric."""

from __future__ import annotations

import json
import random
import unicodedata
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForQuestionAnswering

import keeltune as kt
from keeltune import recipe
from keeltune.data.dataset import Row
from keeltune.models import tokenizer_training
from keeltune.objective.formula import Counts, Objective
from keeltune.objective.predictions import IGNORED, Dense
from keeltune.objective.references.model import Model
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.tasks.common.example import Prediction
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.families import span_extraction
from keeltune.tasks.metrics.squad import best_match, english
from keeltune.tasks.question_answering import QuestionAnswering
from keeltune.training.preparation import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from keeltune.utils.registry import find
from tests.helpers import wide
from tests.helpers.families import METHODS
from tests.helpers.readers import (
    ARCHITECTURES,
    SIZES,
    folder_of,
    reader,
    row_of,
    rows,
    spec,
    tokenizer_of,
    write,
)

QUIET = Display(quiet=True)


def examples_of(task: QuestionAnswering) -> list[Any]:
    return [e for row in rows() for e in task.encode(row)]


def outputs_of(logits: torch.Tensor) -> Any:
    """A model's outputs from logits [2B, S], start and end by turns."""
    return type("Outputs", (), {"start_logits": logits[0::2], "end_logits": logits[1::2]})


# The contract, for each architecture


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_is_the_models_own_times_its_count(architecture):
    """The model's own loss is the mean of two means. Its head, told what cannot be chosen, has our sum; without that
    it is larger by −log of the mass that it gives to what can be chosen."""
    model, task = reader(architecture)
    batch = task.collate(examples_of(task))
    start, end = batch["targets"].unflatten(0, (-1, 2)).unbind(-1)
    n = len(batch["targets"])
    with torch.no_grad():
        ours = Objective(weight=0.0)(
            task.cross_entropy(task.rows(task.forward(model, batch), batch), batch),
            task.rows(task.forward(model, batch), batch),
            Model(model, task.rows, forward=task.forward).rows(batch),
            counts=Counts(*task.counts(batch)),
        )
        plain = model(**batch["inputs"], start_positions=start, end_positions=end)
        both = torch.stack([plain.start_logits, plain.end_logits], 1).flatten(0, 1).double().softmax(-1)
        mass = (both * batch["open"].repeat_interleave(2, 0)).sum(-1).log().sum().item()
        closed = ~batch["open"][..., None]
        handle = model.qa_outputs.register_forward_hook(lambda m, i, out: out.masked_fill(closed, -torch.inf))
        theirs = model(**batch["inputs"], start_positions=start, end_positions=end).loss.item()
        handle.remove()
    assert ours.cross_entropy.item() == pytest.approx(theirs * n, rel=1e-6)
    assert ours.loss.item() == pytest.approx(theirs, rel=1e-6)
    assert ours.cross_entropy.item() == pytest.approx(plain.loss.item() * n + mass, rel=1e-5)
    assert task.counts(batch) == (n, 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_changes_nothing(architecture):
    model, task = reader(architecture)
    examples = examples_of(task)
    assert len({e.length for e in examples}) > 2
    with torch.no_grad():
        batch = task.collate(examples)
        together = task.rows(task.forward(model, batch), batch).log_probs(slice(None))
        answers = task.predict(model, examples)
        for i, example in enumerate(examples):
            one = task.collate([example])
            alone = task.rows(task.forward(model, one), one).log_probs(slice(None))
            torch.testing.assert_close(together[2 * i : 2 * i + 2, : alone.shape[1]], alone, rtol=1e-5, atol=1e-5)
            assert (together[2 * i : 2 * i + 2, alone.shape[1] :] == -torch.inf).all()
            assert task.predict(model, [example])[0].value == answers[i].value


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_reference_that_is_the_student_costs_nothing_and_has_no_gradient(architecture):
    model, task = reader(architecture)
    batch = task.collate(examples_of(task))
    made = task.rows(task.forward(model, batch), batch)
    divergence = Objective().total(made, Dense(made.logits.detach()))
    divergence.backward()
    assert divergence.item() == pytest.approx(0.0, abs=1e-5)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert sum(p.grad.norm() for p in model.parameters() if p.grad is not None).item() < 1e-4


def test_segments_are_handed_on_where_the_model_has_them():
    names = {a: set(examples_of(reader(a)[1])[0].inputs) for a in ARCHITECTURES}
    assert names["bert"] == names["electra"] == {"input_ids", "token_type_ids", "attention_mask"}
    assert all(names[a] == {"input_ids", "attention_mask"} for a in ("roberta", "distilbert", "mpnet", "bart", "t5"))
    (example,) = reader("bert", max_length=64)[1].encode(rows()[0])
    sep = example.inputs["input_ids"].index(tokenizer_of("bert").sep_token_id)
    assert example.inputs["token_type_ids"] == [0] * (sep + 1) + [1] * (example.length - sep - 1)


# Strides and targets


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_strides_cover_the_text_overlap_and_point_at_the_answer(architecture):
    _, task = reader(architecture)
    for row in rows():
        context, answer = row.fields["context"], row.fields["answers"]["text"][:1]
        examples = task.encode(row)
        assert [e.key for e in examples] == [f"{row.key}#{i}" for i in range(len(examples))]
        assert all(e.length == len(e.inputs["input_ids"]) <= 32 and not e.truncated for e in examples)
        seen: list[list[tuple[int, int]]] = []
        read: list[list[tuple[int, int]]] = []
        for e in examples:
            pairs = list(zip(e.notes["starts"], e.notes["ends"], strict=True))
            seen.append([pair for pair in pairs if pair[1] > pair[0]])
            read.append([pair for pair in pairs if pair[1] > 0])  # also tokens that stand for white space alone
            start, end = e.targets
            if start == 0:
                assert end == 0
                assert not answer or answer[0] not in context[seen[-1][0][0] : seen[-1][-1][1]]
            else:
                assert context[pairs[start][0] : pairs[end][1]].strip() == answer[0]
        covered = {c for part in seen for a, b in part for c in range(a, b)}
        assert {c for c in range(len(context)) if not context[c].isspace()} <= covered
        room = 32 - task.marks - len(task.tokenizer(row.fields["question"], add_special_tokens=False)["input_ids"])
        for before, after in pairwise(read):
            assert before[-(room // 2) :] == after[: room // 2]  # half of the room is shared
    assert max(len(task.encode(row)) for row in rows()) > 2


def test_encoding_is_pure_and_labels_are_all_that_labels_change():
    _, task = reader("roberta")
    for row in rows():
        assert task.encode(row) == task.encode(row)
        for given, hidden in zip(task.encode(row), task.encode(row, labelled=False), strict=True):
            assert hidden.inputs == given.inputs
            assert hidden.targets == (IGNORED, IGNORED)
            assert given.labelled == 2 and hidden.labelled == 0 and hidden.predictions == 2


def test_the_first_answer_that_a_stride_holds_whole_is_its_target():
    _, task = reader("bert")
    context = "Ann Lee came. " + "it was long and dull and " * 15 + "then Bob came."
    examples = task.encode(row_of("who came?", context, "Ann Lee", "Bob"))
    spans = []
    for e in examples:
        a, b = e.targets
        spans.append(context[e.notes["starts"][a] : e.notes["ends"][b]])
    assert spans[0] == "Ann Lee" and spans[-1] == "Bob" and set(spans[1:-1]) == {""}
    assert len(spans) > 2


def test_an_answer_that_fits_into_no_stride_is_not_taught_as_none():
    _, task = reader("bert")
    context = "it was " + "long and dull and " * 12 + "bad."
    examples = task.encode(row_of("what was it?", context, context[7:-1]))
    assert all(e.targets == (IGNORED, IGNORED) and e.labelled == 0 for e in examples)
    notices = task.notices([*examples, *task.encode(rows()[0])])
    assert any("1 of 2 answers lie whole in no stride" in notice for notice in notices)


def test_a_long_question_leaves_room_for_the_text_and_says_that_it_is_cut():
    _, task = reader("bert")
    examples = task.encode(row_of("who was it and " * 20, "It was Ann Lee.", "Ann Lee"))
    assert all(e.truncated and e.length <= 32 for e in examples)
    assert any(e.targets[0] > 0 for e in examples)


def test_without_a_length_a_text_is_read_whole():
    _, task = reader("bert", max_length=None)
    assert all(len(task.encode(row)) == 1 for row in rows())


def test_white_space_and_letters_of_several_bytes():
    _, task = reader("roberta")
    context = "it was\n a café 🎬🎬 and  a plot "
    for answer in ("café", "🎬🎬", "🎬", "a plot ", "\n a café"):
        examples = task.encode(row_of("what?", context, answer))
        logits = torch.full((2 * len(examples), 32), -9.0)
        for i, target in enumerate(t for e in examples for t in e.targets):
            logits[i, target] = 9.0
        batch = task.collate(examples)
        made = task.rows(outputs_of(logits[:, : batch["open"].shape[1]]), batch)
        assert task.combine(task.decode(made, batch)).value == answer.strip() or answer == "🎬"


def test_what_cannot_be_read_in_strides_is_refused():
    with pytest.raises(UserError, match="CanineTokenizer, which is no fast one"):
        QuestionAnswering(transformers.CanineTokenizer(), Settings(max_length=32))
    with pytest.raises(UserError, match="at least 11: room for a question"):
        QuestionAnswering(tokenizer_of("bert"), Settings(max_length=10))


def test_position_0_is_no_answer_also_where_the_tokenizer_pads_at_the_left():
    words = transformers.BertTokenizer(vocab=tokenizer_of("bert").get_vocab(), padding_side="left")
    task = QuestionAnswering(words, Settings(max_length=32))
    ids = task.collate(examples_of(task))["inputs"]["input_ids"]
    assert (ids[:, 0] == words.cls_token_id).all() and (ids[:, -1] == words.pad_token_id).any()


# Decoding


def test_the_best_span_is_found_as_by_looking_at_all_of_them():
    generator = torch.Generator().manual_seed(0)
    for longest in (1, 3, 5, 40):
        start, end = torch.randn(2, 6, 20, generator=generator).unbind(0)
        closed = torch.rand(6, 20, generator=generator) < 0.3
        start, end = start.masked_fill(closed, -torch.inf), end.masked_fill(closed, -torch.inf)
        i, j, score = span_extraction._best(start, end, longest)
        for b in range(6):
            every = {
                (s, e): (start[b, s] + end[b, e]).item() for s in range(1, 20) for e in range(s, min(20, s + longest))
            }
            assert score[b].item() == max(every.values())
            assert every[i[b].item(), j[b].item()] == max(every.values())


def decoded(task: QuestionAnswering, row: Row, shift: float = 0.0, null: float = 0.0) -> list[Prediction]:
    """Random logits for a row's strides; `shift` is added to all of the second stride, `null` to each position 0."""
    batch = task.collate(task.encode(row))
    logits = torch.randn(len(batch["targets"]), batch["open"].shape[1], generator=torch.Generator().manual_seed(0))
    logits[:, 0] += null
    logits[2:4] += shift
    return task.decode(task.rows(outputs_of(logits), batch), batch)


def test_strides_are_compared_by_what_a_softmax_knows():
    """A constant in all logits of one stride changes no probability of it, so it must not change the answer."""
    _, task = reader("bert")
    row = rows()[3]
    plain, moved = decoded(task, row), decoded(task, row, shift=7.0)
    assert [p.value for p in plain] == [p.value for p in moved]
    assert [p.score for p in plain] == pytest.approx([p.score for p in moved], abs=1e-5)
    best = task.combine(plain)
    assert best.score == max(p.score for p in plain)
    assert best.loss == pytest.approx(sum(p.loss for p in plain)) and best.count == 2 * len(plain)
    assert best.probabilities is None and best.value and best.value in row.fields["context"]


def test_the_merit_is_the_score_of_the_span_less_that_of_no_answer():
    _, task = reader("bert", max_length=64)
    batch = task.collate(task.encode(row_of("what?", "a plot was", "a plot")))
    s = batch["open"].shape[1]
    first = int(batch["targets"][0])
    logits = torch.zeros(2, s)
    logits[0, 0], logits[1, 0] = 1.5, 0.25
    logits[0, first], logits[1, first + 1] = 3.0, 2.0
    (answer,) = task.decode(task.rows(outputs_of(logits), batch), batch)
    assert answer.value == "a plot"
    assert answer.score == pytest.approx(3.0 + 2.0 - 1.5 - 0.25)
    possible = int(batch["open"].sum())
    by_hand = [np.log(np.exp([a, b]).sum() + possible - 2) - b for a, b in ((1.5, 3.0), (0.25, 2.0))]
    assert answer.loss == pytest.approx(sum(by_hand)) and answer.count == 2


@pytest.mark.parametrize(("known", "empty"), [(True, True), (False, False), (None, True)])
def test_a_row_is_left_empty_only_where_no_stride_prefers_a_span_and_the_data_know_such_rows(known, empty):
    model, task = reader("bert")
    if known is not None:
        task.annotate(model.config, [e for row in rows(answered=not known) for e in task.encode(row)])
        assert model.config.no_answer is known
    unsure = decoded(task, rows()[3], null=20.0)
    assert all(p.score < 0 for p in unsure)
    assert (task.combine(unsure).value == "") == empty
    one = [*unsure, Prediction("Bob", None, 0.0, 2.0, 0.1)]
    assert task.combine(one).value == "Bob"


def test_a_model_that_could_leave_rows_empty_still_can():
    model, task = reader("bert")
    task.annotate(model.config, examples_of(task))
    task.annotate(model.config, [e for row in rows(answered=True) for e in task.encode(row)])
    assert model.config.no_answer is True
    other, task = reader("bert")
    task.annotate(other.config, [e for row in rows() for e in task.encode(row, labelled=False)])
    assert not hasattr(other.config, "no_answer")  # rows without labels say nothing


# The metric


def official(prediction: str, answers: list[str]) -> tuple[float, float]:
    """SQuAD 2.0's evaluation, from its description: words after lower case, without punctuation and articles."""

    def words(text: str) -> list[str]:
        kept = "".join(c for c in text.lower() if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
        out, word = [], ""
        for c in kept + " ":  # articles stand between characters that are no word characters
            if c.isalnum() or c == "_":
                word += c
            else:
                out += [" " if word in ("a", "an", "the") else word, c]
                word = ""
        return "".join(out).split()

    answers = [a for a in answers if words(a)] or [""]
    scores = []
    for answer in answers:
        left, right = words(answer), words(prediction)
        total = len(left) + len(right)
        same = 0
        for word in right:
            if word in left:
                left.remove(word)
                same += 1
        exact = float(words(answer) == right)
        scores.append((exact if not words(answer) or not right else 2 * same / total, exact))
    return max(f for f, _ in scores), max(e for _, e in scores)


def test_the_metric_is_squads():
    source = random.Random(0)
    parts = ["the", "a", "An", "The", "film", "Film", "plot,", "plot", "U.S.", "(1990)", "1990", "-", "café", "naïve",
             "3,000", "x-ray", "theatre", "“plot”", "it's", "…", "  ", "\n"]  # fmt: skip
    texts = [" ".join(source.choices(parts, k=source.randint(0, 6))) for _ in range(200)]
    golds = [source.sample([t for t in texts if t.strip()], source.randint(0, 3)) for _ in texts]
    task = reader("bert")[1]
    table = task.statistics(texts, golds)
    expected = [official(text, gold) for text, gold in zip(texts, golds, strict=True)]
    np.testing.assert_allclose(table, [[*pair, 1.0] for pair in expected], rtol=1e-12)
    assert 0 < sum(e for _, e in expected) < 200  # both kinds occur
    scores = task.scores(table.sum(0))
    assert tuple(scores) == task.metrics == ("f1", "exact_match")
    assert scores["f1"] == pytest.approx(np.mean([f for f, _ in expected]))
    assert [task.row_score(t, g) for t, g in zip(texts, golds, strict=True)] == [f for f, _ in expected]


@pytest.mark.parametrize(
    ("value", "answers", "f1", "exact"),
    [
        ("The film!", ["film"], 1, 1),
        ("a long film", ["film", "long film"], 1, 1),
        ("a long film", ["film", "the dull film"], 2 / 3, 0),
        ("", [], 1, 1),
        ("film", [], 0, 0),
        ("", ["film"], 0, 0),
        ("關東地震", ["關東地震", "地震"], 1, 1),
        ("大地震", ["地震"], 4 / 5, 0),
        ("《植物分類學》", ["植物分類學"], 1, 1),
        ("1930年", ["1930"], 2 / 3, 0),
        ("1930年。", ["1930 年"], 1, 1),
        ("Shinjuku的本妙寺", ["本妙寺"], 6 / 8, 0),
    ],
)
def test_the_metric_by_hand(value, answers, f1, exact):
    assert best_match(value, answers, english) == pytest.approx((f1, exact))


# Bad rows


def faults_of(context: str, text: str, start: int, **more: Any) -> list[Any]:
    fields = {"question": "q", "context": context, "answers": {"text": [text], "answer_start": [start]}, **more}
    return list(QuestionAnswering.faults(Row(fields, "f", 1, "k")))


FOUND = [
    ("it was a plot and a plot", "plot", 10, "not at its offset", ('"plot" (text) at 10', '"lot " (text)', "start 9")),
    ("it was a plot and a plot", "plot", 19, "not at its offset", ("answer_start 20",)),
    ("it was a plot", "film", 3, "not at its offset", ("does not hold it",)),
    ("it was a plot", "plot", 11, "past the end", ("11 to 15", "13 characters", "answer_start 9")),
    ("it was a plot", "plot", 500, "past the end", ("answer_start 9",)),
    ("café: a plot", "plot", 9, "UTF-8 bytes", ("counts UTF-8 bytes", "answer_start 8")),
    ("🎬🎬 a plot", "plot", 7, "UTF-16 units", ("counts UTF-16 units", "answer_start 5")),
    ("植物園受到地震", "地震", 15, "UTF-8 bytes", ("answer_start 5",)),
    (unicodedata.normalize("NFD", "a café plot"), "café", 2, "Unicode forms", ("context NFD, answer NFC",)),
    ("a café plot", unicodedata.normalize("NFD", "café"), 2, "Unicode forms", ("context NFC, answer NFD",)),
]


@pytest.mark.parametrize(("context", "text", "start", "kind", "needles"), FOUND)
def test_a_wrong_offset_is_said_with_the_right_one(context, text, start, kind, needles):
    (fault,) = faults_of(context, text, start)
    assert fault.field == "answers" and kind in fault.kind
    for needle in needles:
        assert needle in f"{fault.found} {fault.expected} {fault.fix}"


@pytest.mark.parametrize("context", ["café: a plot", "🎬🎬 a plot", "a plot", "plot plot a plot\r\n"])
def test_right_offsets_have_no_fault(context):
    assert not faults_of(context, "plot", context.rindex("plot"))
    assert not faults_of(context, "plot", context.rindex("plot"), is_impossible=False)
    assert not list(QuestionAnswering.faults(row_of("q", context, is_impossible=True)))


def test_a_flag_that_contradicts_the_answers_is_a_fault():
    assert faults_of("a plot", "plot", 2, is_impossible=True)[0].field == "is_impossible"
    assert next(QuestionAnswering.faults(row_of("q", "a plot", is_impossible=False))).field == "is_impossible"


GOOD = {"question": "q?", "context": "it was a plot", "answers": {"text": ["plot"], "answer_start": [9]}}
BAD = [
    ({"answers": {"text": ["plot"], "answer_start": [8]}}, "answers", "answer_start 9"),
    ({"answers": {"text": ["plot"], "answer_start": [-1]}}, "answers", "both lists are empty"),
    ({"answers": {"text": ["plot"], "answer_start": []}}, "answers", "not 1 and 0"),
    ({"answers": ["plot"]}, "answers", "text and answer_start"),
    ({"context": "  "}, "context", "text that is not blank"),
    ({"question": None}, "question", "nothing"),
]


def test_bad_rows_are_refused_with_their_place(tmp_path):
    given = spec(tmp_path, "fine-tuning")
    lines = [GOOD, *(GOOD | change for change, _, _ in BAD)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError) as refused:
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert refused.value.exit_status == 2
    problems = {problem.where: problem for problem in refused.value.problems}
    assert len(refused.value.problems) == len(problems) == len(BAD)
    for number, (_, field, needle) in enumerate(BAD):
        problem = problems[f"{tmp_path / 'train.jsonl'}:{2 + number}"]
        assert problem.field == field
        assert needle in f"{problem.kind} {problem.found} {problem.expected} {problem.fix}"
    assert not (tmp_path / "out").exists()


# Whole runs


@pytest.mark.parametrize(
    ("architecture", "words", "segments"),
    wide.all_but(
        [("bert", "trained", True), ("distilbert", "trained", False), ("gpt2", "trained", False),
         ("bert", "bert", True), ("distilbert", "bert", False), ("one segment", "bert", False)],
        {("bert", "trained", True), ("gpt2", "trained", False), ("distilbert", "bert", False)},
    ),
)  # fmt: skip
def test_a_model_from_nothing_tells_question_and_text_apart(tmp_path, architecture, words, segments):
    """As a BertTokenizer would: segment 0 up to the first [SEP], then 1. GPT-2 would take segments for words."""
    given = spec(tmp_path, "fine-tuning")
    sizes = SIZES | {"gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2}}
    sizes["one segment"] = {**SIZES["bert"], "type_vocab_size": 1}
    fields = {"model_type": "bert" if architecture == "one segment" else architecture}
    made = {"train": "wordpiece", "size": 120} if words == "trained" else "student"
    given["model"] = {"new": fields | sizes[architecture], "tokenizer": made}
    given["training"]["epochs"] = 1
    del given["data"]["validation"]
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    stock = transformers.AutoTokenizer.from_pretrained(run.model)
    found = stock("who was it?", "it was Bob")
    assert ("token_type_ids" in found) == segments
    example = prepare.prepare(recipe.from_dict({**given, "output": "other"}, tmp_path)).encoded["test"][0][0]
    assert ("token_type_ids" in example.inputs) == segments
    if segments:
        for inputs in (found, example.inputs):
            end = inputs["input_ids"].index(stock.sep_token_id) + 1
            assert inputs["token_type_ids"] == [0] * end + [1] * (len(inputs["input_ids"]) - end)
    stored = [json.loads(line) for line in (run.folder / "predictions" / "test.jsonl").read_text().splitlines()]
    again = kt.predict(run.folder, tmp_path / "test.jsonl", display=QUIET)
    assert [line["prediction"] for line in again] == [line["prediction"] for line in stored]


@pytest.mark.parametrize(
    ("architecture", "method"),
    wide.all_but(product(("bert", "roberta"), METHODS), {("bert", "distillation"), ("roberta", "cross-domain")}),
)
def test_a_run_trains_saves_and_predicts_the_same(tmp_path, architecture, method):
    given = spec(tmp_path, method, architecture)
    del given["data"]["validation"]
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    result = run.result
    assert result["status"] == "completed"
    before, after = result["metrics"]["before"]["test"], result["metrics"]["test"]
    if method != "distillation":
        assert after["loss"] < before["loss"]
    low, high = result["intervals"]["test"]["f1"]
    assert low <= after["f1"] <= high
    assert (result["objective"]["divergence"] is None) == (method == "fine-tuning")
    stored = [json.loads(line) for line in (run.folder / "predictions" / "test.jsonl").read_text().splitlines()]
    assert [line["gold"] for line in stored] == [row.fields["answers"]["text"] for row in rows()]
    again = kt.predict(run.folder, tmp_path / "test.jsonl", display=QUIET)
    assert [line["prediction"] for line in again] == [line["prediction"] for line in stored]
    assert all(line["prediction"] in line["context"] for line in again)
    scored = kt.evaluate(run.folder, tmp_path / "test.jsonl", display=QUIET)
    assert scored["metrics"] == pytest.approx({k: v for k, v in after.items() if isinstance(v, float)})

    stock = AutoModelForQuestionAnswering.from_pretrained(run.model, dtype=torch.float32).eval()
    assert stock.config.no_answer is True  # one of the rows has none
    words = transformers.AutoTokenizer.from_pretrained(run.model)
    for row, line in zip(rows(), stored, strict=True):
        inputs = words(row.fields["question"], row.fields["context"], return_offsets_mapping=True)
        if len(inputs["input_ids"]) > 32:
            continue
        offsets = inputs["offset_mapping"]
        places = [i for i, part in enumerate(inputs.sequence_ids()) if part == 1 and offsets[i][0] < offsets[i][1]]
        tensors = {k: torch.tensor([v]) for k, v in inputs.items() if k != "offset_mapping"}
        with torch.no_grad():
            found = stock(**tensors)
        start, end = found.start_logits[0].tolist(), found.end_logits[0].tolist()
        score, i, j = max((start[i] + end[j], i, j) for i in places for j in places if i <= j)
        text = row.fields["context"][offsets[i][0] : offsets[j][1]].strip()
        assert line["prediction"] == (text if score >= start[0] + end[0] else "")


@pytest.mark.parametrize("method", wide.all_but(METHODS, {"cross-domain"}))
def test_the_example_trains(tmp_path, method):
    """Two steps of each recipe in `examples/`, on a small random model and rows of ours; `docs/test_examples` trains
    all of them."""
    file = Path(__file__).parents[2] / "examples" / f"question-answering-{method}.yaml"
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    folder_of(tmp_path / "model", "bert", 0)
    for domain in ("wiki", "reddit"):
        for name in ("train", "validation", "test", "unlabeled"):
            (tmp_path / "data" / domain).mkdir(parents=True, exist_ok=True)
            write(tmp_path / "data" / domain / f"{name}.jsonl", rows())
    plain = recipe.load(copy)
    model = f"{tmp_path}/model"
    changes = ["training.epochs=null", "training.max_steps=2", "training.batch_size=4", "training.precision=fp32"]
    changes += [f"model={model}" if isinstance(plain.model, str) else f"model={{from: {model}, layers: 1}}"]
    changes += [f"reference={model}"] if plain.reference else []
    run = kt.train(recipe.load(copy, [*changes, "max_length=32"]), display=QUIET)
    assert run.result["status"] == "completed" and run.result["training"]["steps"] == 2
    assert (run.result["objective"]["divergence"] is not None) == (method != "fine-tuning")
    assert (run.result["metrics"]["source"]["after"] is not None) == (method == "cross-domain")


def test_it_learns_its_rows_by_heart(tmp_path):
    given = spec(tmp_path, "fine-tuning")
    file = tmp_path / "student" / "config.json"
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    file.write_text(json.dumps(json.loads(file.read_text()) | dropout))
    given["training"] |= {"epochs": 60, "learning_rate": 5e-3}
    del given["data"]["validation"]
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["metrics"]["test"]["f1"] > 0.85
    empty = [line["prediction"] for line in kt.predict(run.folder, tmp_path / "test.jsonl", display=QUIET)][4]
    assert empty == ""


def test_a_model_trained_on_answers_alone_always_answers(tmp_path):
    given = spec(tmp_path, "fine-tuning")
    write(tmp_path / "train.jsonl", rows(answered=True))
    given["training"]["epochs"] = 1
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert json.loads((run.model / "config.json").read_text())["no_answer"] is False
    assert all(line["prediction"] for line in kt.predict(run.folder, tmp_path / "test.jsonl", display=QUIET))


def test_a_teacher_that_cuts_texts_otherwise_is_refused(tmp_path):
    given = spec(tmp_path, "distillation")
    folder_of(tmp_path / "teacher", "roberta", 1)
    with pytest.raises(UserError, match="cuts these texts into other tokens"):
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)


def test_a_model_without_a_trained_head_is_no_reference(tmp_path):
    given = spec(tmp_path, "cross-domain")
    model, _ = reader("bert")
    model.bert.save_pretrained(tmp_path / "student")
    with pytest.raises(UserError, match=r"qa_outputs.weight.*would be random"):
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)


# Real data


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "right"), [("qa-wiki", 1.0), ("qa-zh-drcd", 400 / 401)])
def test_every_gold_answer_survives_being_cut_into_strides(real_data, minilm, name, right):
    """All but one row of DRCD, whose answer 273.15 is only a part of the token 273.15℃ (15c, after normalising)."""
    lines = (real_data / name / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    those = [Row(fields, name, i + 1, str(i)) for i, fields in enumerate(map(json.loads, lines))]
    task = QuestionAnswering(transformers.AutoTokenizer.from_pretrained(minilm), Settings(max_length=96))
    assert not [fault for row in those for fault in task.faults(row)]
    values = []
    strides = 0
    for row in those:
        examples = task.encode(row)
        batch = task.collate(examples)
        logits = 50.0 * torch.nn.functional.one_hot(batch["targets"].clamp_min(0), batch["open"].shape[1]).float()
        values.append(task.combine(task.decode(task.rows(outputs_of(logits), batch), batch)).value)
        strides += len(examples)
        asked = len(task.tokenizer(row.fields["question"], add_special_tokens=False)["input_ids"])
        assert {e.truncated for e in examples} == {asked > (96 - 3) // 2}  # one of DRCD's questions
    table = task.statistics(values, [task.gold(row) for row in those])
    assert task.scores(table.sum(0))["f1"] == pytest.approx(right)
    assert strides > 3 * len(those)
    wrong = [value for value, line in zip(values, table, strict=True) if line[0] < 1]
    assert wrong == ([] if name == "qa-wiki" else ["273.15℃"])


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_offsets_are_right_for_tokenizers_of_every_kind(real_data, kind):
    lines = (real_data / "qa-wiki" / "validation.jsonl").read_text(encoding="utf-8").splitlines()[:150]
    those = [Row(fields, "f", i + 1, str(i)) for i, fields in enumerate(map(json.loads, lines))]
    trained = tokenizer_training.train(
        TrainTokenizer(train=kind, size=2000), [r.fields["context"] for r in those], ends=True
    )
    task = find("tasks", "question-answering")(trained, Settings(max_length=96))
    for row in those:
        found = []
        for e in task.encode(row):
            a, b = e.targets
            if a > 0:
                found.append(row.fields["context"][e.notes["starts"][a] : e.notes["ends"][b]])
        assert found  # a token may hold more than the answer, such as a bracket before it, but no word more
        assert {task.row_score(text, task.gold(row)) for text in found} == {1.0}
