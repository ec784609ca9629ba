"""Tagging: what is read, what is predicted, legal answers, arguments counted as srl-eval counts, whole runs."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

import keeltune as kt
from keeltune import recipe
from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED
from keeltune.tasks.common.tag_schemes import legal_path
from keeltune.tasks.common.word_pieces import frame_of, window
from keeltune.tasks.metrics._span_f1 import NEVER_LEARNT
from keeltune.tasks.metrics.argument_f1 import arguments
from keeltune.tasks.semantic_role_labeling import SemanticRoleLabeling
from keeltune.training.preparation import prepare, splits
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import wide
from tests.helpers.families import METHODS
from tests.helpers.taggers import ARCHITECTURES, NAMES, SENTENCES, folder, pieces_of, rows, spec, tagger, write

QUIET = Display(quiet=True)


def examples_of(task: Any) -> list[Any]:
    return [e for row in rows() for e in task.encode(row)]


def log_probs(task: Any, model: Any, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return task.rows(task.forward(model, batch), batch).log_probs(slice(None))


# Losses


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_is_the_models_own_times_its_count(architecture):
    model, task = tagger(architecture)
    batch = task.collate(examples_of(task))
    ours = task.cross_entropy(task.rows(task.forward(model, batch), batch), batch).item()
    labels = torch.full(batch["predicted"].shape, IGNORED)
    labels[batch["predicted"]] = batch["targets"]
    words = sum(len(row.fields["tokens"]) for row in rows())
    assert ours == pytest.approx(model(**batch["inputs"], labels=labels).loss.item() * words, rel=1e-6)
    assert task.counts(batch)[0] == len(batch["targets"]) == words


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_changes_nothing(architecture):
    model, task = tagger(architecture)
    examples = examples_of(task)
    together = log_probs(task, model, task.collate(examples))
    alone = torch.cat([log_probs(task, model, task.collate([example])) for example in examples])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    answers = task.predict(model, examples)
    assert [a.value for a in answers] == [task.predict(model, [e])[0].value for e in examples]
    assert [len(a.value) for a in answers] == [len(row.fields["tokens"]) for row in rows()]
    assert sum(a.count for a in answers) == len(together)
    batch = task.collate(examples)
    total = functional.cross_entropy(together.double(), batch["targets"], reduction="sum").item()
    assert sum(a.loss for a in answers) == pytest.approx(total, rel=1e-6)


def test_rows_are_padded_at_the_right_whatever_side_the_tokenizer_prefers():
    _, task = tagger("bert")
    examples = examples_of(task)
    right = task.collate(examples)
    task.tokenizer.padding_side = "left"
    left = task.collate(examples)
    assert all(torch.equal(left["inputs"][name], value) for name, value in right["inputs"].items())
    assert torch.equal(left["predicted"], right["predicted"])
    first = right["inputs"]["input_ids"][right["predicted"]][: len(rows()[0].fields["tokens"])]
    heads = [ids[0] for ids in task.pieces(rows()[0].fields["tokens"])]
    assert first.tolist() == heads  # a prediction a word, at its first token


def test_class_weights_multiply_a_words_loss():
    weights = {name: 0.5 if name == "O" else 2.0 for name in NAMES}
    _, task = tagger("bert", class_weights=weights)
    batch = task.collate(examples_of(task))
    outs = sum(row.fields["tags"].count("O") for row in rows())
    assert task.counts(batch)[0] == 0.5 * outs + 2 * (len(batch["targets"]) - outs)
    logits = torch.randn(*batch["predicted"].shape, len(NAMES), dtype=torch.float64)
    ours = task.cross_entropy(task.rows(SimpleNamespace(logits=logits), batch), batch)
    table = torch.tensor([weights[name] for name in NAMES], dtype=torch.float64)
    expected = functional.cross_entropy(logits[batch["predicted"]], batch["targets"], weight=table, reduction="sum")
    torch.testing.assert_close(ours, expected)


def test_a_reference_with_its_labels_in_another_order_is_permuted():
    _, task = tagger("bert")
    batch = task.collate(examples_of(task))
    logits = torch.randn(*batch["predicted"].shape, len(NAMES))
    theirs = list(reversed(NAMES))
    shuffled = logits[..., [NAMES.index(name) for name in theirs]]
    order = [theirs.index(name) for name in NAMES]
    found = task.rows(SimpleNamespace(logits=shuffled), batch, order).log_probs(slice(None))
    assert torch.equal(found, logits[batch["predicted"]].log_softmax(-1))


# What is read


def spelt(task: Any, example: Any) -> str:
    return " ".join(task.tokenizer.convert_ids_to_tokens(example.inputs["input_ids"]))


def test_bert_reads_the_predicate_and_the_marked_sentence_as_two_segments():
    _, task = tagger("bert")
    (example,) = task.encode(rows()[2])
    assert spelt(task, example) == "[CLS] ran [SEP] the man who [SEP] ran [SEP] ran [SEP]"
    assert example.inputs["token_type_ids"] == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert [i for i, place in enumerate(example.predicted) if place] == [3, 4, 5, 7, 9]
    assert [NAMES[t] for t in example.targets] == rows()[2].fields["tags"]
    (other,) = task.encode(rows()[3])  # the same word, the other time
    assert spelt(task, other) == "[CLS] ran [SEP] the man who ran [SEP] ran [SEP] [SEP]"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_which_of_two_equal_words_is_meant_reaches_the_model(architecture):
    model, task = tagger(architecture)
    one, other = (log_probs(task, model, task.collate(task.encode(rows()[i]))) for i in (2, 3))
    assert (one - other).abs().max() > 1e-3


def test_byte_level_tokenizers_get_words_with_a_space_before_them():
    _, task = tagger("roberta")
    (example,) = task.encode(rows()[2])
    assert spelt(task, example) == "<s> Ġran </s> </s> Ġthe Ġman Ġwho </s> Ġran </s> Ġran </s>"
    _, task = tagger("gpt2")
    (example,) = task.encode(rows()[2])
    end = "<|endoftext|>"
    assert spelt(task, example) == f"Ġran {end} Ġthe Ġman Ġwho {end} Ġran {end} Ġran"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_words_are_cut_as_the_tokenizer_cuts_words(architecture):
    _, task = tagger(architecture)
    words = [*sorted({w for text, _, _ in SENTENCES for w in text.split()}), "Straße", "catfish", "naïve"]
    tokenizer = task.tokenizer
    if task.space:
        kind = type(tokenizer)
        state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        merges = [tuple(merge) for merge in state["merges"]]
        tokenizer = kind(vocab=state["vocab"], merges=merges, add_prefix_space=True)
    split = tokenizer(words, is_split_into_words=True, add_special_tokens=False)
    by_word = [
        [i for i, w in zip(split["input_ids"], split.word_ids(), strict=True) if w == n] for n in range(len(words))
    ]
    assert task.pieces(words) == by_word


def test_a_word_of_which_nothing_is_left_is_unknown_and_a_special_tokens_name_is_text():
    _, task = tagger("bert")
    words = ["the", "\u200b", "[SEP]", "ran"]
    row = Row({"tokens": words, "predicate_index": 3, "tags": ["B-ARG0", "O", "O", "B-V"]}, "f", 1, "k")
    unknown = task.tokenizer.unk_token_id
    assert task.pieces(words)[1] == [unknown]
    assert task.tokenizer.sep_token_id not in task.pieces(words)[2]
    (example,) = task.encode(row)
    assert len(example.targets) == 4
    model, _ = tagger("bert")
    assert len(task.predict(model, [example])[0].value) == 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_long_sentence_keeps_the_words_around_its_predicate(architecture):
    model, task = tagger(architecture, max_length=24)
    words = ["cat"] * 40 + ["ran"] + ["fish"] * 3
    tags = ["B-ARG0"] + ["I-ARG0"] * 39 + ["B-V"] + ["B-ARG1"] * 3
    row = Row({"tokens": words, "predicate_index": 40, "tags": tags}, "f", 1, "k")
    (example,) = task.encode(row)
    assert example.truncated
    assert len(example.inputs["input_ids"]) == 24
    first, read = example.notes["first"], len(example.targets)
    assert first + read == 44  # all that stands behind the predicate
    assert [NAMES[t] for t in example.targets] == tags[first:]
    behind = spelt(task, example).split()[-9:]
    assert "ran" in behind or "Ġran" in behind
    (answer,) = task.predict(model, [example])
    assert len(answer.value) == 44
    assert answer.value[:first] == ["O"] * first
    assert answer.count == read


def test_a_window_takes_words_from_both_sides_in_turn():
    pieces = [[1], [2, 2], [3], [4, 4, 4], [5]]
    assert window(pieces, 2, 8) == (0, pieces)
    assert window(pieces, 2, 4) == (2, [[3], [4, 4, 4]])
    assert window(pieces, 2, 5) == (1, [[2], [3], [4, 4, 4]])
    assert window(pieces, 4, 3) == (3, [[4, 4], [5]])
    assert window(pieces, 0, 1) == (0, [[1]])
    assert window([[1] * 9], 0, 4) == (0, [[1] * 4])


def test_no_room_for_a_word_is_a_fault_of_the_recipe():
    _, task = tagger("bert", max_length=6)
    (fault,) = task.recipe_faults()
    assert fault.field == "max_length"
    assert "at least 7" in fault.expected
    _, task = tagger("bert", max_length=7)
    assert not list(task.recipe_faults())
    assert all(len(e.inputs["input_ids"]) <= 7 and e.targets for e in examples_of(task))


def test_segments_that_a_model_lacks_are_not_asked_for():
    tokenizer = pieces_of("bert")
    assert frame_of(tokenizer).around([5], [6])[0]["token_type_ids"] == [0, 0, 0, 1, 1]
    assert frame_of(tokenizer, 1).around([5], [6])[0]["token_type_ids"] == [0] * 5


# Labels and answers


def test_the_inventory_is_closed_under_begin_and_inside():
    closed = SemanticRoleLabeling.label_inventory(["I-ARG1", "B-V", "B-ARG0", "B-C-ARG1", "B-ARG1"])
    assert " ".join(closed) == "O B-ARG0 I-ARG0 B-ARG1 I-ARG1 B-C-ARG1 I-C-ARG1 B-V I-V"
    assert SemanticRoleLabeling.label_inventory(closed) == closed


def legal(tags: tuple[str, ...]) -> bool:
    return all(not t.startswith("I-") or before[2:] == t[2:] for before, t in zip(("O", *tags), tags, strict=False))


@pytest.mark.parametrize(
    "names", [["O", "B-A", "I-A", "B-B", "I-B"], ["I-A", "B-B", "O", "I-B", "B-A"], ["I-C", "B-A", "O"]]
)
def test_the_answer_is_the_likeliest_legal_sequence(names):
    random = np.random.default_rng(0)
    for trial in range(60):
        n = 1 + trial % 5
        table = random.normal(size=(n, len(names))) * 3
        table -= np.log(np.exp(table).sum(-1, keepdims=True))
        path = legal_path(table, names)
        every = [p for p in itertools.product(range(len(names)), repeat=n) if legal(tuple(names[i] for i in p))]
        best = max(every, key=lambda p: sum(table[i, t] for i, t in enumerate(p)))
        assert path == list(best)


def test_a_tag_never_learnt_is_not_trained_on_and_counts_as_missed():
    _, task = tagger("bert")
    tags = ["B-ARG0", "B-V", "B-ARG9"]
    row = Row({"tokens": ["he", "said", "fish"], "predicate_index": 1, "tags": tags}, "f", 1, "k")
    (example,) = task.encode(row)
    assert list(example.targets)[2] == IGNORED
    assert example.labelled == 2
    sums = task.statistics([["B-ARG0", "B-V", "O"]], [task.gold(row)]).sum(0)
    assert {k: float(v) for k, v in task.scores(sums).items()} == pytest.approx(
        {"f1": 2 / 3, "precision": 1.0, "recall": 0.5}
    )
    assert task.details(sums)["by_label"][NEVER_LEARNT] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 1}


# The metric


@pytest.mark.parametrize(
    ("gold", "predicted", "counts"),
    [  # right, predicted, gold
        ("B-A0 B-V B-A1 I-A1", "B-A0 B-V B-A1 I-A1", (2, 2, 2)),
        ("B-A0 B-V B-A1 I-A1", "B-A0 B-V B-A1 O", (1, 2, 2)),  # a word short
        ("B-A0 B-V B-A1 I-A1", "B-A0 B-V B-A2 I-A2", (1, 2, 2)),  # another role
        ("B-A0 B-V B-A1 I-A1", "B-A0 B-V B-A1 B-A1", (1, 3, 2)),  # two for one
        ("B-A0 B-V O O", "B-A0 O O O", (1, 1, 1)),  # V is left out
        ("B-V B-A1 B-C-V O", "B-V B-A1 O O", (1, 1, 1)),  # and C-V with it
        ("O O B-C-V O", "O O O O", (0, 0, 0)),  # also without a V
        ("B-A1 B-V O B-C-A1", "B-A1 B-V O B-C-A1", (1, 1, 1)),  # one argument of two parts
        ("B-A1 B-V O B-C-A1", "B-A1 B-V O O", (0, 1, 1)),  # one part is not enough
        ("B-A1 B-V O B-C-A1", "B-A1 B-V O B-A1", (0, 2, 1)),  # nor are two arguments
        ("B-A1 B-V O B-C-A1", "O B-V O B-C-A1", (0, 1, 1)),
        ("O B-V O B-C-A1", "O B-V O B-A1", (1, 1, 1)),  # C-X without an X is an X
        ("B-A1 B-A1 B-V B-C-A1", "B-A1 B-A1 B-V O", (1, 2, 2)),  # it goes on with the last X
        ("B-A1 B-C-A1 B-V B-C-A1", "B-A1 B-C-A1 B-V B-C-A1", (1, 1, 1)),  # three parts
        ("B-A0 B-R-A0 B-V O", "B-A0 B-A0 B-V O", (1, 2, 2)),  # R-X is a role of its own
        ("I-A0 I-A0 B-V I-A1", "B-A0 I-A0 B-V B-A1", (2, 2, 2)),  # I- without B-, as in conlleval
        ("B-A0 I-A1 B-V O", "B-A0 B-A1 B-V O", (2, 2, 2)),
        ("O O B-V O", "O O B-V O", (0, 0, 0)),
    ],
)  # fmt: skip
def test_arguments_are_counted_as_srl_eval_counts_them(gold, predicted, counts):
    names = SemanticRoleLabeling.label_inventory([f"B-{x}" for x in ("A0", "A1", "A2", "R-A0", "C-A1", "V", "C-V")])
    _, task = tagger("bert", names=names)
    sums = task.statistics([predicted.split()], [gold.split()]).sum(0)
    assert sums.reshape(3, -1).sum(-1).tolist() == list(counts)
    right, guessed, there = counts
    expected = 2 * right / (guessed + there) if guessed + there else 0.0
    assert float(task.scores(sums)["f1"]) == pytest.approx(expected)
    assert task.row_score(predicted.split(), gold.split()) == pytest.approx(expected if guessed + there else 1.0)


def counted_by_hand(tags: list[str]) -> Counter[tuple[str, str]]:
    """Another way to the arguments of legal BIO: each word's part of which argument, written as one string."""
    owner: list[str | None] = []
    newest: dict[str, int] = {}
    number = 0
    for tag in tags:
        side, _, kind = tag.partition("-")
        if side == "O":
            owner.append(None)
        elif side == "I":
            owner.append(owner[-1])
        else:
            role = kind[2:] if kind.startswith("C-") else kind
            if not (kind.startswith("C-") and role in newest):
                number += 1
                newest[role] = number
            owner.append(f"{newest[role]}:{role}")
    begins = [tag.startswith("B-") for tag in tags]
    shapes = {
        name: "".join(("(" if b else "-") if name == o else "." for o, b in zip(owner, begins, strict=True))
        for name in owner
        if name
    }
    return Counter((name.split(":")[1], shape) for name, shape in shapes.items() if not name.endswith(":V"))


