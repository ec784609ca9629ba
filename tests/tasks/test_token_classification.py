"""Tags of words: schemes and entities as seqeval reads them, legal answers, windows that lose no word, whole runs."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from seqeval import metrics as seqeval
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional

import keeltune as kt
from keeltune import recipe
from keeltune.data.dataset import Row
from keeltune.objective.formula import Counts, Objective
from keeltune.objective.predictions import Dense
from keeltune.tasks.common import tag_schemes
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.common.tag_schemes import legal_path, spans
from keeltune.tasks.common.word_pieces import windows
from keeltune.tasks.metrics._span_f1 import NEVER_LEARNT
from keeltune.tasks.metrics.entity_f1 import EntityF1
from keeltune.tasks.metrics.tag_accuracy import TagAccuracy
from keeltune.tasks.token_classification import TokenClassification
from keeltune.training.preparation.prepare import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from keeltune.utils.text import joined, token_places
from tests.helpers.families import spec
from tests.helpers.runs import lines, write_rows
from tests.helpers.taggers import ARCHITECTURES, ENTITY_NAMES, entity_rows, folder, tagger

QUIET = Display(quiet=True)
LETTERS = {"IOB1": "BIO", "IOB2": "BIO", "IOBES": "BIESO", "IOE": "IEO"}


def drawn(letters: str, count: int, seed: int) -> list[list[str]]:
    """Any tags at all, also such as no scheme has."""
    choose = random.Random(seed)
    tags = ["O"] + [f"{letter}-{kind}" for letter in letters if letter != "O" for kind in ("PER", "A-B")]
    return [[choose.choice(tags) for _ in range(choose.randint(1, 9))] for _ in range(count)]


# Spans and their score


@pytest.mark.parametrize("letters", LETTERS.values())
def test_entities_are_those_that_seqeval_finds(letters):
    golds, values = drawn(letters, 400, 1), drawn(letters, 400, 2)
    values = [(v * 9)[: len(g)] for v, g in zip(values, golds, strict=True)]
    for tags in golds:
        assert spans(tags) == sorted(seqeval.sequence_labeling.get_entities(tags), key=lambda found: found[1])
    metric = EntityF1(Settings(sorted({tag for row in golds for tag in row})))
    table = metric.statistics(values, golds)
    scores = metric.scores(table.sum(0))
    assert float(scores["f1"]) == pytest.approx(seqeval.f1_score(golds, values), abs=1e-12)
    assert float(scores["precision"]) == pytest.approx(seqeval.precision_score(golds, values), abs=1e-12)
    assert float(scores["recall"]) == pytest.approx(seqeval.recall_score(golds, values), abs=1e-12)
    theirs = seqeval.classification_report(golds, values, output_dict=True)
    for kind, found in metric.details(table.sum(0))["by_label"].items():
        assert found["rows"] == theirs[kind]["support"]
        for ours, name in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall")):
            assert found[ours] == pytest.approx(theirs[kind][name], abs=1e-12)


WRITTEN = {
    "IOB2": ("B-PER I-PER B-PER O B-LOC", IOB2),
    "IOB1": ("I-PER I-PER B-PER O I-LOC", IOB1),
    "IOBES": ("B-PER E-PER S-PER O S-LOC", IOBES),
    "BILOU": ("B-PER L-PER U-PER O U-LOC", BILOU),
}


@pytest.mark.parametrize("scheme", WRITTEN)
def test_one_sentence_is_the_same_in_every_scheme(scheme):
    tags, theirs = WRITTEN[scheme][0].split(), WRITTEN[scheme][1]
    assert spans(tags) == [("PER", 0, 1), ("PER", 2, 2), ("LOC", 4, 4)]
    assert seqeval.f1_score([tags], [tags], mode="strict", scheme=theirs) == 1.0
    assert tag_schemes.marks_spans(tags)


def test_kinds_may_be_missing_and_signs_differ():
    assert spans(["B", "I", "O", "B", "B"]) == [("", 0, 1), ("", 3, 3), ("", 4, 4)]
    assert spans(["B_PER", "I_PER", "O"]) == [("PER", 0, 1)]
    assert spans(["B-NN", "M-NN", "E-NN", "S-VV"]) == [("NN", 0, 2), ("VV", 3, 3)]
    assert tag_schemes.closed(["B_PER", "O"]) == ["O", "B_PER", "I_PER"]
    assert tag_schemes.closed(["S-A", "B-A", "E-A", "S-B"]) == ["O", "B-A", "E-A", "S-A", "B-B", "E-B", "S-B"]


@pytest.mark.parametrize(
    ("names", "marked"),
    [(["NOUN", "VERB", "X"], False), (["O", "B-PER"], True), (["B", "I", "O"], True), (["0", "1", "8"], False),
     (["NN", "VB", "O", "M", "I"], False), (["B", "M", "E", "S"], True), (["O"], False)],
)  # fmt: skip
def test_spans_and_kinds_of_words_are_told_apart(names, marked):
    assert tag_schemes.marks_spans(names) is marked


def test_a_type_that_was_never_learnt_counts_as_missed():
    metric = EntityF1(Settings(["O", "B-PER", "I-PER"]))
    sums = metric.statistics([["B-PER", "O"]], [["B-PER", "B-LOC"]]).sum(0)
    assert float(metric.scores(sums)["recall"]) == 0.5
    assert metric.details(sums)["by_label"][NEVER_LEARNT]["rows"] == 1


def test_kinds_of_words_are_scored_as_scikit_learn_scores_them():
    names, choose = ["ADJ", "NOUN", "VERB"], random.Random(3)
    golds = [[choose.choice(names) for _ in range(n)] for n in (1, 4, 7, 30)]
    values = [[choose.choice(names[: 1 + i % 3]) for i in range(len(row))] for row in golds]
    metric = TagAccuracy(Settings(names))
    scores = metric.scores(metric.statistics(values, golds).sum(0))
    flat = [list(itertools.chain(*table)) for table in (golds, values)]
    assert float(scores["accuracy"]) == pytest.approx(accuracy_score(*flat))
    assert float(scores["macro_f1"]) == pytest.approx(f1_score(*flat, average="macro"))


# Legal answers


@pytest.mark.parametrize("letters", ["BIO", "BIESO", "BLIUO"])
def test_the_likeliest_legal_sequence_is_found(letters):
    names = ["O"] + [f"{letter}-{kind}" for kind in "XY" for letter in letters if letter != "O"]
    rng = np.random.default_rng(5)
    for length in (1, 2, 4):
        table = np.log(rng.dirichlet(np.ones(len(names)), size=length))
        legal = [path for path in itertools.product(range(len(names)), repeat=length) if _legal(path, names, letters)]
        best = max(legal, key=lambda path: sum(table[i, tag] for i, tag in enumerate(path)))
        assert tuple(legal_path(table, names)) == best
        assert legal_path(table, names, free=True) == table.argmax(1).tolist()


def _legal(path: tuple[int, ...], names: list[str], letters: str) -> bool:
    """By the words of the schemes, tag by tag."""
    tags = ["O", *(names[i] for i in path), "O"]
    last, alone = ("L", "U") if "L" in letters else ("E", "S")
    for before, tag in itertools.pairwise(tags):
        inside = tag[0] in ("I", last)
        if inside and not (before[0] in "BI" and before[1:] == tag[1:]):
            return False
        if last in letters and before[0] in "BI" and not (inside and before[1:] == tag[1:]):
            return False
        assert alone not in letters or before[0] in letters
    return True


# What is read: every word once, at its first token


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_and_its_gradient_are_those_of_float64(architecture):
    model, task = tagger(architecture, names=ENTITY_NAMES, kind=TokenClassification)
    model = model.double()
    batch = task.collate([e for row in entity_rows() for e in task.encode(row)])
    words = sum(len(row.fields["tokens"]) for row in entity_rows())
    assert task.counts(batch)[0] == len(batch["targets"]) == words
    logits = model(**batch["inputs"]).logits
    labels = torch.full(batch["predicted"].shape, -100)
    labels[batch["predicted"]] = batch["targets"]
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / words
    wanted = torch.autograd.grad(expected, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    terms = Objective()(task.sliced_cross_entropy(batch), task.rows(model(**batch["inputs"]), batch),
                        counts=Counts(words, 0))  # fmt: skip
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    found = torch.autograd.grad(terms.loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    for ours, theirs in zip(found, wanted, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_divergence_is_over_the_tags_word_by_word():
    _, task = tagger("bert", names=ENTITY_NAMES, kind=TokenClassification)
    examples = [e for row in entity_rows() for e in task.encode(row)]
    batch = task.collate(examples)
    shape = (*batch["predicted"].shape, len(ENTITY_NAMES))
    student, teacher = (torch.randn(shape, generator=torch.Generator().manual_seed(n)).double() for n in (0, 1))
    rows = [task.rows(SimpleNamespace(logits=logits), batch) for logits in (student, teacher)]
    p, q = (logits[batch["predicted"]].log_softmax(-1) for logits in (student, teacher))
    assert Objective().total(*rows).item() == pytest.approx((p.exp() * (p - q)).sum().item(), rel=1e-12)
    assert Objective().total(rows[0], Dense(student[batch["predicted"]])).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("lengths", [[1] * 10, [3, 1, 4, 1, 5, 2, 6, 5, 3, 5], [7] * 3, [1]])
@pytest.mark.parametrize("room", [7, 9, 40])
def test_windows_hold_every_word_and_fit(lengths, room):
    found = windows(lengths, room, room // 2)
    assert found[0][0] == 0 and found[-1][1] == len(lengths)
    assert all(sum(lengths[a:b]) <= room and a < b for a, b in found)
    assert all(a < c <= b < d for (a, b), (c, d) in itertools.pairwise(found))


def long_row(count: int) -> Row:
    words, tags = [], []
    for number in range(count):
        row = entity_rows()[number % 8].fields
        words += row["tokens"]
        tags += row["tags"]
    return Row({"tokens": words, "tags": tags}, "f", 1, "long")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_long_text_is_read_in_windows_and_no_word_is_lost(architecture):
    model, task = tagger(architecture, names=ENTITY_NAMES, kind=TokenClassification, max_length=20)
    row = long_row(12)
    examples = task.encode(row)
    assert len(examples) > 3 and all(len(e.inputs["input_ids"]) <= 20 for e in examples)
    assert [e.key for e in examples] == [f"long#{n}" for n in range(len(examples))]
    told = [word for e in examples for word in range(e.notes["first"], e.notes["first"] + len(e.targets))]
    assert told == list(range(len(row.fields["tokens"])))
    assert [ENTITY_NAMES[t] for e in examples for t in e.targets] == row.fields["tags"]
    heads = [e.inputs["input_ids"][i] for e in examples for i, is_head in enumerate(e.predicted) if is_head]
    assert heads == [ids[0] for ids in task.pieces(row.fields["tokens"])]
    parts = task.predict(model, examples)
    answer = task.combine(parts)
    assert len(answer.value) == len(told) and answer.count == len(told)
    assert legal_path(np.concatenate([p.part for p in parts]), ENTITY_NAMES) == [
        ENTITY_NAMES.index(tag) for tag in answer.value
    ]


def test_a_word_longer_than_the_room_is_cut_and_still_answered():
    model, task = tagger("roberta", names=ENTITY_NAMES, kind=TokenClassification, max_length=5)
    row = Row({"tokens": ["the", "catfishfishfishcat", "ran"], "tags": ["O", "B-PER", "O"]}, "f", 1, "k")
    examples = task.encode(row)
    assert any(e.truncated for e in examples)
    assert len(task.combine(task.predict(model, examples)).value) == 3


def test_another_reader_reads_the_same_words_in_each_window():
    """A teacher with another tokenizer: as many windows, of the same words."""
    _, companion = tagger("roberta", names=ENTITY_NAMES, kind=TokenClassification, max_length=24)
    _, task = tagger("bert", names=ENTITY_NAMES, kind=TokenClassification, max_length=20)
    task = TokenClassification(task.processor, task.settings, {"reference_0": companion})
    examples = task.encode_for_all(long_row(12))
    batch = task.collate(examples)
    for example in examples:
        other = example.others["reference_0"]
        shared = range(other.notes["first"], other.notes["first"] + len(other.targets))
        own = range(example.notes["first"], example.notes["first"] + len(example.targets))
        assert set(shared) <= set(own) and len(other.inputs["input_ids"]) <= 24
    covered = batch["reference_0"].get("covered")
    assert covered is None or covered.sum() == sum(len(e.others["reference_0"].targets) for e in examples)
    assert covered is None or covered.float().mean() > 0.7


# Texts, and where entities are in them


@pytest.mark.parametrize(
    ("text", "words"),
    [("Dr. Who's 3.5 km from Oslo!", ["Dr", ".", "Who's", "3.5", "km", "from", "Oslo", "!"]),
     ("我住在北京。", ["我", "住", "在", "北", "京", "。"]), ("a\u00a0b\n c", ["a", "b", "c"]),
     ("«Ça» va?!", ["«", "Ça", "»", "va", "?", "!"])],
)  # fmt: skip
def test_a_text_is_cut_into_words_and_signs(text, words):
    places = token_places(text)
    assert [text[a:b] for a, b in places] == words
    assert "".join(words) == "".join(text.split())  # every visible character


def test_words_are_set_side_by_side_as_their_script_has_it():
    assert joined(["New", "York", "!"])[0] == "New York !"
    text, places = joined(["我", "住", "in", "Oslo"])
    assert text == "我住in Oslo" and [text[a:b] for a, b in places] == ["我", "住", "in", "Oslo"]


# The data


def material(place: Path, rows: list[dict[str, Any]], **data: Any) -> Any:
    given = spec(place, "token-classification", "bert", "fine-tuning")
    write_rows(place / "rows.jsonl", rows)
    given["data"] |= data
    return prepare(recipe.from_dict({**given, "output": "out"}, place))


def test_numbers_get_their_names_from_the_recipe(tmp_path):
    rows = [{"tokens": ["in", "Paris"], "tags": [0, 1]}, {"tokens": ["Mary", "Lee"], "tags": [3, 4]}] * 3
    labels = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    made = material(tmp_path, rows, labels=labels)
    assert list(made.task.settings.labels) == labels
    assert made.rows["train"][1].fields["tags"] == ["B-PER", "I-PER"]
    assert made.task.metrics[0] == "f1"
    bare = material(tmp_path, rows)
    assert bare.task.metrics[0] == "accuracy" and any("data.labels: [O, B-PER" in said for said in bare.notices)


def test_names_are_mapped_tag_by_tag(tmp_path):
    rows = [{"tokens": ["in", "Paris"], "tags": ["O", "B-city"]}, {"tokens": ["Mary"], "tags": ["B-PER"]}] * 3
    made = material(tmp_path, rows, labels={"B-city": "B-LOC", "B-PER": "B-PER", "O": "O"})
    assert set(made.task.settings.labels) >= {"B-LOC", "B-PER", "O"} and "B-city" not in made.task.settings.labels
    assert made.rows["train"][0].fields["tags"] == ["O", "B-LOC"]


def test_tags_of_two_kinds_are_refused(tmp_path):
    rows = [{"tokens": ["in", "Paris"], "tags": ["NOUN", "B-LOC"]}, {"tokens": ["Mary", "ran"], "tags": ["B-PER", "O"]}]
    with pytest.raises(UserError, match="NOUN beside B-"):
        material(tmp_path, rows * 3)
    with pytest.raises(UserError, match="2 tags for 1 tokens"):
        material(tmp_path, [{"tokens": ["in"], "tags": ["O", "O"]}] * 4)


# Whole runs


def test_iob1_is_told_from_the_rows_kept_in_the_model_and_answered(tmp_path):
    given = spec(tmp_path, "token-classification", "bert", "fine-tuning")
    tags = {"B-PER": "I-PER", "B-LOC": "I-LOC"}
    rows = [{**row.fields, "tags": [tags.get(tag, tag) for tag in row.fields["tags"]]} for row in entity_rows()]
    rows.append({"tokens": ["Mary", "Ann"], "tags": ["I-PER", "B-PER"]})  # touching, of the same kind
    write_rows(tmp_path / "rows.jsonl", rows)
    given["training"] |= {"max_steps": 60, "learning_rate": 5e-3}
    run = kt.train(recipe.from_dict({**given, "output": "out"}, tmp_path), display=QUIET)
    assert json.loads((run.model / "config.json").read_text(encoding="utf-8"))["tag_scheme"] == "IOB1"
    answers = [tag for line in lines(run.folder / "predictions" / "test.jsonl") for tag in line["prediction"]]
    assert sum(tag.startswith("I-") for tag in answers) > sum(tag.startswith("B-") for tag in answers)
    assert run.result["metrics"]["test"]["f1"] > 0.5
    again = kt.predict(run.folder, tmp_path / "rows.jsonl", display=QUIET)
    assert [tag for line in again for tag in line["prediction"]] == answers


def test_a_run_learns_and_answers_texts_with_the_places_of_entities(tmp_path):
    given = spec(tmp_path, "token-classification", "bert", "fine-tuning")
    given["training"] |= {"max_steps": 60, "learning_rate": 5e-3}
    run = kt.train(recipe.from_dict({**given, "output": "out"}, tmp_path), display=QUIET)
    assert run.result["metrics"]["test"]["f1"] > 0.7
    assert set(run.result["metrics"]["test"]["by_label"]) == {"PER", "LOC"}
    low, high = run.result["intervals"]["test"]["f1"]
    assert low <= run.result["metrics"]["test"]["f1"] <= high
    answer = kt.load(run.folder)("he said Mary Ann Lee ran")
    assert answer["prediction"] == ["O", "O", "B-PER", "I-PER", "I-PER", "O"]
    assert answer["entities"] == [{"type": "PER", "text": "Mary Ann Lee", "start": 8, "end": 20, "words": [2, 4]}]
    (of_words,) = kt.load(run.folder)([{"tokens": ["Mary", "Ann", "ran", "!"]}])
    assert [e["text"] for e in of_words["entities"]] == ["Mary Ann"]
    scores = kt.evaluate(run.folder, tmp_path / "rows.jsonl", display=QUIET)
    assert scores["metrics"]["f1"] == pytest.approx(run.result["metrics"]["test"]["f1"])
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "PER" in page and "LOC" in page


def test_a_teacher_with_another_tokenizer_and_unlabelled_texts(tmp_path):
    given = spec(tmp_path, "token-classification", "bert", "distillation")
    folder(tmp_path / "teacher2", "roberta", 3, list(reversed(ENTITY_NAMES)), TokenClassification)
    write_rows(tmp_path / "pool.jsonl", [{"tokens": "Mary ran in Paris ."}, {"tokens": long_row(20).fields["tokens"]}])
    given |= {"reference": "teacher2", "max_length": 24}
    given["data"] |= {"unlabeled": "pool.jsonl"}
    run = kt.train(recipe.from_dict({**given, "output": "out"}, tmp_path), display=QUIET)
    assert run.result["status"] == "completed" and run.result["objective"]["divergence"] > 0
