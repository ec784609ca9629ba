"""Rows within a prompt, as text and tokens: columns in the places that the prompt names, the source cut to fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from keeltune.data.dataset import Row
from keeltune.tasks.common.control_tokens import encode_text, inert, written_in
from keeltune.tasks.common.padding import cut_text
from keeltune.tasks.common.prompt import Prompt, no_such_column
from keeltune.utils.errors import UserError


class Prompted:
    """A prompt over one tokenizer. `labels`: the columns that it cannot name."""

    def __init__(self, tokenizer: Any, template: str, labels: Sequence[str]):
        self.tokenizer, self.template, self.labels = tokenizer, template, labels

    def text(self, row: Row, source: str, column: str) -> str:
        """The prompt with the columns of this row that it names, `source` for `column` (and for `{source}`, where the
        row has no such column). Raises: UserError for a name that the row does not have."""

        def value(name: str) -> str:
            if name == column or (name == "source" and name not in row.fields):
                return source
            found = row.fields.get(name)
            if isinstance(found, str) or (isinstance(found, int | float) and not isinstance(found, bool)):
                return str(found)
            raise UserError(no_such_column(row, name, self.labels))

        return self.pieces.filled(lambda name: inert(self.tokenizer, value(name)) if self.commands else value(name))

    def encoded(self, text: str, **options: Any) -> Any:
        """A text of `text`, tokenized: the control tokens that the prompt itself writes are meant."""
        return self.tokenizer(text, **options) if self.commands else encode_text(self.tokenizer, text, **options)

    @cached_property
    def pieces(self) -> Prompt:
        """The prompt, parsed."""
        return Prompt.parse(self.template)

    @cached_property
    def commands(self) -> bool:
        """Whether the prompt writes control tokens."""
        return bool(written_in(self.tokenizer, [self.template]))


def cut_source(tokenizer: Any, source: str, room: int | None, length: Callable[[str], int]) -> tuple[str, bool]:
    """The source, cut so that what is made of it (`length` tokens) has room, and whether it was: what stands around it
    is never cut."""
    if room is None or length(source) <= room:
        return source, False
    kept = max(1, room - length(""))
    cut = cut_text(tokenizer, source, kept)
    while kept > 1 and length(cut) > room:  # tokens that were one with their neighbours
        kept -= 1
        cut = cut_text(tokenizer, source, kept)
    return cut, True
