"""What differs between two texts: both stay whole, and a transcript's errors are those that jiwer counts."""

from __future__ import annotations

from itertools import pairwise

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeltune.reports.differences import (
    Piece,
    around,
    cut,
    likeness,
    marked,
    word_alignment,
    word_difference,
)

WORDS = st.lists(st.sampled_from(["a", "b", "c", "the", "cat", "sat", "on", "mat"]), max_size=12).map(" ".join)
TEXTS = st.text(alphabet="ab 我喜欢猫ไทย\n\t,.", max_size=40)


def joined(pieces: list[Piece], *kinds: str) -> str:
    return "".join(piece.text for piece in pieces if not kinds or piece.kind in kinds)


@given(TEXTS, TEXTS)
def test_a_difference_keeps_both_texts_whole_and_what_is_common_in_both(right: str, answer: str):
    one, other = word_difference(right, answer)
    assert (joined(one), joined(other)) == (right, answer)
    assert "".join(joined(one, "").split()) == "".join(joined(other, "").split())
    assert {piece.kind for piece in one} <= {"", "missing"}
    assert {piece.kind for piece in other} <= {"", "added"}


@given(TEXTS)
def test_a_text_does_not_differ_from_itself(text: str):
    one, other = word_difference(text, text)
    assert [piece.kind for piece in [*one, *other]] == [""] * (2 if text else 0)
    assert likeness(text, text) == 1.0


@pytest.mark.parametrize(
    ("right", "answer", "missing", "added"),
    [
        ("the quick brown fox", "the slow brown fox", ["quick "], ["slow "]),
        ("one two three", "one three", ["two "], []),
        ("one three", "one two three four", [], ["two ", "four"]),
        ("我喜欢猫和狗", "我喜欢狗", ["猫和"], []),  # characters, as the words have no spaces
        ("私は猫が好き", "私は犬が好き", ["猫"], ["犬"]),
        ("ฉันรักแมว", "ฉันรักหมา", ["แ", "ว"], ["ห", "า"]),
        ("你好 world", "你好 word", ["world"], ["word"]),
        ("", "x", [], ["x"]),
        ("x", "", ["x"], []),
    ],
)
def test_words_and_characters_that_differ(right, answer, missing, added):
    one, other = word_difference(right, answer)
    assert [piece.text for piece in one if piece.kind] == missing
    assert [piece.text for piece in other if piece.kind] == added


@given(WORDS, WORDS)
def test_an_alignment_has_the_errors_that_jiwer_counts(right: str, heard: str):
    pieces, errors = word_alignment(right, heard)
    assert joined(pieces, "", "missing").split() == right.split()
    assert joined(pieces, "", "added").split() == heard.split()
    if not right:
        assert errors == (0, 0, len(heard.split()))
        return
    counted = jiwer.process_words(right, heard or " ")
    assert sum(errors) == counted.substitutions + counted.deletions + counted.insertions
    assert sum(errors) / len(right.split()) == pytest.approx(jiwer.wer(right, heard or " "))
    pairs = pairwise(pieces)
    pure = sum(len(piece.text.split()) for piece in pieces if piece.kind == "missing")
    assert pure == errors.substitutions + errors.deletions
    assert sum(a.kind == "missing" and b.kind == "added" for a, b in pairs) >= min(1, errors.substitutions)


def test_an_alignment_by_hand():
    pieces, errors = word_alignment("she had a dog at home", "she has dog at her home")
    assert errors == (1, 1, 1)
    assert [(piece.text.strip(), piece.kind) for piece in pieces if piece.kind] == [
        ("had", "missing"), ("has", "added"), ("a", "missing"), ("her", "added"),
    ]  # fmt: skip


@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=4))
def test_marked_stretches_are_those_of_their_spans(text: str, places: list[tuple[int, int]]):
    spans = [(min(a, b, len(text)), min(max(a, b), len(text)), f"k{i}") for i, (a, b) in enumerate(places)]
    pieces = marked(text, spans)
    assert joined(pieces) == text
    for start, end, kind in spans:
        covered = "".join(piece.text for piece in pieces if kind in piece.kind.split())
        assert covered == text[start:end]


@pytest.mark.parametrize(
    ("most", "texts"),
    [(8, ["abc", "defgh"]), (5, ["abc", "de", " … (+3)"]), (3, ["abc", "", " … (+5)"]), (1, ["a", " … (+7)"])],
)
def test_a_cut_says_how_much_is_left(most, texts):
    assert [piece.text for piece in cut([Piece("abc"), Piece("defgh", "added")], most)] == texts


@given(st.integers(0, 200), st.integers(1, 50), st.integers(60, 80))
def test_a_window_lies_in_the_text_and_holds_the_first_place(start: int, length: int, most: int):
    text = "x" * 250
    end = min(start + length, 250)
    first, last = around(text, [(start, end)], most)
    assert 0 <= first <= start < last <= 250 or start == 250
    assert last - first == most
    assert end <= last
