"""The grammar of the demo's reviews: phrases with a polarity, and rules that join them and say which one decides.

So no label is guessed: "the plot is thin" is negative, "I doubt that the plot is thin" positive, and after "…, but"
only the last clause counts.

    review   = sentence rule (clause, clause)      "Although the ending is funny, I doubt that the cast is wooden."
    clause   = frame (opinion)                     "I doubt that …"
    opinion  = noun + predicate                    "the cast is wooden"
"""

from __future__ import annotations

from typing import NamedTuple


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
