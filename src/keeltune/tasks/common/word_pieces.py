"""What tokenizers do around words and between two texts, found out by trying; and the words that have room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reading:
    """What a model reads of a row: its inputs, and the position of the first token of each word that is read.

    The words are `first`, `first + 1`, …; the others were cut off. `truncated`: some word or part of one was.
    """

    inputs: dict[str, list[int]]
    heads: Sequence[int]
    first: int
    truncated: bool


@dataclass(frozen=True)
class Frame:
    """The special tokens that a tokenizer puts before, between and after two texts, and its segment numbers.

    `segments` has those of the tokens before, of the first text (one number), between, of the second, after; None
    where the tokenizer has none.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    segments: tuple[list[int], int, list[int], int, list[int]] | None

    def __len__(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def around(self, first: Sequence[int], second: Sequence[int]) -> tuple[dict[str, list[int]], int]:
        """The two texts as a model's inputs, and the position at which the second begins."""
        ids = [*self.before, *first, *self.between, *second, *self.after]
        inputs = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if self.segments:
            before, one, between, two, after = self.segments
            inputs["token_type_ids"] = [*before, *[one] * len(first), *between, *[two] * len(second), *after]
        return inputs, len(self.before) + len(first) + len(self.between)


def frame_of(tokenizer: Any, segments: int | None = None) -> Frame:
    """The frame of a pair of texts. `segments`: how many kinds of segments the model knows, None where it is not said.

    A tokenizer that puts nothing between two texts gets `special_token` there.
    """
    one, two = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in "ab")
    pair = tokenizer("a", "b")
    ids, kinds = list(pair["input_ids"]), list(pair.get("token_type_ids", ()))
    first = _start_of(one, ids, 0)
    second = _start_of(two, ids, first + len(one))
    end, between = second + len(two), ids[first + len(one) : second]
    split = None
    if kinds:
        kinds = [min(kind, (segments or max(kinds) + 1) - 1) for kind in kinds]
        inner = kinds[first + len(one) : second] or [kinds[first]]
        split = (kinds[:first], kinds[first], inner, kinds[second], kinds[end:])
    return Frame(ids[:first], between or [special_token(tokenizer)], ids[end:], split)


def frame_of_one(tokenizer: Any) -> Frame:
    """The frame of one text: the second of two, of which the first is empty."""
    text = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = tokenizer("a")
    ids, kinds = list(whole["input_ids"]), list(whole.get("token_type_ids", ()))
    first = _start_of(text, ids, 0)
    end = first + len(text)
    nothing: list[int] = []
    split = (kinds[:first], kinds[first], nothing, kinds[first], kinds[end:]) if kinds else None
    return Frame(ids[:first], [], ids[end:], split)


def _start_of(part: Sequence[int], whole: Sequence[int], start: int) -> int:
    """The index from `start` on at which `part` lies in `whole`; `start` where it does not."""
    return next((i for i in range(start, len(whole)) if whole[i : i + len(part)] == part), start)


def special_token(tokenizer: Any) -> int:
    """A token that no word is made of: the separator, or the end, or whatever other special one there is."""
    names = ("sep_token_id", "eos_token_id", "bos_token_id", "cls_token_id", "unk_token_id", "pad_token_id")
    return next(int(i) for name in names if (i := getattr(tokenizer, name, None)) is not None)


def space_before_words(tokenizer: Any) -> str:
    """What stands before a word for its tokens to be those that it has in a text: a space, or nothing."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    whole = ids("a b")
    return next((space for space in ("", " ") if ids("a") + ids(space + "b") == whole), "")


def window(pieces: Sequence[list[int]], center: int, room: int) -> tuple[int, list[list[int]]]:
    """The words around `center` that have room for their tokens: the first of them, and the tokens of each.

    Words are taken from the right and the left in turn; the last may lose tokens, never its first.
    """
    if sum(map(len, pieces)) <= room:
        return 0, list(pieces)
    chosen: dict[int, list[int]] = {}
    distances = range(len(pieces))
    for index in dict.fromkeys(p for d in distances for p in (center + d, center - d) if 0 <= p < len(pieces)):
        if room <= 0:
            break
        chosen[index] = pieces[index][:room]
        room -= len(chosen[index])
    return min(chosen, default=center), [chosen[index] for index in sorted(chosen)]


def windows(lengths: Sequence[int], room: int, overlap: int) -> list[tuple[int, int]]:
    """Words in windows [first, end) of at most `room` tokens; each shares up to `overlap` tokens with the next.

    Args: `lengths`: tokens of each word, `room` at most.
    """
    found, start = [], 0
    while True:
        end, used = start, 0
        while end < len(lengths) and (end == start or used + lengths[end] <= room):
            used += lengths[end]
            end += 1
        found.append((start, end))
        if end == len(lengths):
            return found
        start, shared = end, 0
        while start - 1 > found[-1][0] and shared + lengths[start - 1] <= overlap:
            start -= 1
            shared += lengths[start]
