"""Conversations as people bring them, in one form: role, content as text, tool calls with their arguments as mappings.

    [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]            chat completions
    [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]                     ShareGPT
    {"role": "user", "content": [{"type": "text", "text": "…"}]}                         content in parts
    {"role": "assistant", "tool_calls": [{"function": {"name": "…", "arguments": …}}]}   a call, content null or absent

What cannot be read is refused with the number of its message, from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.data.text_values import Refused, read_text
from keeltune.utils.errors import nearest, visible
from keeltune.utils.json import JsonFault, parse_json

ROLES = ("system", "developer", "user", "assistant", "tool")

SHAREGPT = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "assistant": "assistant", "function_call": "assistant", "observation": "tool", "function_response": "tool",
    "tool": "tool",
}  # fmt: skip
"""Who speaks in ShareGPT's form, and our role."""

FIX = 'write it as [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'


def read_messages(value: Any) -> list[dict[str, Any]]:
    """A conversation's messages: `role`, `content` (absent where a message only calls tools), perhaps `tool_calls`.

    A text that holds JSON is read as that. Raises: Refused, with the number of the message.
    """
    value = _from_json(value)
    if not isinstance(value, list) or not value:
        raise Refused("not a conversation", "a list of messages", FIX)
    return [_numbered(number, message) for number, message in enumerate(value, 1)]


def read_tools(value: Any) -> list[dict[str, Any]]:
    """The functions that a conversation may call, each as {"type": "function", "function": {"name", …}}; or none.

    Raises: Refused.
    """
    value = _from_json(value)
    fix = 'write it as [{"type": "function", "function": {"name": "…", "parameters": {…}}}]'
    if value is None or value in ("", [], {}):
        return []
    tools = []
    for number, tool in enumerate(value if isinstance(value, list) else [value], 1):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Refused("not tools", f"a list of functions with names (tool {number})", fix)
        tools.append(_without_nothing({"type": "function", "function": function}))
    return tools


def _without_nothing(value: Any) -> Any:
    """Without keys that hold nothing: a table of files gives each record the keys of all others."""
    if isinstance(value, dict):
        return {key: _without_nothing(item) for key, item in value.items() if item is not None}
    return [_without_nothing(item) for item in value] if isinstance(value, list) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, str) and value.strip():
        try:
            return parse_json(value)
        except JsonFault:
            pass
    return value


def _numbered(number: int, message: Any) -> dict[str, Any]:
    """A message in our form; what is wrong with it is said with its number."""
    try:
        return _message(message)
    except Refused as refused:
        raise Refused(refused.kind, f"message {number}: {refused.expected}", refused.fix) from None


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Refused("not a message", "role and content", FIX)
    message = {name: value for name, value in message.items() if value is not None}
    if "role" not in message and {"from", "value"} <= message.keys():
        message = _from_sharegpt(message)
    message = _from_function_call(message)
    if not {"role"} <= message.keys() or not {"content", "tool_calls"} & message.keys():
        raise Refused("not a message", "role and content", FIX)
    role = message["role"]
    if role not in ROLES:
        near = nearest(role, ROLES)
        raise Refused("unknown role", f"one of the roles {', '.join(ROLES)}{near}", "correct the role")
    if calls := message.pop("tool_calls", None):
        if role != "assistant":
            raise Refused("tools called by another", f"tool calls of the assistant, not of {role}", "correct the role")
        message["tool_calls"] = [_call(call) for call in _as_list(calls)]
    content = _content(message.pop("content", None))
    if content.strip() or role == "tool":
        message["content"] = read_text(content) if content.strip() else ""
    elif "tool_calls" not in message:
        fix = "fill it, or leave the message out"
        raise Refused("empty text", f"content that is not blank, where {role} calls no tool", fix)
    return {"role": role, **({"content": message["content"]} if "content" in message else {}), **message}


def _content(value: Any) -> str:
    """A message's content as one text, of parts one behind the other."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise Refused("not text", "content as text, or as parts of text", "write it as text, in quotation marks")
    texts = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind not in ("text", "input_text", "output_text"):
            fix = "leave the part out, or take a task that reads pictures or sound"
            raise Refused("not text", f"parts of text, not of {visible(str(kind))}", fix)
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise Refused("not text", 'parts as in {"type": "text", "text": "…"}', "write the parts so")
        texts.append(text)
    return "".join(texts)


def _from_sharegpt(message: dict[str, Any]) -> dict[str, Any]:
    said = message.pop("from")
    value = message.pop("value")
    if said not in SHAREGPT:
        raise Refused("unknown role", f"one of {', '.join(SHAREGPT)}{nearest(said, SHAREGPT)}", "correct the role")
    if said == "function_call":
        return {**message, "role": "assistant", "tool_calls": _as_list(_from_json(value))}
    return {**message, "role": SHAREGPT[said], "content": value}


def _from_function_call(message: dict[str, Any]) -> dict[str, Any]:
    """The older form of a tool call and of its answer."""
    if "function_call" in message:
        message = {**message, "tool_calls": [message["function_call"]]}
        del message["function_call"]
    return {**message, "role": "tool"} if message.get("role") == "function" else message


def _call(call: Any) -> dict[str, Any]:
    fix = 'write it as {"type": "function", "function": {"name": "…", "arguments": {…}}}'
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise Refused("not a tool call", "tool calls with a function's name and arguments", fix)
    arguments = _from_json(function.get("arguments", function.get("parameters")))
    if arguments is None or arguments == "":
        arguments = {}
    if not isinstance(arguments, dict):
        raise Refused("not a tool call", "arguments as a mapping, or as a text that holds one in JSON", fix)
    identity = {"id": call["id"]} if isinstance(call, Mapping) and call.get("id") is not None else {}
    return {"type": "function", **identity, "function": {"name": function["name"], "arguments": arguments}}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
