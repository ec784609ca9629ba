"""A tokenizer's chat template: conversations -> text, in a process of its own whose time and memory are bounded."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RENDERER = Path(__file__).with_name("chat_renderer.py")

KEPT = ("PATH", "SYSTEMROOT", "TZ")
"""What of the environment the renderer gets: no key and no token."""


SECONDS = 2.0
"""Processor time that a template may use at once."""


class TemplateError(Exception):
    """A template that writes no text. `bound`: because it goes beyond what it may take, whatever the conversation."""

    def __init__(self, message: str, *, bound: bool = False):
        super().__init__(message)
        self.bound = bound


@dataclass(frozen=True)
class Rendering:
    """What to render. `opened`: up to where the assistant's next answer begins; `marked`: with `{% generation %}`'s
    places."""

    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]] | None = None
    opened: bool = False
    marked: bool = False


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and the places [begin, end) that the template marks as the assistant's own."""

    text: str
    spans: Sequence[tuple[int, int]] = ()


def template_of(tokenizer: Any, tools: Sequence[Any] | None = None) -> str | None:
    """The template for conversations with or without tools, as `apply_chat_template` chooses it; None: there is none.

    TemplateError where there are several, and none for this.
    """
    if not tokenizer.chat_template:
        return None
    try:
        return str(tokenizer.get_chat_template(tools=tools))
    except ValueError as error:
        raise TemplateError(str(error)) from None


def render(
    template: str, variables: Mapping[str, Any], renderings: Sequence[Rendering]
) -> list[Rendered | TemplateError]:
    """Each rendering's text as `apply_chat_template(tokenize=False)` would write it, or why there is none.

    `variables`: what else the template knows, the tokenizer's `special_tokens_map`.
    Raises: TemplateError where the template goes beyond its bounds (`chat_renderer.py`), and for every later call.
    """
    requests = [
        {
            "messages": [{k: v for k, v in message.items() if v is not None} for message in one.messages],
            "tools": None if one.tools is None else list(one.tools),
            "add_generation_prompt": one.opened,
            "return_assistant_tokens_mask": one.marked,
            **variables,
        }
        for one in renderings
    ]
    answers = RENDERING.ask(template, requests)
    return [
        TemplateError(f"{answer['message']} ({answer['error']})")
        if "error" in answer
        else Rendered(answer["text"], [(begin, end) for begin, end in answer["spans"]])
        for answer in answers
    ]


BOUNDS = ("memory", "depth", "length")


class Renderer:
    """The process, started when it is first asked and again after a template has ended it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0
        self.lock = threading.Lock()
        self.refused: dict[str, str] = {}
        """Templates that went beyond their bounds once, and how."""

    def ask(self, template: str, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        with self.lock:
            if template not in self.refused:
                answers = self._answers(template, requests)
                excess = [answer["message"] for answer in answers if answer.get("error") in BOUNDS]
                if not excess:
                    return answers
                self.refused[template] = excess[0]
            raise TemplateError(self.refused[template], bound=True)

    def _answers(self, template: str, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        line = json.dumps({"template": template, "renders": requests}).encode() + b"\n"
        try:
            process.stdin.write(line)
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        except BaseException:  # interrupted: its answer would be taken for that of the next request
            process.kill()
            self.close()
            raise
        if answer.endswith(b"\n"):
            return list(json.loads(answer))
        status = self.close()
        found = f"more processor time or memory than it may (its process ended: {status})"
        return [{"error": "length", "message": found}]

    def _started(self) -> subprocess.Popen[bytes]:
        """The running process; one that was forked with its owner belongs to the owner."""
        if self.process is None or self.owner != os.getpid() or self.process.poll() is not None:
            path = json.dumps([folder for folder in sys.path if folder])
            environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {"HF_HUB_OFFLINE": "1"}
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(RENDERER), path, str(SECONDS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            self.owner = os.getpid()
        return self.process

    def close(self) -> int | None:
        """Ends the process, where it is this one's; its status."""
        process, self.process = self.process, None
        if process is None or self.owner != os.getpid():
            return None
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
        try:
            return process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


RENDERING = Renderer()

atexit.register(RENDERING.close)
