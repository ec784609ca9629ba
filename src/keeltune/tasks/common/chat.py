"""A conversation in a model's chat template, as tokens: what the model is asked, and what it is to answer.

    prompt   the conversation before a turn, up to where the assistant begins (`add_generation_prompt`): what a model is
             asked with wherever it is used
    answer   what the template adds to it when the turn is there, up to the token that ends the turn, and that with it

Found by rendering each turn's conversation without and with it. A prompt that opens a thought (`<think>`) is part of
what a model is asked with: its answer closes the thought, after the thought that the message holds, or at once. A turn
that no token ends is ended by the tokenizer's end of text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from keeltune.models.chat_template import Rendered, Rendering, TemplateError, render, template_of
from keeltune.tasks.common.chat_fault import UNWRITTEN, ChatFault, of_message, of_template
from keeltune.tasks.common.chat_forms import Conversation, forms, text_in, trials
from keeltune.tasks.common.control_tokens import uncut, written_in

PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message.role + '|>\\n' + message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""The template of conversations for a model that has none."""

MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""Where a template says itself what of a turn is the assistant's own."""

OPENED = re.compile(r"<([\w-]+)>\s*\Z")
"""What a prompt opens beyond the header of the assistant's turn: a thought."""


@dataclass(frozen=True)
class Turn:
    """One answer of the assistant: the tokens that it is asked with, its own, and which of these are learnt."""

    prompt: list[int]
    answer: list[int]
    learnt: list[bool]


