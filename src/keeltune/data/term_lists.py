"""Pairs of terms that a counterfactual puts in one another's place, from a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from keeltune.utils.errors import Problem, UserError, shown
from keeltune.utils.files import open_regular

BUILT_IN = Path(__file__).with_name("counterfactual_terms.txt")


@dataclass(frozen=True)
class Terms:
    """What replaces what, and the kind of each term; lower case."""

    replaced_by: Mapping[str, str]
    kinds: Mapping[str, str]

    def kind_of(self, text: str) -> str | None:
        """The kind of a text's first term: terms of one kind go together, as he and his do. None where it has none.

        A term that stands for itself is none: it keeps a shorter one in it from being replaced.
        """
        terms = (match[0].lower() for match in self._pattern.finditer(text))
        kinds = (self.kinds.get(term) for term in terms if self.replaced_by.get(term) != term)
        return next((kind for kind in kinds if kind is not None), None)

    def variant(self, text: str, kind: str) -> str:
        """The text with all its terms of a kind replaced at once."""

        def other(match: re.Match[str]) -> str:
            term = match[0].lower()  # which may be none of these: letters that only `re` takes for the same (ı, ſ)
            return _cased(self.replaced_by[term], match[0]) if self.kinds.get(term) == kind else match[0]

        changed = self._pattern.sub(other, text)
        return " ".join(changed.split()) if any(not new for new in self.replaced_by.values()) else changed

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest = sorted(self.replaced_by, key=len, reverse=True)
        return re.compile("|".join(whole_word(term) for term in longest), re.IGNORECASE)


def whole_word(term: str) -> str:
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
    """The terms of a file as `counterfactual_terms.txt` describes it. Raises UserError with each line that is none."""
    try:
        with open_regular(file) as stream:
            lines = stream.read().decode("utf-8-sig").splitlines()
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
            location = f"{file}:{number}"
            problems.append(Problem(location, field, shown(line), "a | b, a > b or [kind]", "correct the line"))
            continue
        for old, new in pairs:
            if old and old not in replaced:
                replaced[old], kinds[old] = new, kind
    if problems or not replaced:
        raise UserError(problems or [Problem(str(file), field, "no term", "lines such as: he | she", "add some")])
    return Terms(replaced, kinds)
