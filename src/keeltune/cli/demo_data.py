"""Two domains of short reviews, films and appliances, whose labels follow from how each text is composed.

A phrase is a text and its polarity; a rule joins phrases and says which one decides and whether its polarity turns
(`demo_grammar`); the words of a domain are in `demo_vocabulary`.
"""

from __future__ import annotations

import json
import random
import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from keeltune.cli.demo_grammar import COPULAS, DEGREES, LEVELS, SUBJECT, Phrase, Rule
from keeltune.cli.demo_vocabulary import COMMON, DOMAINS, Domain, DomainName

FLIPPED_SHARE = 0.3
"""The share of opinions that the other domain would turn round: the size of the step between the domains."""

ACTION_SHARE = 0.25
"""The share of those that are told as an action ("made me jump") rather than as a property ("is shocking")."""


class Composer:
    """Draws phrases of one domain. What it draws depends on the generator alone."""

    def __init__(self, domain: Domain, rng: random.Random):
        self.domain = domain
        self.rng = rng

    def phrase(self, level: int = len(LEVELS)) -> Phrase:
        """A phrase of `level`: a rule of that level, applied to phrases of the level below."""
        if level == 0:
            return self.opinion()
        rule = self.rule(LEVELS[level - 1])
        first = self.phrase(level - 1)
        if rule.parts == 1:
            return rule(first)
        wanted = first.polarity if rule.alike else -first.polarity
        second = self.phrase(level - 1)
        while second.polarity != wanted:
            second = self.phrase(level - 1)
        return rule(first, second)

    def opinion(self) -> Phrase:
        """What a noun is or does: "the plot is far from thin"."""
        polarity = self.rng.choice((1, -1))
        kind = self.rng.choice(sorted(self.domain.nouns))
        noun = Phrase(self.rng.choice(self.domain.nouns[kind].split()))
        flipped = self.rng.random() < FLIPPED_SHARE
        if flipped and self.rng.random() < ACTION_SHARE:
            return SUBJECT(noun, Phrase(self.rng.choice(self.domain.flipped_actions[polarity]), polarity))
        words = self.domain.flipped[polarity] if flipped else self.domain.own[polarity]
        shared = "" if flipped else COMMON[polarity]
        word = Phrase(self.rng.choice(f"{shared} {words[kind]}".split()), polarity)
        return SUBJECT(noun, self.rule(COPULAS)(self.rule(DEGREES)(word)))

    def rule(self, table: Sequence[Rule]) -> Rule:
        """One rule of the table, by the shares."""
        return self.rng.choices(table, [rule.share for rule in table])[0]


def make_reviews(domain: DomainName, rows: int, seed: int = 0) -> list[dict[str, str]]:
    """`rows` reviews {text, label} of one domain: all different, half of them positive.

    Fewer rows of the same seed are the first of the many, so that a longer list leaves the earlier rows as they are.
    """
    return list(islice(_pairs(domain, seed), rows))


def write(
    folder: Path,
    *,
    seed: int = 0,
    source: int = 1200,
    target: int = 400,
    unlabeled: int = 1600,
    validation: int = 200,
    test: int = 400,
) -> None:
    """Write films/{test,validation,train}.jsonl and appliances/{test,validation,train,unlabeled}.jsonl.

    `source` and `target` are the training rows of films and appliances. The files of a domain are consecutive parts of
    one list of different texts, test first: they share no row, and more training rows leave the test rows the same.
    """
    sizes: dict[DomainName, dict[str, int]] = {
        "films": {"test": test, "validation": validation, "train": source},
        "appliances": {"test": test, "validation": validation, "train": target, "unlabeled": unlabeled},
    }
    for domain, splits in sizes.items():
        rows = iter(make_reviews(domain, sum(splits.values()), seed))
        (folder / domain).mkdir(parents=True, exist_ok=True)
        for split, size in splits.items():
            columns = ("text",) if split == "unlabeled" else ("text", "label")
            lines = (json.dumps({key: row[key] for key in columns}) + "\n" for row in islice(rows, size))
            (folder / domain / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


def _pairs(domain: DomainName, seed: int) -> Iterator[dict[str, str]]:
    """Different reviews without end; each two neighbours are one positive and one negative, in random order."""
    rng = random.Random(f"{domain} {seed}")
    composer = Composer(DOMAINS[domain], rng)
    waiting: dict[int, deque[str]] = {1: deque(), -1: deque()}
    seen = set()
    while True:
        text, polarity = composer.phrase()
        if text in seen:
            continue
        seen.add(text)
        waiting[polarity].append(text)
        if waiting[1] and waiting[-1]:
            pair = [(waiting[1].popleft(), "positive"), (waiting[-1].popleft(), "negative")]
            rng.shuffle(pair)
            yield from ({"text": _capitalised(text), "label": label} for text, label in pair)


def _capitalised(text: str) -> str:
    return re.sub(r"(^|\. )([a-z])", lambda match: match[1] + match[2].upper(), text) + "."
