"""Texts in which one term stands for another, and words that give a label away: does an answer hang on them?

Source of the substitution: Ribeiro et al. 2020, CheckList, https://arxiv.org/abs/2005.04118 (invariance tests).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from keeltune.problems import Problem, UserError, shown

BUILT_IN = Path(__file__).parent.parent / "terms.txt"

TELLING = 0.9
"""The share of a word's training rows that one label must have for the word to give it away."""
ENOUGH = 20
"""Training rows that a telling word must be in."""
UNLIKELY = 5.0
"""Standard errors that its label must be commoner in its rows than in all."""
TOLD = 5
"""Telling words that are looked at."""


@dataclass(frozen=True)
class Terms:
    """What replaces what, and the kind of each term; lower case."""

    replaced_by: Mapping[str, str]
    kinds: Mapping[str, str]

    def kind_of(self, text: str) -> str | None:
        """The kind of a text's first term: terms of one kind go together, as he and his do. None where it has none.

        A term that stands for itself is none: it keeps a shorter one in it from being replaced.
        """
        found = (one[0].lower() for one in self._pattern.finditer(text))
        kinds = (self.kinds.get(term) for term in found if self.replaced_by.get(term) != term)
        return next((kind for kind in kinds if kind is not None), None)

    def variant(self, text: str, kind: str) -> str:
        """The text with all its terms of a kind replaced at once."""

        def other(found: re.Match[str]) -> str:
            term = found[0].lower()  # which may be none of ours: letters that only `re` takes for the same (ı, ſ)
            return _cased(self.replaced_by[term], found[0]) if self.kinds.get(term) == kind else found[0]

        changed = self._pattern.sub(other, text)
        return " ".join(changed.split()) if any(not new for new in self.replaced_by.values()) else changed

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest = sorted(self.replaced_by, key=len, reverse=True)
        return re.compile("|".join(_whole(term) for term in longest), re.IGNORECASE)


def _whole(term: str) -> str:
    """A term as a whole word; where it is written without spaces between words, wherever it stands."""
    if any(ord(letter) > 0x2E7F for letter in term):
        return re.escape(term)
    before, after = (r"(?<!\w)" if term[0].isalnum() else "", r"(?!\w)" if term[-1].isalnum() else "")
    return before + re.escape(term) + after  # a term may end in a mark, as C++ does


def _cased(new: str, old: str) -> str:
    if old.isupper() and sum(map(str.isalpha, old)) > 1:
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


def read_terms(file: Path, where: str = "", field: str = "") -> Terms:
    """The terms of a file as `terms.txt` describes it. Raises UserError with each line that is none."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        found = f"{file}, which cannot be read ({error})"
        raise UserError(Problem(where, field, found, "a text file of terms", "correct the path")) from error
    replaced, kinds, kind, problems = dict[str, str](), dict[str, str](), "terms", []
    for number, line in enumerate(lines, 1):
        line = line.strip().lower()
        if not line or line.startswith("#"):
            continue
        if heading := re.fullmatch(r"\[(.+)\]", line):
            kind = heading[1]
            continue
        directed = ">" in line
        terms = [term.strip() for term in re.split(r"[>|]", line)]
        pairs = [(terms[0], terms[-1])] if directed else list(zip(terms, [*terms[1:], terms[0]], strict=True))
        if len(terms) < 2 or (directed and len(terms) > 2) or not any(terms):
            place = f"{file}:{number}"
            problems.append(Problem(place, field, shown(line), "a | b, a > b or [kind]", "correct the line"))
            continue
        for old, new in pairs:
            if old and old not in replaced:
                replaced[old], kinds[old] = new, kind
    if problems or not replaced:
        raise UserError(problems or [Problem(str(file), field, "no term", "lines such as: he | she", "add some")])
    return Terms(replaced, kinds)


def flips(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often and how far answers moved: {"rows", "flips", "flip_rate", "interval", "mean_change"}.

    Each answer is {"prediction", "probabilities"}; `interval` is Wilson's 95 % one of the rate; `mean_change` is the
    mean of |Δp| of what was answered before (of several labels: of the one that moved most).
    """
    flipped = sum(a["prediction"] != b["prediction"] for a, b in zip(before, after, strict=True))
    moved = [_moved(a, b) for a, b in zip(before, after, strict=True)]
    return {
        "rows": len(moved),
        "flips": flipped,
        **rate(flipped, len(moved)),
        "mean_change": sum(moved) / len(moved) if moved else None,
    }


def rate(count: int, rows: int) -> dict[str, Any]:
    """A share of rows with Wilson's 95 % interval; null where there are none."""
    if not rows:
        return {"flip_rate": None, "interval": None}
    low, high = binomtest(count, rows).proportion_ci(method="wilson")
    return {"flip_rate": count / rows, "interval": [float(low), float(high)]}


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    old, new = before["probabilities"], after["probabilities"]
    if isinstance(before["prediction"], str):
        return abs(old[before["prediction"]] - new[before["prediction"]])
    return max(abs(old[name] - new[name]) for name in old)


@dataclass(frozen=True)
class Telling:
    """A word that nearly only one label's training rows have."""

    word: str
    label: str
    rows: int
    share: float


def telling_words(texts: Sequence[str], labels: Sequence[str]) -> list[Telling]:
    """The words that give a label away most clearly: planted ones, leaks of the source, or honest ones.

    Of n rows with a word k have the label of frequency f: k / n ≥ `TELLING` and (k − nf) / √(nf(1 − f)) > `UNLIKELY`.
    Whether a word should decide is for the user to say.
    """
    frequency = {label: n / len(labels) for label, n in Counter(labels).items()}
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for text, label in zip(texts, labels, strict=True):
        for word in set(words_of(text)):
            seen[word][label] += 1
    found = []
    for word, counts in seen.items():
        rows = counts.total()
        (label, k), *_ = counts.most_common(1)
        f = frequency[label]
        if rows < ENOUGH or k < TELLING * rows or f >= 1:
            continue
        surprise = (k - rows * f) / math.sqrt(rows * f * (1 - f))
        if surprise > UNLIKELY:
            found.append((surprise, Telling(word, label, rows, k / rows)))
    return [telling for _, telling in sorted(found, key=lambda pair: (-pair[0], pair[1].word))[:TOLD]]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; where it is written without spaces, its characters in pairs."""
    words = []
    for run in re.findall(r"\w+", text.lower()):
        wide = any(ord(letter) > 0x2E7F for letter in run)
        words += [run[i : i + 2] for i in range(len(run) - 1)] if wide else [run]
    return words


def without(text: str, word: str) -> str:
    """A text without a word."""
    return " ".join(re.sub(_whole(word), " ", text, flags=re.IGNORECASE).split())
