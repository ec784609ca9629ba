"""Variants of texts: what is left out and how often, the same in any order, without a label, and after a stop."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from keeltune import recipe
from keeltune.data import augmentation
from keeltune.data.dataset import Row, row_key
from keeltune.objective.predictions import IGNORED
from keeltune.recipe.data_fields import Augment
from keeltune.tasks.text_classification import TextClassification
from keeltune.training import build
from keeltune.training.batch_plan import Plan
from keeltune.training.preparation import prepare
from keeltune.training.preparation.material import Material
from keeltune.training.preparation.variants import why_no_variants
from keeltune.utils import registry
from keeltune.utils.errors import UserError
from keeltune.utils.text import apart, word_places
from tests.faults import test_resume
from tests.helpers import runs
from tests.helpers.interruption import copy_at, same

spec = test_resume.spec  # a fixture of that file

ENGLISH = "the film was not  bad,\nbut long and dull"
CHINESE = "这部电影不错，但是很长。"
MIXED = "I saw 北京 in  2019, 很 nice!"


def row_of(text: str, label: str | None = "good", **more: str) -> Row:
    fields = {"text": text, **({"label": label} if label else {}), **more}
    return Row(fields, "f", 1, row_key(fields, list(fields)))


def texts(row: Row, spec: Augment, seed: int = 0) -> list[str]:
    return [variant.fields["text"] for variant in augmentation.variants(row, TextClassification, spec, seed)]


def words(text: str) -> list[str]:
    return apart(text).split()


def test_places_are_the_words_that_apart_makes():
    for text in (ENGLISH, CHINESE, MIXED, "  a\tb ", "\u3000东 京", "one"):
        assert [text[a:b] for a, b in word_places(text)] == words(text)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.8])
def test_words_are_left_out_at_the_rate_given(rate):
    """20,000 words, each left out with probability p: within four standard deviations, in every tenth of the text."""
    row = row_of(" ".join(f"w{i}" for i in range(1000)))
    found = texts(row, Augment(word_dropout=rate, crops=False, variants=20))
    kept = Counter(word for text in found for word in text.split())
    for tenth in range(10):
        share = 1 - sum(kept[f"w{i}"] for i in range(100 * tenth, 100 * tenth + 100)) / 2000
        assert abs(share - rate) < 4 * math.sqrt(rate * (1 - rate) / 2000)
    assert all(text.split() == [w for w in row.fields["text"].split() if w in set(text.split())] for text in found)
    assert len(set(found)) == 20


def test_a_word_at_least_is_kept():
    """Of three words at p = 0.99 97 of 100 would be empty; there each is the one that stays, equally often."""
    found = texts(row_of("a b c"), Augment(word_dropout=0.99, crops=False, variants=900))
    assert all(found)
    alone = Counter(text for text in found if " " not in text)
    assert alone.total() > 850
    assert all(abs(alone[word] - alone.total() / 3) < 4 * math.sqrt(alone.total() * 2 / 9) for word in "abc")
    assert texts(row_of("one"), Augment(word_dropout=0.9)) == ["one"] * 4


@pytest.mark.parametrize("count", [1, 2, 7, 10])
def test_crops_are_contiguous_and_hold_half_of_the_words_at_least(count):
    """Every length from ⌈n/2⌉ to n, and every place of each."""
    whole = [f"w{i}" for i in range(count)]
    found = [text.split() for text in texts(row_of(" ".join(whole)), Augment(word_dropout=0.0, variants=600))]
    places = {(whole.index(part[0]), len(part)) for part in found}
    assert all(part == whole[whole.index(part[0]) :][: len(part)] for part in found)
    least = math.ceil(count / 2)
    assert places == {(first, size) for size in range(least, count + 1) for first in range(count - size + 1)}
    sizes = Counter(map(len, found))
    expected = 600 / (count - least + 1)
    assert all(abs(sizes[size] - expected) < 4 * math.sqrt(expected) for size in range(least, count + 1))


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, MIXED])
def test_words_keep_their_order_and_what_stood_between_neighbours(text):
    """A variant is a part of the text's words; Chinese is cut by character, and gets no space where it had none."""
    for variant in texts(row_of(text), Augment(word_dropout=0.4, variants=50)):
        assert variant and variant == variant.strip()
        rest = iter(text)
        assert all(character in rest for character in variant if not character.isspace())
        assert any(map(str.isspace, variant)) <= (text is not CHINESE)
        if text is ENGLISH:
            left = iter(words(text))
            assert all(any(word == other for other in left) for word in words(variant))


