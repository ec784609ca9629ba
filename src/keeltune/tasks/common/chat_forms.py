"""The forms in which chat templates want messages, and whether a template writes all that a conversation says.

Templates differ in what they take: a call's arguments as a mapping or as text, content as text or in parts, the content
of a message that only calls tools as nothing or as an empty text. A form that a template does not take makes it raise,
or write Python's own spelling, or leave out what was said; so each form is tried, and held to what came of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keeltune.models.chat_template import Rendered, Rendering, TemplateError

SENTINEL = "Keel7tune"
"""A word that no conversation holds: what a template writes of a message shows by whether it writes this."""

Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Conversation:
    """Messages in our form (`data/conversations.py`), and the functions that they may call."""

    messages: Messages
    tools: Sequence[dict[str, Any]] | None = None

    def upto(self, end: int | None, *, opened: bool = False, marked: bool = False) -> Rendering:
        """Its first `end` messages; `opened`, `marked`: as `Rendering` has them."""
        return Rendering(self.messages[:end], self.tools, opened, marked)


def forms(conversation: Conversation, template: str) -> Iterator[Conversation]:
    """The conversation in each form that differs, the usual one first.

    A developer's message is the system's, under its newer name, where a template does not know it.
    """
    messages: Messages = conversation.messages
    if "developer" not in template:
        messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
    found: list[Messages] = []
    for form in (messages, _filled(messages), _written(messages), _written(_filled(messages)), _in_parts(messages)):
        if form not in found:
            found.append(form)
            yield replace(conversation, messages=form)


def _filled(messages: Messages) -> Messages:
    """With an empty text where a message has no content."""
    return [{"content": "", **m} for m in messages]


def _written(messages: Messages) -> Messages:
    """With the arguments of each call as the text that holds them in JSON."""
    return [_with_calls(m, [(c["function"]["name"], json.dumps(c["function"]["arguments"], ensure_ascii=False))
                            for c in m["tool_calls"]]) if "tool_calls" in m else m for m in messages]  # fmt: skip


def _in_parts(messages: Messages) -> Messages:
    """With content in parts of text."""
    return [
        {**m, "content": [{"type": "text", "text": m["content"]}]} if m.get("content") and _is_text(m) else m
        for m in messages
    ]


def _is_text(message: dict[str, Any]) -> bool:
    return isinstance(message["content"], str)


def text_in(content: Any) -> str:
    """What a message says: its content, or the last of the texts among its parts; nothing where there is none."""
    if isinstance(content, list):
        return next((str(part["text"]) for part in reversed(content) if part.get("type") == "text"), "")
    return str(content or "")


def _with_calls(message: dict[str, Any], functions: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The message with other functions called, under the calls' own ids."""
    calls = [
        {**call, "function": {"name": name, "arguments": arguments}}
        for call, (name, arguments) in zip(message["tool_calls"], functions, strict=True)
    ]
    return {**message, "tool_calls": calls}


@dataclass(frozen=True)
class Trial:
    """What of a conversation a text must hold: a rendering of it, `word` where a part of it was, and who said that.

    `number`: of the message, from 1; None: its tools. `never`: what it must not hold.
    """

    rendering: Rendering
    word: str
    number: int | None
    what: str
    never: Sequence[str] = ()

    def fault(self, rendered: Rendered | TemplateError) -> str | None:
        """What is wrong, if anything is."""
        if isinstance(rendered, TemplateError):
            return str(rendered)
        if self.word not in rendered.text:
            return f"{self.what}, which the model's chat template leaves out"
        if any(text in rendered.text for text in self.never):
            return f"{self.what}, which the model's chat template writes in Python's own spelling, or in quotes twice"
        return None


def trials(rendering: Rendering, text: str) -> list[Trial]:
    """What of a rendering does not show in its text by itself: each is rendered again, with a word in its place."""
    made: list[Trial] = []
    for number, message in enumerate(rendering.messages, 1):
        content, said = message.get("content"), f"what {message['role']} says"
        plain = text_in(content)
        if plain and plain.strip() not in text:
            beside = [p for p in content if p.get("type") != "text"] if isinstance(content, list) else []
            other = SENTINEL if isinstance(content, str) else [*beside, {"type": "text", "text": SENTINEL}]
            made.append(Trial(_changed(rendering, number, {**message, "content": other}), SENTINEL, number, said))
        if "tool_calls" in message:
            made += _call_trials(rendering, number, message)
    if rendering.tools:
        tools = [{**tool, "function": {**tool["function"], "name": SENTINEL}} for tool in rendering.tools]
        made.append(Trial(replace(rendering, tools=tools), SENTINEL, None, "tools"))
    return made


def _call_trials(rendering: Rendering, number: int, message: dict[str, Any]) -> Iterator[Trial]:
    """A call's name, and its arguments: as JSON writes them, once."""
    name, value = "Mast7tune", "Sail7tune"
    as_text = isinstance(message["tool_calls"][0]["function"]["arguments"], str)
    arguments: Any = {name: value}
    called = [(SENTINEL, json.dumps(arguments) if as_text else arguments) for _ in message["tool_calls"]]
    changed = _changed(rendering, number, _with_calls(message, called))
    never = (repr(arguments), json.dumps(json.dumps(arguments))[2:-2])
    yield Trial(changed, SENTINEL, number, "a call of a tool")
    yield Trial(changed, value, number, "a call's arguments", never)


def _changed(rendering: Rendering, number: int, message: dict[str, Any]) -> Rendering:
    messages = list(rendering.messages)
    messages[number - 1] = message
    return replace(rendering, messages=messages)