def test_the_metric_agrees_with_another_count_on_random_tags():
    """Counted as srl-eval.pl does: its own output on such tags was the same, role by role, when this was written."""
    kinds = ["A0", "A1", "C-A1", "R-A0", "V", "C-V", "C-A0"]
    _, task = tagger("bert", names=SemanticRoleLabeling.label_inventory([f"B-{kind}" for kind in kinds]))
    random = np.random.default_rng(1)

    def sentence() -> list[str]:
        tags: list[str] = []
        for _ in range(int(random.integers(1, 9))):
            inside = f"I-{tags[-1][2:]}" if tags and tags[-1] != "O" else "O"
            tags.append(str(random.choice([inside, inside, "O", f"B-{random.choice(kinds)}"])))
        return tags

    def near(tags: list[str]) -> list[str]:
        changed = [t if random.random() < 0.8 else "O" for t in tags]
        return [
            f"B-{t[2:]}" if t[0] == "I" and (i == 0 or changed[i - 1][2:] != t[2:]) else t
            for i, t in enumerate(changed)
        ]

    golds = [sentence() for _ in range(400)]
    values = [near(gold) for gold in golds]
    right = guessed = there = 0
    by_role: Counter[str] = Counter()
    for value, gold in zip(values, golds, strict=True):
        one, other = counted_by_hand(value), counted_by_hand(gold)
        both = (one & other).total()
        right, guessed, there = right + both, guessed + one.total(), there + other.total()
        by_role.update(role for role, _ in other.elements())
        assert task.row_score(value, gold) == pytest.approx(2 * both / (one + other).total() if one or other else 1.0)
    assert 50 < right < there
    statistics = task.statistics(values, golds)
    sums = statistics.sum(0)
    found = {name: float(value) for name, value in task.scores(sums).items()}
    assert found == pytest.approx(
        {"f1": 2 * right / (guessed + there), "precision": right / guessed, "recall": right / there}
    )
    details = task.details(sums)["by_label"]
    assert {role: line["rows"] for role, line in details.items()} == dict(by_role)
    assert set(details) == {"A0", "A1", "R-A0"}
    several = task.scores(np.stack([sums, statistics[:9].sum(0)]))
    assert all(value.shape == (2,) for value in several.values())