class Chat:
    """A tokenizer's chat template, or one that stands in for it (`template`)."""

    def __init__(self, tokenizer: Any, template: str | None = None):
        self.tokenizer, self.template = tokenizer, template

    def prompt(self, conversation: Conversation) -> list[int]:
        """The tokens that ask for an answer to a conversation. Raises: ChatFault."""
        conversation, control = self._marked(conversation)
        return self._encoded(self.asked(conversation), control)

    def asked(self, conversation: Conversation) -> str:
        """The text that asks for an answer to a conversation. Raises: ChatFault."""
        (asked,) = self._texts(conversation, lambda form: [form.upto(None, opened=True)])[1]
        return asked.text

    def turns(self, conversation: Conversation, turns: Sequence[int]) -> list[Turn]:
        """Those of the messages that are the assistant's, each as it is asked for and answered. Raises: ChatFault."""
        conversation, control = self._marked(conversation)
        marks = MARKED.search(self._template_for(conversation.tools)) is not None

        def wanted(form: Conversation) -> list[Rendering]:
            return [r for t in turns for r in (form.upto(t, opened=True), form.upto(t + 1, marked=marks))]

        form, texts = self._texts(conversation, wanted)
        return [
            self._turn(form, turn, asked, after, control)
            for turn, asked, after in zip(turns, texts[::2], texts[1::2], strict=True)
        ]

    @cached_property
    def ends(self) -> list[int]:
        """The token that ends an answer in this template; none where its conversations cannot be a word and a word."""
        said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            (turn,) = self.turns(Conversation(said), [1])
        except ChatFault:
            return []
        return turn.answer[-1:]

    @cached_property
    def thought_ends(self) -> list[str]:
        """What closes a thought in this template, such as `</think>`."""
        try:
            template = self._template_for(None)
        except ChatFault:  # said where a row is written
            return []
        return sorted(set(re.findall(r"</\w*(?:think|thought|reason)\w*>", template)))

    def _template_for(self, tools: Sequence[Any] | None) -> str:
        try:
            template = self.template or template_of(self.tokenizer, tools)
        except TemplateError as error:
            raise of_template(str(error)) from None
        assert template is not None
        return template

    # Texts

    def _texts(
        self, conversation: Conversation, wanted: Callable[[Conversation], list[Rendering]]
    ) -> tuple[Conversation, list[Rendered]]:
        """The conversation in the first form that its template takes and writes whole, and the texts `wanted` of it."""
        template, first = self._template_for(conversation.tools), None
        for form in forms(conversation, template):
            renderings = wanted(form)
            rendered = self._render(template, renderings)
            fault = self._refused(template, form, rendered) or self._unwritten(template, renderings, rendered)
            if fault is None:
                return form, [one for one in rendered if isinstance(one, Rendered)]
            first = fault if first is None or fault.kind == UNWRITTEN else first  # what is left out says more
        assert first is not None
        raise first

    def _render(self, template: str, renderings: Sequence[Rendering]) -> list[Rendered | TemplateError]:
        try:
            return render(template, self.tokenizer.special_tokens_map, renderings)
        except TemplateError as error:
            raise of_template(str(error)) from None

    def _refused(
        self, template: str, form: Conversation, rendered: Sequence[Rendered | TemplateError]
    ) -> ChatFault | None:
        """The template's own refusal, with the number of the message after which it refuses."""
        errors = [one for one in rendered if isinstance(one, TemplateError)]
        if not errors:
            return None
        prefixes = self._render(template, [form.upto(end) for end in range(1, len(form.messages) + 1)])
        taken = [number for number, one in enumerate(prefixes, 1) if isinstance(one, Rendered)]
        number = min(max(taken, default=0) + 1, len(form.messages))
        if not taken and any(kind in str(errors[0]) for kind in ("(TemplateSyntaxError)", "(SecurityError)")):
            return of_template(str(errors[0]))
        where = f"message {number} ({form.messages[number - 1]['role']})"
        return of_message(f"{where}: {errors[0]}", "refused by the template")

    def _unwritten(
        self, template: str, renderings: Sequence[Rendering], rendered: Sequence[Rendered | TemplateError]
    ) -> ChatFault | None:
        """What the longest of the texts does not hold of its conversation."""
        last = rendered[-1]
        assert isinstance(last, Rendered)
        tried = trials(renderings[-1], last.text)
        if not tried:
            return None
        for trial, result in zip(tried, self._render(template, [t.rendering for t in tried]), strict=True):
            if fault := trial.fault(result):
                where = "" if trial.number is None else f"message {trial.number}: "
                field = "tools" if trial.number is None else ""
                return of_message(where + fault, UNWRITTEN, field or "messages")
        return None

    def _answer(self, form: Conversation, turn: int, asked: str, after: str) -> str:
        """What is to be written behind what is asked, of the conversation as it is after the turn."""
        if after.startswith(asked):
            return after[len(asked) :]
        if after.startswith(header := asked.rstrip()):
            return after[len(header) :].lstrip()
        if (thought := OPENED.search(asked)) and after.startswith(header := asked[: thought.start()]):
            closed = f"{_thought(form.messages[turn], thought[1])}\n</{thought[1]}>\n\n"
            return closed + after[len(header) :].lstrip()
        (before,) = self._render(self._template_for(form.tools), [form.upto(turn)])
        header = asked.removeprefix(before.text) if isinstance(before, Rendered) else ""
        place = after.rfind(header) if header.strip() and header != asked else -1
        if place < 0:
            where = f"message {turn + 1}: a template that writes an answer otherwise than it asks for one"
            raise of_message(where, "refused by the template")
        return after[place + len(header) :]

    # Tokens

    def _turn(self, form: Conversation, turn: int, asked: Rendered, after: Rendered, control: bool) -> Turn:
        answer = self._answer(form, turn, asked.text, after.text)
        prompt, ids = self._behind(asked.text, answer, control)
        said = self._said(form.messages[turn], asked.text, answer, control)
        places = [i for i, token in enumerate(ids) if token in self._added]
        first = next((i for i in places if ids[: len(said)] == said and i >= len(said)), None) if said else None
        end = first if first is not None else next(iter(places[-1:]), None)
        if end is None or (first is None and self.tokenizer.decode(ids[end + 1 :]).strip()):
            eos = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
            ids = [*(said or ids), *eos]
            return Turn(prompt, ids, [True] * len(ids))
        ids = ids[: end + 1]
        learnt = [True] * len(ids)
        if after.spans and after.text == asked.text + answer and not control:
            learnt = self._own(after, len(prompt), ids) or learnt
        return Turn(prompt, ids, learnt)

    def _said(self, message: dict[str, Any], asked: str, answer: str, control: bool) -> list[int]:
        """An answer's tokens up to the end of its content; none where the template writes that otherwise."""
        said = text_in(message.get("content"))
        place = answer.rfind(said.strip()) if said.strip() else -1
        return [] if place < 0 else self._behind(asked, answer[: place + len(said.strip())], control)[1]

    def _own(self, after: Rendered, prompt: int, answer: list[int]) -> list[bool] | None:
        """Which of an answer's tokens its template marks as the assistant's own, and its end with them; None: none."""
        if not self.tokenizer.is_fast:
            return None
        read = self.tokenizer(after.text, add_special_tokens=False, return_offsets_mapping=True)
        places = read["offset_mapping"][prompt : prompt + len(answer)]
        if list(read["input_ids"])[prompt : prompt + len(answer)] != answer:
            return None
        own = [any(begin < last and first < end for first, last in after.spans) for begin, end in places]
        return [*own[:-1], True] if any(own) else None

    def _behind(self, asked: str, answer: str, control: bool) -> tuple[list[int], list[int]]:
        """The tokens of what is asked, as a model is asked it, and those of the answer behind it."""
        prompt, both = self._encoded(asked, control), self._encoded(asked + answer, control)
        if both[: len(prompt)] == prompt:
            return prompt, both[len(prompt) :]
        line, behind = self._encoded("\n"), self._encoded("\n" + answer, control)  # not as the beginning of a text
        return prompt, behind[len(line) :] if behind[: len(line)] == line else self._encoded(answer, control)

    @cached_property
    def _added(self) -> set[int]:
        """The tokens that no text is cut into."""
        return {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}

    def _encoded(self, text: str, control: bool = False) -> list[int]:
        from transformers.utils.chat_template_utils import encode_marked_chat

        if control:
            try:
                return list(encode_marked_chat(self.tokenizer, text))
            except ValueError as error:
                raise of_message(str(error), "control token in the data") from None
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    # Control tokens in the data: a text that spells one is not to end its turn

    def _marked(self, conversation: Conversation) -> tuple[Conversation, bool]:
        """The conversation with the control tokens that its texts spell marked as letters; whether there are any."""
        from transformers.utils.chat_template_utils import mark_control_tokens

        names = written_in(self.tokenizer, _texts_in(conversation.messages))
        if not names:
            return conversation, False
        pattern = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
        messages = _changed(conversation.messages, lambda text: uncut(self.tokenizer, text))
        return replace(conversation, messages=mark_control_tokens(messages, pattern)), True