def test_white_space_is_kept_or_the_last_of_what_was_left_out():
    def varied(text: str, kept: list[int]) -> str:
        return augmentation._joined(text, word_places(text), np.array(kept))

    assert varied(ENGLISH, list(range(9))) == ENGLISH
    assert varied(ENGLISH, [3, 4, 5]) == "not  bad,\nbut"
    assert varied(ENGLISH, [0, 4, 8]) == "the  bad, dull"
    assert varied("我 在北京", [0, 2]) == "我 北"
    assert varied("in 北京 today", [0, 3]) == "in today"
    assert varied("在北京", [0, 2]) == "在京"


def test_a_variant_is_a_function_of_the_seed_its_number_and_the_rows_key():
    """Whatever other rows there are, in whatever order, and whatever the global generators were set to."""
    rows = [row_of(f"{ENGLISH} {i}") for i in range(5)]
    how = Augment()
    one = [texts(row, how) for row in rows]
    np.random.seed(7)
    torch.manual_seed(7)
    assert [texts(row, how) for row in reversed(rows)] == one[::-1]
    assert texts(rows[2], Augment(variants=9))[:4] == one[2]
    assert texts(rows[2], how, seed=1) != one[2]
    assert len(set(one[2])) == 4
    other = Row(rows[2].fields, "elsewhere", 9, row_key({"text": "x"}, ["text"]))
    assert texts(other, how) != one[2]


def test_the_key_says_row_variant_and_content_and_no_label_is_left():
    row = row_of(ENGLISH, id="7")
    found = augmentation.variants(row, TextClassification, Augment(variants=3), seed=0)
    for number, variant in enumerate(found):
        assert set(variant.fields) == {"text"}
        assert variant.key == f"{row.key}~{number}-{row_key(variant.fields, ['text'])[:16]}"
    again = augmentation.variants(row, TextClassification, Augment(word_dropout=0.5, variants=3), seed=0)
    assert not {v.key for v in found} & {v.key for v in again}  # another text is another question to a teacher


def test_both_texts_of_a_pair_are_varied_apart():
    row = row_of(ENGLISH, text_pair=ENGLISH)
    found = augmentation.variants(row, TextClassification, Augment(variants=6), seed=0)
    assert set(found[0].fields) == {"text", "text_pair"}
    assert sum(v.fields["text"] != v.fields["text_pair"] for v in found) >= 5


def test_other_tasks_are_refused_with_the_reason():
    reasons = {name: why_no_variants(registry.find("tasks", name)) for name in registry.names("tasks")}
    allowed = {name for name, reason in reasons.items() if reason is None}
    assert allowed == {"text-classification", "sentiment-analysis", "regression"}
    assert "label of its own" in reasons["semantic-role-labeling"]
    assert "part of the text" in reasons["question-answering"]
    assert "whole text" in reasons["translation"]
    assert "is image" in reasons["image-captioning"]
    assert "is sound" in reasons["speech-recognition"]


def test_a_recipe_of_another_task_is_refused(tmp_path):
    from tests.helpers.writers import spec as written

    given = written(tmp_path, "translation", "marian", "distillation")
    given["data"]["augment"] = {}
    with pytest.raises(UserError, match="must follow the whole text") as refused:
        prepare.prepare(recipe.from_dict(given, tmp_path))
    assert [p.field for p in refused.value.problems] == ["data.augment"]


# In training


@pytest.fixture
def varied(spec):
    spec["data"] |= {"augment": {"word_dropout": 0.2, "variants": 3}, "mix": {"unlabeled": 1.0, "augmented": 1.5}}
    return spec