# A reference that reads rows otherwise


def test_a_reference_that_cuts_a_row_elsewhere_is_compared_on_the_words_that_both_read():
    model, student = tagger("bert", max_length=16)
    other, reader = tagger("roberta", seed=1, max_length=15)
    task = SemanticRoleLabeling(student.processor, student.settings, {"reference_0": reader})
    made = []
    for row in rows():
        (example,) = task.encode(row)
        made.append(taught(example, reader.encode(row)[0]))
    windows = [(e.notes["first"], len(e.targets)) for e in made]
    theirs = [(e.others["reference_0"].notes["first"], len(e.others["reference_0"].targets)) for e in made]
    assert windows != theirs
    batch = task.collate(made)
    found = task.rows(task.forward(model, batch), batch)
    reference = reader.rows(reader.forward(other, batch["reference_0"]), batch["reference_0"])
    assert len(found) == len(reference) == len(batch["anchored"])
    assert 0 < batch["anchored"].sum() < len(found)
    at = 0
    for row, (first, n) in zip(rows(), windows, strict=True):
        (alone,) = reader.encode(row)
        own = log_probs(reader, other, reader.collate([alone]))
        for word in range(first, first + n):
            there = alone.notes["first"] <= word < alone.notes["first"] + len(alone.targets)
            assert bool(batch["anchored"][at]) == there
            if there:
                torch.testing.assert_close(
                    reference.log_probs(slice(at, at + 1))[0], own[word - alone.notes["first"]], rtol=1e-5, atol=1e-5
                )
            at += 1


