"""What people bring for instruction tuning, as conversations: messages, prompt and completion, Alpaca's three columns.

messages | conversations                       a conversation (`data/conversations.py`)
prompt, completion                             one question, one answer
instruction, input, output                     Alpaca: the question in two parts, of which `input` may be empty
system, tools                                  beside each of them: what comes first, what may be called
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from keeltune.data.conversations import read_tools
from keeltune.data.dataset import Row
from keeltune.data.text_values import Refused, read_text
from keeltune.tasks.common.chat_forms import Conversation
from keeltune.tasks.common.fault import Fault

CONVERSATIONS = ("messages", "conversations")

FIX = "give the row messages: [{role, content}], or prompt and completion, or instruction, input and output"


def messages_column(row: Row) -> str | None:
    """The column that holds the row's conversation; None where it has none."""
    return next((name for name in CONVERSATIONS if name in row.fields), None)


def question_column(row: Row) -> str:
    """The column of the question, where the row is no conversation."""
    return "instruction" if "instruction" in row.fields and "prompt" not in row.fields else "prompt"


def answer_column(row: Row) -> str:
    """The column of the answer, where the row is no conversation."""
    return {"instruction": "output", "prompt": "completion"}[question_column(row)]


def faults(row: Row, *, labelled: bool) -> list[Fault]:
    """What is wrong with a row, of those columns that it uses."""
    found = list(_unreadable(row, labelled))
    if found:
        return found
    column = messages_column(row)
    return [] if column is None else list(_out_of_order(row.fields[column], column, labelled))


def _unreadable(row: Row, labelled: bool) -> Iterator[Fault]:
    checks: list[tuple[str, Any, bool]] = [("system", _text_or_nothing, False), ("tools", read_tools, False)]
    if messages_column(row) is None:
        checks += [(question_column(row), read_text, True)]
        checks += [(answer_column(row), read_text, True)] if labelled else []
        checks += [("input", _text_or_nothing, False)] if question_column(row) == "instruction" else []
    for name, check, needed in checks:
        if name not in row.fields:
            if needed:
                yield Fault(name, "missing field", "nothing", "text, where there are no messages", FIX)
            continue
        try:
            check(row.fields[name])
        except Refused as refused:
            yield Fault(name, refused.kind, repr(row.fields[name])[:80], refused.expected, refused.fix)
    if question_column(row) == "instruction" and messages_column(row) is None and row.fields.get("history"):
        yield Fault("history", "earlier turns", "a history", "earlier turns among the messages",
                    "write the row as messages: [{role, content}]")  # fmt: skip


def _out_of_order(messages: list[dict[str, Any]], column: str, labelled: bool) -> Iterator[Fault]:
    roles = [m["role"] for m in messages]
    if labelled and "assistant" not in roles:
        yield Fault(column, "no answer", f"roles {', '.join(roles)}", "an answer of the assistant to learn from",
                    "add a message with the role assistant, or delete the row")  # fmt: skip
        return
    if labelled and not answers(messages):
        yield Fault(column, "roles out of order", "message 1: assistant after nothing, and no answer behind it",
                    "an answer after a user's (or a tool's) message", "put the messages in order")  # fmt: skip
    for number, (previous, role) in enumerate(pairwise(roles), 2):
        if role == "assistant" and previous in ("system", "developer", "assistant"):
            expected = "an answer after a user's (or a tool's) message"
            found = f"message {number}: assistant after {previous}"
            yield Fault(column, "roles out of order", found, expected, "put the messages in order")
        if role in ("system", "developer"):
            yield Fault(column, "roles out of order", f"message {number}: {role} after the first message",
                        "system first, once", "put it first")  # fmt: skip


def answers(messages: list[dict[str, Any]]) -> list[int]:
    """The messages that answer: the assistant's, but for one that opens the conversation, which nothing asked for."""
    return [i for i, m in enumerate(messages) if m["role"] == "assistant" and i > 0]


def is_learnt(message: dict[str, Any]) -> bool:
    """Whether an answer is trained on: `"weight": 0` says that it is only read."""
    return message.get("weight") != 0


def conversation(row: Row, *, answered: bool) -> Conversation:
    """The row as a conversation, up to its last answer and with it, or without it."""
    fields, column = row.fields, messages_column(row)
    if column is not None:
        messages = list(fields[column])
    else:
        messages = [{"role": "user", "content": question(row)}]
        if answered:
            messages.append({"role": "assistant", "content": fields[answer_column(row)]})
    system = fields.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] not in ("system", "developer"):
        messages = [{"role": "system", "content": system}, *messages]
    if places := answers(messages):
        messages = messages[: places[-1] + (1 if answered else 0)]
    return Conversation(messages, tools(row))


def tools(row: Row) -> Sequence[dict[str, Any]] | None:
    """The functions that a row says may be called; None where it names none."""
    return read_tools(row.fields.get("tools")) or None


def question(row: Row) -> str:
    """What is asked, where the row is no conversation: of Alpaca's two parts the one behind the other."""
    given = row.fields.get("input") if question_column(row) == "instruction" else None
    asked = str(row.fields[question_column(row)])
    return f"{asked}\n\n{given}" if isinstance(given, str) and given.strip() else asked


def with_answer(row: Row, value: Any) -> Row:
    """The row with another answer, the last of its conversation, under the key it had."""
    column = messages_column(row)
    if column is None:
        return replace(row, fields={**row.fields, answer_column(row): value})
    messages = row.fields[column]
    earlier = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return replace(row, fields={**row.fields, column: [*earlier, {"role": "assistant", "content": value}]})


def _text_or_nothing(value: Any) -> Any:
    return value if value is None or (isinstance(value, str) and not value.strip()) else read_text(value)
