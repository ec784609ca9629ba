"""The demo's reviews: labels follow from composition, the domains disagree on some words, rows are reproducible."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from keeltune.cli.demo_data import make_reviews, write
from keeltune.cli.demo_grammar import COPULAS, DEGREES, FRAMES, SENTENCES, SUBJECT, Phrase, Rule
from keeltune.cli.demo_vocabulary import APPLIANCES, COMMON, DOMAINS, FILMS, DomainName

FILES = {
    "films": {"test": 40, "validation": 20, "train": 120},
    "appliances": {"test": 40, "validation": 20, "train": 60, "unlabeled": 80},
}
TURNS = (
    "i doubt that",
    "not true that",
    "nobody would claim",
    " at all",
    "hardly",
    "anything but",
    "far from",
    "not what",
)


def rule(table: Iterable[Rule], template: str) -> Rule:
    return next(r for r in table if r.template == template)


def vocabulary(words_by_kind: Mapping[str, str]) -> set[str]:
    return set(" ".join(words_by_kind.values()).split())


def polarities(name: DomainName) -> dict[str, int]:
    """What each word and action of a domain says."""
    domain = DOMAINS[name]
    said = {}
    for sign in (1, -1):
        words = vocabulary(domain.own[sign]) | vocabulary(domain.flipped[sign]) | set(COMMON[sign].split())
        said |= dict.fromkeys(words | set(domain.flipped_actions[sign]), sign)
    return said


def judged(text: str, said: Mapping[str, int]) -> str:
    """The label as a reader finds it from the text alone: the deciding clause, what it says, how often it is turned."""
    text = text.removesuffix(".").lower()
    text = re.split(r", even though |\. never mind that ", text)[0]
    text = re.split(r", but |\. still, ", text)[-1]
    text = text.split(", ", 1)[1] if text.startswith("although ") else text
    clause = re.split(r"\. besides, | and ", text)[0]
    told = max((w for w in said if clause.removesuffix(" at all").endswith(f" {w}")), key=len)
    rest = clause.replace(told, "").replace("never anything but", "")
    sign = said[told] * (-1) ** sum(rest.count(turn) for turn in TURNS)
    return "positive" if sign > 0 else "negative"


def test_a_negation_turns_the_label_and_a_second_one_turns_it_back() -> None:
    good, hardly = Phrase("good", 1), rule(DEGREES, "hardly {}")
    once = SUBJECT(Phrase("plot"), rule(COPULAS, "is {}")(hardly(good)))
    assert once == ("the plot is hardly good", -1)
    assert rule(FRAMES, "I doubt that {}")(once) == ("I doubt that the plot is hardly good", 1)
    assert rule(DEGREES, "not {} at all")(Phrase("bad", -1)) == ("not bad at all", 1)
    assert rule(DEGREES, "never anything but {}")(good) == ("never anything but good", 1)


def test_the_deciding_clause_of_a_contrast_is_the_label() -> None:
    good, bad = Phrase("the ending is superb", 1), Phrase("the plot drags", -1)
    assert rule(SENTENCES, "{}, but {}")(bad, good) == ("the plot drags, but the ending is superb", 1)
    assert rule(SENTENCES, "{}, but {}")(good, bad).polarity == -1
    assert rule(SENTENCES, "{}, even though {}")(good, bad).polarity == 1
    assert rule(SENTENCES, "{}. never mind that {}")(bad, good).polarity == -1


@pytest.mark.parametrize("name", DOMAINS)
def test_every_label_is_the_one_a_reader_of_the_text_finds(name: DomainName) -> None:
    said = polarities(name)
    wrong = [row for row in make_reviews(name, 3000, seed=5) if judged(row["text"], said) != row["label"]]
    assert wrong == []


def test_what_one_domain_praises_the_other_deplores() -> None:
    for sign in (1, -1):
        assert vocabulary(FILMS.flipped[sign]) == vocabulary(APPLIANCES.flipped[-sign])
        assert FILMS.flipped_actions[sign] == APPLIANCES.flipped_actions[-sign]
    films, appliances = polarities("films"), polarities("appliances")
    flipped = vocabulary(FILMS.flipped[1]) | vocabulary(FILMS.flipped[-1])
    assert len(flipped) >= 30 and all(films[word] == -appliances[word] for word in flipped)
    assert all(films[word] == appliances[word] for sign in (1, -1) for word in COMMON[sign].split())


def test_in_whole_reviews_the_same_words_get_opposite_labels() -> None:
    """A bare "The plot is light." and "The kettle is light.", without any negation or contrast."""
    verdicts: dict[str, dict[str, set[str]]] = {}
    for name in DOMAINS:
        nouns = "|".join(vocabulary(DOMAINS[name].nouns))
        for row in make_reviews(name, 6000):
            if match := re.fullmatch(rf"The (?:{nouns}) (?:is|was|turned out|seemed) (\S+)\.", row["text"]):
                verdicts.setdefault(match[1], {}).setdefault(name, set()).add(row["label"])
    assert verdicts["unpredictable"] == {"films": {"positive"}, "appliances": {"negative"}}
    assert verdicts["light"] == {"films": {"negative"}, "appliances": {"positive"}}
    assert verdicts["superb"] == {"films": {"positive"}, "appliances": {"positive"}}


@pytest.mark.parametrize("name", DOMAINS)
def test_rows_are_reproducible_different_and_balanced(name: DomainName) -> None:
    rows = make_reviews(name, 1000, seed=3)
    assert make_reviews(name, 1000, seed=3) == rows
    assert make_reviews(name, 100, seed=3) == rows[:100]
    assert make_reviews(name, 1000, seed=4) != rows
    assert len({row["text"] for row in rows}) == 1000
    assert sum(row["label"] == "positive" for row in rows) == 500
    assert max(len(row["text"].split()) for row in rows) <= 30


def test_the_files_share_no_text_and_repeat_byte_for_byte(tmp_path: Path) -> None:
    sizes = {"source": 120, "target": 60, "unlabeled": 80, "validation": 20, "test": 40}
    for copy in ("a", "b"):
        write(tmp_path / copy, seed=1, **sizes)
    write(tmp_path / "more", seed=1, **{**sizes, "target": 200})
    texts: list[str] = []
    for domain, splits in FILES.items():
        assert {file.stem for file in (tmp_path / "a" / domain).iterdir()} == set(splits)
        for split, size in splits.items():
            file = Path(domain, f"{split}.jsonl")
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
            rows = [json.loads(line) for line in (tmp_path / "a" / file).read_text(encoding="utf-8").splitlines()]
            texts += [row["text"] for row in rows]
            assert len(rows) == size
            assert [row.get("label") for row in rows].count("positive") == (0 if split == "unlabeled" else size // 2)
    assert len(set(texts)) == len(texts)
    test = Path("appliances", "test.jsonl")
    assert (tmp_path / "more" / test).read_bytes() == (tmp_path / "a" / test).read_bytes()


def test_words_alone_tell_something_but_not_the_label() -> None:
    """A bag of words is above chance in films and clearly below what composition allows, and worse where words flip."""
    rows, elsewhere = make_reviews("films", 1600), make_reviews("appliances", 400)
    test, train = rows[:400], rows[400:]
    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    films = model.score([row["text"] for row in test], [row["label"] for row in test])
    appliances = model.score([row["text"] for row in elsewhere], [row["label"] for row in elsewhere])
    assert 0.6 < films < 0.85
    assert appliances < films - 0.08