def taught(example: Any, other: Any) -> Any:
    return replace(example, anchored=True, others={"reference_0": other})


# Whole runs


@pytest.mark.parametrize("method", wide.all_but(METHODS, {"distillation", "cross-domain"}))
def test_a_run_trains_saves_and_predicts_the_same(tmp_path, method):
    given = spec(tmp_path, method)
    del given["data"]["validation"]
    if method == "distillation":
        unlabelled = [{k: v for k, v in row.fields.items() if k != "tags"} for row in rows()]
        given["data"]["unlabeled"] = write(tmp_path / "unlabeled.jsonl", unlabelled)
    if method == "cross-domain":
        given["data"]["source"] = {"test": given["data"]["test"]}
        # rows that lack a role of the source: the head keeps its own names
        given["data"]["train"] = write(tmp_path / "train.jsonl", [row.fields for row in rows()[1:5]])
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    result = run.result
    assert result["status"] == "completed"
    before, after = result["metrics"]["before"]["test"], result["metrics"]["test"]
    assert after["loss"] < before["loss"]
    assert next(iter(after)) == "f1"
    low, high = result["intervals"]["test"]["f1"]
    assert low <= after["f1"] <= high
    assert set(after["by_label"]) == {"ARG0", "ARG1", "ARGM-LOC", "R-ARG0"}
    assert (result["objective"]["divergence"] is None) == (method == "fine-tuning")
    assert (result["metrics"]["source"]["after"] is None) == (method != "cross-domain")
    stored = [json.loads(line) for line in (run.folder / "predictions" / "test.jsonl").read_text().splitlines()]
    again = kt.predict(run.folder, tmp_path / "test.jsonl", display=QUIET)
    assert [line["prediction"] for line in again] == [line["prediction"] for line in stored]
    assert kt.evaluate(run.folder, tmp_path / "test.jsonl", display=QUIET)["metrics"] == pytest.approx(
        {name: value for name, value in after.items() if isinstance(value, float)}
    )
    stock = transformers.AutoModelForTokenClassification.from_pretrained(run.model)
    assert list(stock.config.id2label.values()) == NAMES
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.model)
    words, place = rows()[2].fields["tokens"], rows()[2].fields["predicate_index"]
    marked = [*words[:place], "[SEP]", words[place], "[SEP]", *words[place + 1 :]]
    inputs = tokenizer(words[place], " ".join(marked), return_tensors="pt")  # what any user of transformers can write
    with torch.no_grad():
        choices = stock(**inputs).logits[0, [3, 4, 5, 7, 9]].log_softmax(-1)
    path = legal_path(choices.numpy(), NAMES)
    assert [NAMES[i] for i in path] == stored[2]["prediction"]


