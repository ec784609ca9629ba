"""Tags that mark spans of words: what the letter before a kind says, in the schemes that corpora are written in.

| scheme | tags | a span of the kind X |
| --- | --- | --- |
| IOB2 (BIO) | B I O | begins with B-X, goes on with I-X |
| IOB1 | I B O | is I-X throughout; B-X alone where it touches the one before it, of the same kind |
| IOBES (BIOES), BILOU, BMES | B I E S O; B I L U O; B M E S O | B-X, I-X …, E-X; a single word is S-X |
| IOE1, IOE2 | I E O | ends with E-X (always, or where it touches the next) |

L, U and M are read as E, S and I. A kind may be missing (`B`, `I`, `O`), and `_` may stand for `-`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

OUTSIDE = "O"

IOB1 = "IOB1"

_TAG = re.compile(r"([BIESLUM])(?:([-_])(.+))?", re.DOTALL)
_MEANT = {"L": "E", "U": "S", "M": "I"}
_ORDER = "BIMELSU"


@lru_cache(maxsize=10_000)
def parsed(tag: str) -> tuple[str, str]:
    """(B, I, E or S; kind) of a tag; ("", "") of O, and ("", tag) of one that marks no span."""
    found = _TAG.fullmatch(tag)
    if found is None:
        return "", "" if tag == OUTSIDE else tag
    return _MEANT.get(found[1], found[1]), found[3] or ""


def in_span(tag: str) -> bool:
    """Whether a tag is B-X or I-X."""
    return tag[:2] in ("B-", "I-") and len(tag) > 2


def marks_spans(names: Sequence[str]) -> bool:
    """Whether these tags mark spans, and are not kinds of words (parts of speech).

    Most of them have a letter and a kind; or all are bare letters, a B among them.
    """
    others = [name for name in names if name != OUTSIDE]
    typed = [name for name in others if parsed(name)[0] and parsed(name)[1]]
    bare = bool(others) and all(parsed(name)[0] for name in others) and "B" in others
    return 2 * len(typed) > len(others) or (bare and (OUTSIDE in names or len(others) > 1))


def closed(names: Sequence[str]) -> list[str]:
    """O, then the tags of each kind by name, with every letter that `names` use (I with B); others come last."""
    found = [match for match in map(_TAG.fullmatch, names) if match]
    used = {match[1] for match in found}
    letters = sorted(used | {"I"} if used == {"B"} else used, key=_ORDER.index)
    joint = next((match[2] for match in found if match[2]), "-")
    ends = sorted({match[3] or "" for match in found})
    others = [name for name in dict.fromkeys(names) if name != OUTSIDE and not _TAG.fullmatch(name)]
    return [OUTSIDE, *(letter + (joint + kind if kind else "") for kind in ends for letter in letters), *others]


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(kind, first word, last word) of each span, as conlleval and seqeval read tags of any scheme.

    A span goes on where the tag is I-X or E-X after B-X or I-X; anything else that is not O begins one. So an I-X that
    nothing precedes begins a span, which is IOB1, and what IOB2 never has.
    Source: https://github.com/chakki-works/seqeval/blob/cd01b5210eaa65e691c22320aba56f2be9e9fc43/seqeval/metrics/sequence_labeling.py
    """
    found: list[tuple[str, int, int]] = []
    before, of_before = "", ""
    for word, tag in enumerate(tags):
        letter, kind = parsed(tag)
        if letter in ("I", "E") and before in ("B", "I") and kind == of_before:
            found[-1] = (kind, found[-1][1], word)
        elif letter:
            found.append((kind, word, word))
        before, of_before = letter, kind
    return found


def openings(tags: Sequence[str]) -> tuple[int, int]:
    """How many spans begin with I-X, as in IOB1, and how many with a B-X that IOB1 has no need of."""
    by_inside = by_begin = 0
    before, of_before = "", ""
    for tag in tags:
        letter, kind = parsed(tag)
        follows = bool(before) and of_before == kind
        by_inside += letter == "I" and not follows
        by_begin += letter == "B" and not follows
        before, of_before = letter, kind
    return by_inside, by_begin


def is_free(names: Sequence[str]) -> bool:
    """Whether a span may begin with I-X by these tags alone: some kind has an I-X and no B-X."""
    tags = set(map(parsed, names))
    return any(letter == "I" and ("B", kind) not in tags for letter, kind in tags)


def legal_path(log_probs: np.ndarray, names: Sequence[str], *, free: bool = False) -> list[int]:
    """The tag sequence of the largest Σ log P among those that the scheme has; exact.

    I-X and E-X follow B-X or I-X; where the kind X has an E-X, B-X and I-X are followed by I-X or E-X.

    Args: `log_probs` [n, C], n ≥ 1, in nats; `names` [C]; `free`: any tag may follow any (IOB1). Returns n indices of
    `names`. Without a B-X, I-X is never reached; where no sequence is legal (a head without O), the likeliest tags.
    Source: Viterbi 1967; a span is gone on with from two tags at most, and every other step begins at the best of all
    tags that may end, so that one maximum serves them all.
    """
    if free:
        return [int(i) for i in log_probs.argmax(1)]
    goes_on, before, may_end = _rules(tuple(names))
    score = np.where(goes_on, -np.inf, log_probs[0])
    came_from = np.zeros((len(log_probs), len(names)), dtype=np.int64)
    for step in range(1, len(log_probs)):
        same_span = np.where(score[before[0]] >= score[before[1]], before[0], before[1])
        ended = np.where(may_end, score, -np.inf)
        came_from[step] = np.where(goes_on, same_span, ended.argmax())
        score = np.where(goes_on, score[same_span], ended.max()) + log_probs[step]
    score = np.where(may_end, score, -np.inf)
    if score.max() == -np.inf:
        return [int(i) for i in log_probs.argmax(1)]
    path = [int(score.argmax())]
    for step in range(len(log_probs) - 1, 0, -1):
        path.append(int(came_from[step][path[-1]]))
    return path[::-1]


@lru_cache(maxsize=100)
def _rules(names: tuple[str, ...]) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Of each tag: whether it goes on with a span, the two that it may follow then (itself where there is none: never
    reached), and whether a span may end with it."""
    tags = [parsed(name) for name in names]
    index = {tag: i for i, tag in enumerate(tags)}
    goes_on = np.array([letter in ("I", "E") for letter, _ in tags])
    inside = [index.get(("I", kind), i) for i, (_, kind) in enumerate(tags)]
    begin = [index.get(("B", kind), inside[i]) for i, (_, kind) in enumerate(tags)]
    may_end = np.array([letter not in ("B", "I") or ("E", kind) not in index for letter, kind in tags])
    return goes_on, (np.array(begin), np.array(inside)), may_end