def plan_of(given: dict, folder) -> tuple[Plan, Material]:
    job = build.build(prepare.prepare(recipe.from_dict({**given, "output": "out"}, folder)))
    return job.plan, job.material


def test_variants_are_a_stream_of_their_own_that_carries_d_alone(varied, tmp_path):
    """40 labelled texts and 30 of the pool, 3 variants each; 12 of them beside the 8 labelled rows of a step."""
    plan, material = plan_of(varied, tmp_path)
    streams = {stream.name: stream for stream in plan.streams}
    assert set(streams) == {"unlabeled", "augmented"}
    found = streams["augmented"].examples
    assert len(found) == 3 * len({row.key for row in [*material.rows["train"], *material.rows["unlabeled"]]})
    assert all(e.anchored and e.labelled == 0 and list(e.targets) == [IGNORED] for e in found)
    assert len({e.key for e in found}) == len(found)
    keys = {e.key for e in found}
    met: list[str] = []
    for step in range(2 * plan.steps):
        epoch, place = divmod(step, plan.steps)
        cuts = [plan.micro_batch(epoch, place, cut) for cut in range(2)]
        here = [e.key for cut in cuts for e in cut if e.key in keys]
        assert len(here) == 12
        assert sum(e.labelled for cut in cuts for e in cut) == 8
        met += here
    assert len(set(met)) == len(met) == 120  # round its own file without replacement
    labelled = [e for e in plan.examples if e.labelled]
    assert len(labelled) == len(plan.examples) == 40


def test_labelled_and_pool_rows_are_the_same_with_variants_and_without(varied, tmp_path):
    plan, _ = plan_of(varied, tmp_path)
    del varied["data"]["augment"], varied["data"]["mix"]["augmented"]
    plain, _ = plan_of(varied, tmp_path)
    for step in range(plan.steps):
        with_variants = [e.key for e in plan.micro_batch(0, step, 0) if "~" not in e.key]
        assert with_variants == [e.key for e in plain.micro_batch(0, step, 0)]


def test_a_pool_alone_has_variants_too(varied, tmp_path):
    del varied["data"]["train"], varied["data"]["mix"]["unlabeled"]
    plan, material = plan_of(varied, tmp_path)
    (stream,) = plan.streams
    assert stream.name == "augmented"
    assert len(stream.examples) == 3 * len(material.rows["unlabeled"]) == 90
    assert all(e.anchored for e in plan.examples)


def test_hard_labels_are_the_teachers_own_on_each_variant(varied, tmp_path):
    """As on the pool: its choice on the text as it is now, not on the text that it was."""
    varied["data"]["unlabeled_as"] = "labels"
    plan, material = plan_of(varied, tmp_path)
    streams = {stream.name: stream.examples for stream in plan.streams}
    assert not any(e.anchored for examples in streams.values() for e in examples)
    from transformers import AutoModelForSequenceClassification

    teacher = AutoModelForSequenceClassification.from_pretrained(varied["reference"]).eval()
    with torch.no_grad():
        for example in streams["augmented"][::10]:
            inputs = {name: torch.tensor([value]) for name, value in example.inputs.items()}
            assert list(example.targets) == teacher(**inputs).logits.argmax(-1).tolist()
    assert plan_of(varied, tmp_path)[1].rows["augmented"] == material.rows["augmented"]


def test_a_killed_run_with_variants_goes_on_bit_for_bit(varied, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        copy_at(patch, {step: (tmp_path / "whole", tmp_path / f"at-{step}") for step in (4, 7)})
        whole = test_resume.train(varied, tmp_path, "whole")
    for step in (4, 7):
        again = test_resume.train(varied, tmp_path, f"at-{step}", resume=True)
        assert same(whole.folder, again.folder)
        assert (whole.folder / "log.jsonl").read_text() == (again.folder / "log.jsonl").read_text()
        assert whole.result["data"]["augmented"] == again.result["data"]["augmented"]
    assert whole.result["data"]["augmented"]["rows"] == 3 * 70
    plain = runs.lines(whole.folder / "log.jsonl")
    assert all(entry["divergence"] > 0 for entry in plain if "loss" in entry)
