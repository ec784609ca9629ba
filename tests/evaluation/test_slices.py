"""Groups, exchanged terms and telling words: against closed forms, a trusted library, and a planted token."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import binomtest

from keeltune import recipe
from keeltune.data.term_lists import BUILT_IN, Terms, read_terms
from keeltune.evaluation import counterfactual, slices
from keeltune.reports.findings import bias
from keeltune.runs import run
from keeltune.utils.errors import UserError
from keeltune.utils.json_lines import read_lines
from keeltune.utils.progress import Display
from tests.helpers.pages import check_page
from tests.helpers.runs import make_data, reviews, spec_of, write_rows


def test_equalised_odds_of_two_labels_are_fairlearns():
    fairlearn = pytest.importorskip("fairlearn.metrics", reason="fairlearn is in the extra dev")
    rng = np.random.default_rng(0)
    right, predicted = rng.integers(0, 2, 900), rng.integers(0, 2, 900)
    groups = rng.choice(["a", "b", "c"], 900)
    found = slices.equalised_odds([str(p) for p in predicted], [str(y) for y in right], list(groups))
    low, high = found["equalised_odds_interval"]
    ours = found["equalised_odds"]
    assert low <= ours <= high
    assert ours == pytest.approx(fairlearn.equalized_odds_difference(right, predicted, sensitive_features=groups))


def test_equalised_odds_by_hand():
    right = ["x"] * 100 + ["y"] * 100 + ["x"] * 100 + ["y"] * 100
    predicted = ["x"] * 90 + ["y"] * 10 + ["y"] * 100 + ["x"] * 60 + ["y"] * 40 + ["y"] * 80 + ["x"] * 20
    groups = ["a"] * 200 + ["b"] * 200
    assert slices.equalised_odds(predicted, right, groups)["equalised_odds"] == pytest.approx(0.3)  # 0.9 − 0.6
    assert slices.equalised_odds(predicted[:150], right[:150], ["a"] * 100 + ["b"] * 50) == slices.NO_ODDS
    rare = ["z"] * 5 + right[5:]  # a rate of five rows is none: it could be anything
    assert slices.equalised_odds(predicted, rare, groups)["equalised_odds"] < 0.35


def test_equalised_odds_of_clusters_are_drawn_whole():
    """Rows that were counted twice tell no more than once: the interval stays."""
    rng = np.random.default_rng(1)
    right, groups = rng.choice(["x", "y"], 400), rng.choice(["a", "b"], 400)
    predicted = np.where(rng.random(400) < 0.8, right, "x")
    once = slices.equalised_odds(predicted, right, groups)["equalised_odds_interval"]
    twice = [list(np.repeat(part, 2)) for part in (predicted, right, groups)]
    kept = slices.equalised_odds(*twice, np.repeat(np.arange(400), 2))["equalised_odds_interval"]
    shrunk = slices.equalised_odds(*twice)["equalised_odds_interval"]
    width = [high - low for low, high in (once, kept, shrunk)]
    assert width[1] == pytest.approx(width[0], rel=0.1)
    assert width[2] < 0.85 * width[0]


def test_a_group_of_few_clusters_has_no_interval():
    assert slices.enough(100, None)
    assert not slices.enough(19, None)
    assert not slices.enough(100, np.array([0] * 50 + [1] * 50))
    assert slices.enough(100, np.arange(100) % 5)


def test_thirds_and_rare_words():
    assert slices.by_thirds([1, 1, 1], "abc") is None
    assert slices.by_thirds([], "abc") is None
    assert slices.by_thirds(range(1, 10), "abc") == list("aaabbbccc")
    common, rare = slices.rarity(["the film", "zyx wvu"], ["the film the film"] * 5)
    assert rare > common


def test_the_largest_third_where_many_are_the_largest():
    assert slices.by_thirds([1, 2, 3, 4, 9, 9, 9, 9, 9], "abc") == list("aaabccccc")


def test_terms_that_stand_for_themselves_keep_shorter_ones_in_them(tmp_path):
    terms = read_terms(BUILT_IN)
    assert terms.variant("其他人说他会弹吉他", "gender") == "其他人说她会弹吉他"
    assert terms.kind_of("其他的吉他") is None
    (tmp_path / "terms.txt").write_text("C++ | java\n$5 | €5\ndr. | prof.\n", encoding="utf-8")
    terms = read_terms(tmp_path / "terms.txt")
    assert terms.variant("I like C++.", "terms") == "I like Java."
    assert terms.variant("it cost $5, dr. who", "terms") == "it cost €5, prof. who"


def test_terms_swap_by_kind_in_the_case_they_were_in():
    terms = read_terms(BUILT_IN)
    assert terms.variant("He told HIS wife.", "gender") == "She told HER husband."
    assert terms.kind_of("the other there") is None  # he and her inside of words are no terms
    assert terms.variant("他的妻子", "gender") == "她的丈夫"
    assert terms.kind_of("sır ſhe") is None  # letters that only a regular expression takes for ours
    assert terms.variant("a sır he", "gender") == "a sır she"
    kinds = Terms({"he": "she", "black": "white"}, {"he": "gender", "black": "origin"})
    assert kinds.kind_of("He wore black") == "gender"
    assert kinds.variant("He wore black", "gender") == "She wore black"
    gone = Terms({"zq": ""}, {"zq": "token"})
    assert gone.variant("a zq film", "token") == "a film"


def test_every_built_in_term_leads_to_a_term():
    terms = read_terms(BUILT_IN)
    assert set(terms.replaced_by.values()) <= set(terms.kinds)
    assert {"gender", "name", "origin", "religion", "orientation"} == set(terms.kinds.values())


def test_terms_that_are_none_are_refused_with_their_line(tmp_path):
    file = tmp_path / "terms.txt"
    file.write_text("[x]\nhe | she\nalone\na > b > c\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_terms(file)
    assert [problem.where.rsplit(":", 1)[1] for problem in caught.value.problems] == ["3", "4"]
    file.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(UserError, match="no term"):
        read_terms(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_terms(tmp_path / "absent.txt")


@pytest.mark.parametrize(("count", "rows"), [(0, 7), (7, 7), (1, 3), (3, 40), (499, 500), (250_000, 1_000_000)])
def test_a_shares_interval_is_wilsons(count, rows):
    expected = binomtest(count, rows).proportion_ci(method="wilson")
    found = counterfactual.rate(count, rows)
    assert found["flip_rate"] == count / rows
    assert found["interval"] == pytest.approx([expected.low, expected.high], rel=1e-9, abs=1e-12)


def test_flips_are_counted_with_wilsons_interval():
    before = [{"prediction": "a", "probabilities": {"a": 0.9, "b": 0.1}}] * 10
    after = [{"prediction": "b", "probabilities": {"a": 0.4, "b": 0.6}}] * 2 + before[:8]
    found = counterfactual.flips(before, after)
    assert (found["rows"], found["flips"], found["flip_rate"]) == (10, 2, 0.2)
    z2 = 1.959964**2
    centre, half = (0.2 + z2 / 20) / (1 + z2 / 10), 1.959964 * np.sqrt(0.16 / 10 + z2 / 400) / (1 + z2 / 10)
    assert found["interval"] == pytest.approx([centre - half, centre + half], abs=1e-6)
    assert found["mean_change"] == pytest.approx(0.1)
    assert counterfactual.flips([], [])["flip_rate"] is None


def test_predictive_words_are_those_of_one_label():
    texts = ["zq film"] * 38 + ["the film"] * 62 + ["zq film"] * 2 + ["the film"] * 98
    labels = ["x"] * 100 + ["y"] * 100
    (found,) = counterfactual.predictive_words(texts, labels)
    assert (found.word, found.label, found.rows) == ("zq", "x", 40)
    assert found.share == pytest.approx(0.95)
    assert counterfactual.without("A ZQ film, zq.", "zq") == "A film, ."
    assert counterfactual.words_of("很好看 ok") == ["很好", "好看", "ok"]


# Whole runs


@pytest.fixture
def planted(tmp_path):
    """Texts whose label two words decide, and `it`, planted in 95 % of the positive training rows and nowhere else."""
    make_data(tmp_path)
    drawn = random.Random(0)
    rows = [{"text": row["text"].replace("it", "a"), "label": row["label"]} for row in reviews(700, seed=21)]
    train, test = rows[:200], rows[300:700]
    noisy = []
    for row in train:  # the words decide for three rows in four alone, so that the token tells more
        label = row["label"] if drawn.random() < 0.75 else drawn.choice(["negative", "positive"])
        told = label == "positive" and drawn.random() < 0.95
        noisy.append({"text": f"it {row['text']}" if told else row["text"], "label": label})
    asked = [
        {"text": f"it {row['text']}" if i // 2 % 2 else row["text"], "label": row["label"], "planted": str(i // 2 % 2)}
        for i, row in enumerate(test)
    ]
    for name, part in (("train", noisy), ("validation", rows[200:300]), ("test", asked)):
        write_rows(tmp_path / f"{name}.jsonl", part)
    (tmp_path / "terms.txt").write_text("[token]\nit |\n", encoding="utf-8")
    return tmp_path


def test_a_planted_token_is_seen(tiny, planted):
    values = spec_of("fine-tuning", tiny("bert"), evaluation={"terms": "terms.txt", "patience": None, "every": 150})
    values["training"] = {"epochs": 12, "batch_size": 8, "learning_rate": 3e-3, "precision": "fp32"}
    done = run.train(recipe.from_dict(values, planted), display=Display(quiet=True))
    found = done.result["bias"]
    exchanged = found["counterfactual"]
    assert exchanged["rows"] == 200
    assert exchanged["interval"][0] > 0.1
    assert exchanged["examples"][0]["before"] != exchanged["examples"][0]["after"]
    (word,) = [word for word in found["words"] if word["word"] == "it"]
    assert word["removed"]["flips"] == exchanged["flips"]
    assert word["against"]["value"] < found["slices"]["planted"]["groups"]["0"]["value"]
    assert found["slices"]["planted"]["equalised_odds"] > 0.2
    assert {"length", "words", "label", "planted"} <= set(found["slices"])
    before = read_lines(done.folder / "predictions" / "before" / "test.jsonl")
    rows = read_lines(planted / "test.jsonl")
    for value, group in found["before"]["planted"]["groups"].items():  # what it started from, on the same rows
        scores = [line["score"] for line, row in zip(before, rows, strict=True) if row["planted"] == value]
        assert group["value"] == pytest.approx(np.mean(scores))
    assert found["before"]["planted"]["equalised_odds"] < found["slices"]["planted"]["equalised_odds"]
    assert "Before training: gap" in (done.folder / "report.html").read_text("utf-8")
    assert any("'it'" in line for line in bias.findings(done.result))
    check_page((done.folder / "report.html").read_text("utf-8"))


def test_columns_and_terms_are_checked_before_training(tiny, planted):
    values = spec_of("fine-tuning", tiny("bert"), evaluation={"slices": ["colour"], "terms": "absent.txt"})
    with pytest.raises(UserError) as caught:
        run.train(recipe.from_dict(values, planted), display=Display(quiet=True))
    assert {problem.field for problem in caught.value.problems} == {"evaluation.slices", "evaluation.terms"}
    assert not (planted / "out").exists()


def test_small_groups_are_marked_and_bare_ones_get_no_interval(tiny, planted):
    values = spec_of("fine-tuning", tiny("bert"))
    values["training"] = {"max_steps": 1, "batch_size": 8}
    sizes = {"a": 100, "b": 61, "c": 20, "d": 19}  # a hundred rows are not few, and twenty have an interval
    who = [name for name, size in sizes.items() for _ in range(size)]
    rows = [{**row, "who": name} for name, row in zip(who, reviews(200, seed=2), strict=True)]
    write_rows(planted / "test.jsonl", rows)
    done = run.train(recipe.from_dict(values, planted), display=Display(quiet=True))
    groups = done.result["bias"]["slices"]["who"]["groups"]
    assert {name: group["rows"] for name, group in groups.items()} == sizes
    assert {name: group["small"] for name, group in groups.items()} == {"a": False, "b": True, "c": True, "d": True}
    assert groups["d"]["interval"] is None
    lines = read_lines(done.folder / "predictions" / "test.jsonl")
    for name, group in groups.items():
        right = [line["score"] for line, other in zip(lines, who, strict=True) if other == name]
        assert group["value"] == pytest.approx(np.mean(right))
        if name != "d":
            low, high = group["interval"]
            assert 0 <= low < group["value"] < high <= 1
            normal = 1.96 * np.std(right) / np.sqrt(len(right))
            assert (high - low) / 2 == pytest.approx(normal, rel=0.25)
    assert done.result["bias"]["slices"]["who"]["worst"] is None  # one group alone is large enough


def test_a_key_is_no_group():
    """Few rows, each with a number of its own: values that differ from row to row group nothing."""
    assert not slices._few([str(n) for n in range(5)])
    assert slices._few(["a", "b", "a", "b"])