def test_a_teacher_of_another_kind_is_asked_about_the_same_words(tmp_path):
    """Its labels come in the reverse order: a student that starts as its copy is at no distance from it."""
    given = spec(tmp_path, "distillation", teacher="bert")
    model, _ = tagger("bert")
    reverse = list(reversed(NAMES))
    twin, _ = tagger("bert", names=reverse)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        order = [NAMES.index(name) for name in reverse]
        twin.classifier.weight.copy_(model.classifier.weight[order])
        twin.classifier.bias.copy_(model.classifier.bias[order])
    twin.save_pretrained(tmp_path / "teacher")
    given["training"] |= {"learning_rate": 1e-12, "epochs": 1}
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (tmp_path / "student" / "config.json").write_text(json.dumps(config))
    result = kt.train(recipe.from_dict(given, tmp_path), display=QUIET).result
    assert result["objective"]["divergence"] == pytest.approx(0.0, abs=1e-6)


def test_labels_of_evaluation_alone_are_a_warning_and_v_elsewhere_a_notice(tmp_path):
    given = spec(tmp_path, "fine-tuning")
    lines = [row.fields for row in rows()]
    given["data"]["test"] = write(tmp_path / "test.jsonl", [{**lines[6], "tags": ["B-ARG7", "B-V"]}, *lines[:2]])
    given["data"]["train"] = write(tmp_path / "train.jsonl", [{**lines[6], "predicate_index": 0}, *lines])
    material = prepare.prepare(recipe.from_dict(given, tmp_path))
    assert list(material.task.settings.labels) == NAMES
    (warning,) = [w for w in material.warnings if w.kind == "label never learnt"]
    assert '"B-ARG7"' in warning.found
    assert warning.where.endswith("test.jsonl:1")
    assert "1 of 9 rows have V at another word than predicate_index" in material.notices