def joined(turns: Sequence[Turn]) -> tuple[list[int], list[bool]] | None:
    """The turns as one sequence, with its trained tokens; None where a later turn is not asked for behind what came
    before it, token by token: its template rewrites earlier turns, such as those whose thoughts it leaves out."""
    ids: list[int] = []
    trained: list[bool] = []
    for turn in turns:
        if turn.prompt[: len(ids)] != ids:
            return None
        trained += [False] * (len(turn.prompt) - len(ids)) + turn.learnt
        ids = [*turn.prompt, *turn.answer]
    return ids, trained


def without_thought(text: str, ends: Iterable[str]) -> str:
    """What a text says behind its thought; all of it where it closes none."""
    for end in ends:
        text = text.rpartition(end)[2]
    return text.strip()


def _thought(message: dict[str, Any], tag: str) -> str:
    """The thought that a message holds: of its own field, or of its content."""
    for name in ("reasoning_content", "thinking", "reasoning"):
        if isinstance(message.get(name), str):
            return str(message[name]).strip("\n")
    content = message.get("content") or ""
    before, closed, _ = content.partition(f"</{tag}>") if isinstance(content, str) else ("", "", "")
    return before.replace(f"<{tag}>", "", 1).strip("\n") if closed else ""


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """A value of JSON with each text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    return [_changed(item, change) for item in value] if isinstance(value, list | tuple) else value


def _texts_in(value: Any) -> list[str]:
    if isinstance(value, dict | list | tuple):
        return [text for item in (value.values() if isinstance(value, dict) else value) for text in _texts_in(item)]
    return [value] if isinstance(value, str) else []
