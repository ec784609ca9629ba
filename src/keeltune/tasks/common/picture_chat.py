"""A picture in a conversation: messages whose content has its place, as chat processors have it.

"{image}Describe it."   ->   [{"type": "image"}, {"type": "text", "text": "Describe it."}]
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from keeltune.data.dataset import Row
from keeltune.models.chat_template import template_of
from keeltune.tasks.common.chat import Chat
from keeltune.tasks.common.chat_fault import in_conversation
from keeltune.tasks.common.chat_forms import Conversation
from keeltune.tasks.common.prompt import Template, place_faults, prompt_or_none, taught_prompt, texts_of
from keeltune.tasks.families.text_generation import TextGeneration

ASKED = ({"role": "user", "content": "{image}Describe the image in one short sentence."},)
"""What a chat model is asked of a picture where nobody says it."""


class PictureTask(TextGeneration):
    """A task of pictures: what a model is asked of one, in its processor's chat template where it has one."""

    reads = "image"

    @property
    def mark(self) -> str | None:
        """What stands for a picture in a text, where the processor puts the picture's tokens in its place."""
        mark = getattr(self.processor, "image_token", None)  # BLIP-2's is an AddedToken
        return None if mark is None else str(mark)

    @cached_property
    def given_prompt(self) -> Template | None:
        if self.settings.prompt is not None:
            return self.settings.prompt
        taught = taught_prompt(self.settings.config, type(self).__name__)
        return None if place_faults(taught, "image", "") else taught

    @property
    def asked_with(self) -> Template | None:
        return self.given_prompt or (list(ASKED) if self.reads_chat else None)

    @property
    def reads_chat(self) -> bool:
        if not self.architecture.reads_prompt or self.mark is None or isinstance(self.given_prompt, str):
            return False
        return template_of_processor(self.processor, self.tokenizer) is not None

    @cached_property
    def chat(self) -> Chat:
        return Chat(self.tokenizer, template_of_processor(self.processor, self.tokenizer))

    @cached_property
    def shown(self) -> list[dict[str, Any]]:
        """The messages that a chat model is asked in."""
        assert self.asked_with is not None
        return shown(self.asked_with)

    def answer_ids(self, row: Row, target: str) -> list[int]:
        if not self.reads_chat:
            return super().answer_ids(row, target)
        with in_conversation(row):
            said = [*self.shown, {"role": "assistant", "content": target}]
            return self.chat.turns(Conversation(said), [len(said) - 1])[0].answer

    def prompt_of(self, row: Row) -> Template:
        return self.given_prompt or ""


def template_of_processor(processor: Any, tokenizer: Any) -> str | None:
    """The chat template of a processor, else of its tokenizer; None where there is none."""
    own = getattr(processor, "chat_template", None)
    if isinstance(own, dict):
        own = own.get("default")
    return str(own) if own else template_of(tokenizer)


def shown(prompt: Template, place: str = "image") -> list[dict[str, Any]]:
    """A prompt's messages with a picture where `{image}` stands, else before what the user says first."""
    assert not isinstance(prompt, str)
    named = any(place in prompt_or_none(text).names for text in texts_of(prompt))
    first = next(i for i, message in enumerate(prompt) if message["role"] == "user")
    return [
        {"role": m["role"], "content": _parts(m["content"], place, first=not named and i == first)}
        for i, m in enumerate(prompt)
    ]


def _parts(text: str, place: str, *, first: bool) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = [{"type": place}] if first else []
    for literal, name in prompt_or_none(text).pieces:
        if literal.strip():
            parts.append({"type": "text", "text": literal.strip()})
        if name is not None:
            parts.append({"type": place})
    return parts


def special_tokens(tokenizer: Any, text: str) -> dict[str, bool]:
    """Whether a processor puts the beginning of a text before one that a template wrote: not where it is there, as
    `apply_chat_template` of `transformers.ProcessorMixin` has it."""
    begins = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return {"add_special_tokens": False} if begins else {}


def marks_itself(processor: Any, mark: str, picture: Any, plain: str, marked: str) -> bool:
    """Whether a processor puts what stands for the picture into every text, and so counts two in a `marked` one."""
    place = processor.tokenizer.convert_tokens_to_ids(mark)
    counts = []
    for text in (plain, marked):
        try:
            ids = processor(images=[picture], text=[text])["input_ids"]
            counts.append(sum(i == place for row in ids for i in row))
        except ValueError:  # it wants just one mark for each picture
            counts.append(None)
    without, with_one = counts
    return with_one is None or bool(without and without < with_one)
