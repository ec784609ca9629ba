"""What is wrong with a conversation for a model's chat template, or with the template."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keeltune.data.dataset import Row
from keeltune.utils.errors import Problem, UserError

UNWRITTEN = "not written by the template"
"""The kind of what a template takes and leaves out."""


class ChatFault(Exception):
    """A conversation that a template does not take. `field`: the row's column, or the model."""

    def __init__(self, found: str, expected: str, fix: str, *, kind: str, field: str):
        super().__init__(found)
        self.found, self.expected, self.fix, self.kind, self.field = found, expected, fix, kind, field


def of_message(found: str, kind: str, field: str = "messages") -> ChatFault:
    """A fault of a row; `found` names the message by its number."""
    expected = "a conversation that the model's chat template takes and writes whole"
    fix = "change the row, or leave it out (data.bad_rows: skip), or take a model whose template knows this"
    return ChatFault(found, expected, fix, kind=kind, field=field)


def of_template(found: str) -> ChatFault:
    """A fault of the template, whatever the row."""
    expected = "a chat template that writes conversations, within 2 s of processor time and 1 GiB of memory"
    fix = "correct the template in the model folder (chat_template.jinja or tokenizer_config.json)"
    return ChatFault(f"the chat template: {found}", expected, fix, kind="chat template", field="model")


@contextmanager
def in_conversation(row: Row) -> Iterator[None]:
    """A conversation that its template does not take becomes a problem of its row."""
    try:
        yield
    except ChatFault as fault:
        where = f"{row.file}:{row.line}"
        raise UserError(Problem(where, fault.field, fault.found, fault.expected, fault.fix, fault.kind)) from None