def test_balanced_weights_count_words(tmp_path):
    given = spec(tmp_path, "fine-tuning")
    given["data"]["class_weights"] = "balanced"
    weights = prepare.prepare(recipe.from_dict(given, tmp_path)).task.settings.class_weights
    tags = [tag for row in rows() for tag in row.fields["tags"]]
    assert weights["O"] == pytest.approx(len(tags) / (len(NAMES) * tags.count("O")))


BAD = [
    ({"tags": ["B-ARG0"]}, "tags", "1 tags for 2 tokens"),
    ({"tags": ["I-ARG0", "B-V"]}, "tags", 'write "B-ARG0"'),
    ({"tags": ["B-ARG1", "I-ARG0"]}, "tags", 'write "B-ARG0"'),
    ({"tags": ["ARG0", "B-V"]}, "tags", "O, B-ROLE or I-ROLE"),
    ({"tags": ["B-", "B-V"]}, "tags", "O, B-ROLE or I-ROLE"),
    ({"predicate_index": 2}, "predicate_index", "0 to 1"),
    ({"predicate_index": -1}, "predicate_index", "a whole number from 0"),
    ({"predicate_index": "one"}, "predicate_index", "a whole number from 0"),
    ({"tokens": []}, "tokens", "a list of words"),
    ({"tokens": "Mary ran"}, "tokens", "a list of words"),
    ({"tokens": ["Mary", ""]}, "tokens", "a list of words"),
    ({"tags": None}, "tags", "a list of words"),
]


