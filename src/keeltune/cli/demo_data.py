"""Two domains of short reviews, films and appliances, whose labels follow from how each text is composed.

A phrase is a text and its polarity; a rule joins phrases and says which one decides and whether its polarity turns. So
no label is guessed: "the plot is thin" is negative, "I doubt that the plot is thin" positive, and after "…, but" only
the last clause counts. Some words mean the opposite in the other domain (a thin plot, a thin toaster), which is what a
model has to learn when it moves there, and what it forgets of its old domain meanwhile.

    review   = sentence rule (clause, clause)      "Although the ending is funny, I doubt that the cast is wooden."
    clause   = frame (opinion)                     "I doubt that …"
    opinion  = noun + predicate                    "the cast is wooden"
"""

from __future__ import annotations

import json
import random
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

DomainName = Literal["films", "appliances"]


class Phrase(NamedTuple):
    """A piece of text, and what it says: 1 good, -1 bad, 0 neither."""

    text: str
    polarity: int = 0


class Rule(NamedTuple):
    """Joins phrases by a template. The polarity is that of the deciding part, turned by a negation.

    `parts` is how many phrases it takes; of two, a conjunction (`alike`) wants one polarity and a contrast both.
    `share` is how often the rule is drawn, relative to the others of its table.
    """

    template: str
    share: float = 1.0
    turns: bool = False
    decides: int = 0
    parts: int = 1
    alike: bool = True

    def __call__(self, *phrases: Phrase) -> Phrase:
        polarity = phrases[self.decides].polarity
        return Phrase(self.template.format(*(p.text for p in phrases)), -polarity if self.turns else polarity)


def negation(template: str, share: float = 1.0) -> Rule:
    """Says the opposite of its phrase."""
    return Rule(template, share, turns=True)


def conjunction(template: str, share: float = 1.0) -> Rule:
    """Two phrases that say the same."""
    return Rule(template, share, parts=2)


def contrast(template: str, share: float = 1.0, *, decides: int = 1) -> Rule:
    """Two phrases that disagree: only the deciding one counts."""
    return Rule(template, share, decides=decides, parts=2, alike=False)


SUBJECT = Rule("the {} {}", decides=1)

COPULAS = (Rule("is {}", 3), Rule("was {}", 2), Rule("turned out {}"), Rule("seemed {}"))

DEGREES = (
    Rule("{}", 10),
    Rule("very {}"),
    Rule("really {}"),
    Rule("remarkably {}"),
    Rule("nothing if not {}", 0.5),
    Rule("never anything but {}", 0.5),
    negation("not {} at all", 0.7),
    negation("hardly {}", 0.7),
    negation("anything but {}", 0.7),
    negation("far from {}", 0.7),
    negation("not what I'd call {}", 0.7),
)

FRAMES = (
    Rule("{}", 14),
    Rule("I must say {}"),
    Rule("there is no doubt that {}"),
    Rule("nobody can deny that {}"),
    negation("I doubt that {}", 0.5),
    negation("it is not true that {}", 0.5),
    negation("nobody would claim that {}", 0.5),
)

SENTENCES = (
    Rule("{}", 4),
    conjunction("{} and {}", 3),
    conjunction("{}. besides, {}", 3),
    contrast("{}, but {}", 2),
    contrast("although {}, {}"),
    contrast("granted, {}. still, {}"),
    contrast("{}, even though {}", decides=0),
    contrast("{}. never mind that {}", decides=0),
)

LEVELS = (FRAMES, SENTENCES)
"""A phrase of level n applies a rule of the n-th table to phrases of level n - 1; level 0 is an opinion."""


class Domain(NamedTuple):
    """What one domain talks about: nouns by kind, and what is good (1) or bad (-1) about each kind.

    `own` holds words of one meaning, `flipped` those that the other domain uses for the opposite. A word goes only with
    nouns of its kind, so that "the cast is wooden" can be said and "the plot is wooden" cannot.
    """

    nouns: Mapping[str, str]
    own: Mapping[int, Mapping[str, str]]
    flipped: Mapping[int, Mapping[str, str]]
    flipped_actions: Mapping[int, Sequence[str]]


COMMON = {
    1: "good great superb excellent wonderful brilliant lovely impressive delightful first-rate satisfying perfect",
    -1: "bad awful dreadful poor terrible disappointing mediocre annoying useless third-rate hopeless shoddy",
}

# What thrills in a film is a fault in a kettle, and what soothes in a kettle is a fault in a film.
THRILLING = (
    "kept me awake half the night",
    "made me jump",
    "gave me quite a shock",
    "brought tears to my eyes",
    "had my heart racing",
    "made my hair stand on end",
    "surprised me every single time",
    "left me shaking",
)

SOOTHING = (
    "put me to sleep",
    "is easily forgotten",
    "hardly draws attention to itself",
    "does exactly what you expect",
    "never raised my pulse",
    "follows the manual to the letter",
    "fades into the background",
    "never once surprised me",
)

FILMS = Domain(
    nouns={
        "story": "plot script ending dialogue story finale opening romance",
        "people": "cast villain hero acting director sidekick",
        "craft": "score editing camera soundtrack pacing photography",
    },
    own={
        1: {
            "story": "gripping witty clever touching",
            "people": "charming gifted convincing",
            "craft": "stylish vivid",
        },
        -1: {"story": "boring corny pointless", "people": "clumsy miscast unconvincing", "craft": "dull amateurish"},
    },
    flipped={
        1: {
            "story": "unpredictable explosive shocking twisted edgy funny strange complex unsettling wild surprising",
            "people": "electrifying sizzling intense eccentric raw wild funny unpredictable",
            "craft": "restless haunting intense strange breathtaking dizzying",
        },
        -1: {
            "story": "predictable thin light flat simple tame safe uneventful small lightweight mild",
            "people": "wooden cold mechanical stiff robotic flat",
            "craft": "muted monotonous static sterile quiet mild",
        },
    },
    flipped_actions={1: THRILLING, -1: SOOTHING},
)

APPLIANCES = Domain(
    nouns={
        "machine": "kettle toaster blender vacuum freezer dishwasher heater iron",
        "works": "thermostat timer motor pump fan display",
        "body": "handle lid cord casing hinge base",
        "noise": "smell hum sound vapour",
    },
    own={
        1: {
            "machine": "reliable durable efficient",
            "works": "precise responsive",
            "body": "sturdy",
            "noise": "pleasant",
        },
        -1: {"machine": "leaky faulty overpriced", "works": "defective sluggish", "body": "flimsy", "noise": "nasty"},
    },
    flipped={
        1: {
            "machine": "light thin small safe lightweight simple quiet cold",
            "works": "predictable mechanical simple uneventful robotic static",
            "body": "wooden flat stiff thin light sterile",
            "noise": "muted monotonous mild tame quiet",
        },
        -1: {
            "machine": "explosive shocking electrifying sizzling unpredictable eccentric wild surprising",
            "works": "unpredictable complex restless eccentric wild surprising",
            "body": "twisted edgy raw strange funny",
            "noise": "funny strange haunting unsettling intense breathtaking dizzying",
        },
    },
    flipped_actions={1: SOOTHING, -1: THRILLING},
)

DOMAINS: Mapping[DomainName, Domain] = {"films": FILMS, "appliances": APPLIANCES}

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
            kept = ("text",) if split == "unlabeled" else ("text", "label")
            lines = (json.dumps({key: row[key] for key in kept}) + "\n" for row in islice(rows, size))
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