def test_bad_rows_are_refused_with_file_row_and_field(tmp_path):
    given = spec(tmp_path, "fine-tuning")
    lines = [row.fields for row in rows()]
    write(tmp_path / "train.jsonl", [*lines[:3], *({**lines[6], **change} for change, _, _ in BAD)])
    with pytest.raises(UserError) as refused:
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert refused.value.exit_status == 2
    problems = {problem.where: problem for problem in refused.value.problems}
    assert len(refused.value.problems) == len(problems) == len(BAD)
    for number, (_, field, said) in enumerate(BAD):
        problem = problems[f"{tmp_path / 'train.jsonl'}:{4 + number}"]
        assert problem.field == field
        assert said in str(problem)
    given["data"]["bad_rows"] = "skip"
    assert len(prepare.prepare(recipe.from_dict(given, tmp_path)).rows["train"]) == 3


def test_all_rows_to_predict_whose_predicate_is_past_the_end_are_refused(tmp_path):
    folder(tmp_path / "model", "bert")
    words = {"tokens": ["he", "ran"]}
    write(tmp_path / "in.jsonl", [{**words, "predicate_index": 1, "tags": "any"}])
    (line,) = kt.predict(tmp_path / "model", tmp_path / "in.jsonl", task="semantic-role-labeling", display=QUIET)
    assert len(line["prediction"]) == 2
    assert line["tags"] == "any"  # what is not read may be anything
    write(tmp_path / "in.jsonl", [{**words, "predicate_index": place} for place in (2, 0, 7)])
    with pytest.raises(UserError) as refused:
        kt.predict(tmp_path / "model", tmp_path / "in.jsonl", task="semantic-role-labeling", display=QUIET)
    assert [(p.where.rpartition(":")[2], p.field) for p in refused.value.problems] == [
        ("1", "predicate_index"), ("3", "predicate_index"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "said"),
    [(["ARG0", "ARG1"], "tags: O, B-ROLE and I-ROLE")],
)
def test_labels_that_are_no_tags_are_refused(tmp_path, labels, said):
    given = spec(tmp_path, "fine-tuning")
    folder(tmp_path / "student", "bert", names=["a", "b"])
    given["data"]["labels"] = labels
    with pytest.raises(UserError) as refused:
        prepare.prepare(recipe.from_dict(given, tmp_path))
    assert said in str(next(p for p in refused.value.problems if p.field == "data.labels"))


# Real data


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["srl-ewt", "srl-ewt-reviews"])
def test_real_tags_survive_from_encoding_to_the_answer(real_data, name):
    from keeltune.data import reading
    from keeltune.data.sources import DataSource

    def read(split: str) -> list[Row]:
        file = str(next((real_data / name).glob(f"{split}.jsonl*")))
        found, problems = reading.read(DataSource(file), SemanticRoleLabeling.columns, {})
        assert not problems
        sound, faulty = splits.sound_rows(SemanticRoleLabeling, found)
        assert not faulty
        return sound

    train = read("train")
    names = SemanticRoleLabeling.label_inventory(sorted({tag for row in train for tag in row.fields["tags"]}))
    assert len(names) % 2 == 1
    assert all(f"{side}-{tag[2:]}" in names for tag in names[1:] for side in "BI")
    _, task = tagger("bert", names=names, max_length=None)
    validation = read("validation")
    unknown = {tag for row in validation for tag in row.fields["tags"]} - set(names)
    kept = [row for row in validation if not unknown & set(row.fields["tags"])]
    assert len(kept) > 0.99 * len(validation)
    values = []
    for start in range(0, len(kept), 64):
        examples = [e for row in kept[start : start + 64] for e in task.encode(row)]
        assert not any(e.truncated for e in examples)
        batch = task.collate(examples)
        logits = torch.zeros(*batch["predicted"].shape, len(names))
        logits[batch["predicted"]] = 20.0 * functional.one_hot(batch["targets"], len(names)).float()
        values += [p.value for p in task.decode(task.rows(SimpleNamespace(logits=logits), batch), batch)]
    golds = [task.gold(row) for row in kept]
    assert values == golds
    sums = task.statistics(values, golds).sum(0)
    assert {name: float(value) for name, value in task.scores(sums).items()} == dict.fromkeys(task.metrics, 1.0)
    assert sums.sum() / 3 == sum(len(arguments(gold)) for gold in golds)
