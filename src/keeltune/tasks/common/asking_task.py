"""Tasks of models that write: what such a model reads of a row, and where its answer begins."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from typing import Any, ClassVar

from keeltune.data.dataset import Row
from keeltune.tasks.architectures.architecture import Architecture
from keeltune.tasks.common.asking import Asking
from keeltune.tasks.common.chat import PLAIN, Chat
from keeltune.tasks.common.control_tokens import encode_text, encoding_ahead
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.prompt import TAUGHT, Template, prompt_faults, taught_prompt
from keeltune.tasks.common.prompted import cut_source
from keeltune.tasks.task import Task


class AskingTask(Task):
    """A task whose rows are asked of a model: as a source, or as a prompt around it.

    The prompt is the recipe's; else the one that the model was taught the task with, which its configuration keeps;
    else the task's instruction (`asks`): a user's message where a decoder has a chat template, a text that ends in
    `cue` where it has none. An encoder-decoder without a prompt reads the source alone.
    """

    architecture: Architecture

    def setup(self) -> None:
        self._askings: dict[str, Asking] = {}

    # What a task says

    @abstractmethod
    def source(self, row: Row) -> str:
        """The text that is read."""

    def source_column(self, row: Row) -> str:
        """The column that holds the source."""
        return next(column.name for column in self.columns if column.required and not column.label)

    @abstractmethod
    def target(self, row: Row) -> str:
        """The text that is to be written."""

    # What a model reads of a row

    def source_inputs(self, row: Row) -> tuple[dict[str, Any], int, bool]:
        """What an encoder reads of a row, its length (of sound: the encoder's frames), and whether it was cut."""
        limit, source, cut, options = self.settings.max_length, self.source(row), False, self._limited
        if self.reads_within:
            within, column = self.asking(row), self.source_column(row)

            def length(text: str) -> int:
                return len(within.encoded(row, text, column)["input_ids"])

            source, cut = cut_source(self.tokenizer, source, limit, length)
            encoded = within.encoded(row, source, column, **options)
        else:
            encoded = encode_text(self.tokenizer, source, **options)
        truncated = cut or bool(encoded.encodings and encoded.encodings[0].overflowing)
        return dict(encoded), len(encoded["input_ids"]), truncated

    @property
    def _limited(self) -> dict[str, Any]:
        """What the tokenizer is told of the length that an encoder reads."""
        return {"truncation": self.settings.max_length is not None, "max_length": self.settings.max_length}

    def encoding_ahead(self, rows: Sequence[Row]) -> AbstractContextManager[Any]:
        """The sources that an encoder reads without a prompt, and the targets of those rows that have one."""
        ahead = ExitStack()
        if self.reads == "text" and not self.reads_prompt and not self.reads_within:
            labels = [column.name for column in self.columns if column.label and column.required]
            sources = [(self.source(row), None) for row in rows]
            targets = [(self.target(row), None) for row in rows if all(name in row.fields for name in labels)]
            ahead.enter_context(encoding_ahead(self.tokenizer, sources, **self._limited))
            ahead.enter_context(encoding_ahead(self.tokenizer, targets, target=True))
        return ahead

    def prompt_inputs(self, row: Row, answer: int) -> tuple[dict[str, Any], bool]:
        """What a decoder reads of a row before an answer of so many tokens, and whether the source was cut to fit."""
        limit, asking, column = self.settings.max_length, self.asking(row), self.source_column(row)
        room = None if limit is None else limit - max(answer, self.settings.max_new_tokens)
        text, cut = cut_source(self.tokenizer, self.source(row), room, lambda s: len(asking.tokens(row, s, column)))
        return {"input_ids": asking.tokens(row, text, column)}, cut

    def answer_ids(self, row: Row, target: str) -> list[int]:
        """The tokens of an answer that a decoder writes behind its prompt, its end among them."""
        return self.asking(row).answer(row, self.source(row), self.source_column(row), target)

    # What a decoder is asked

    verbatim: ClassVar[bool] = False
    """Whether an answer goes on with the source's own words where nothing stands behind these."""

    def asks(self) -> str:
        """What a decoder is asked: the task's instruction and the source, with columns in braces."""
        return "{source}"

    cue: ClassVar[str] = ""
    """What a decoder without a chat template reads last: the answer stands behind it."""

    @cached_property
    def given_prompt(self) -> Template | None:
        """The recipe's prompt, else the one that the model was taught this task with."""
        if self.settings.prompt is not None:
            return self.settings.prompt
        taught = taught_prompt(self.settings.config, type(self).__name__)
        return None if prompt_faults(taught, self.columns, self.input_names) else taught

    def prompt_of(self, row: Row) -> Template:
        """What a decoder reads of a row."""
        return self.default_prompt if self.given_prompt is None else self.given_prompt

    @property
    def default_prompt(self) -> Template:
        """What a decoder reads where nobody says it."""
        if self.tokenizer.chat_template:
            return [{"role": "user", "content": self.asks()}]
        return f"{self.asks()}\n\n{self.cue}" if self.cue else self.asks()

    @property
    def reads_within(self) -> bool:
        """Whether an encoder reads a prompt around the source, not the source alone."""
        return isinstance(self.given_prompt, str)

    @property
    def asked_with(self) -> Template | None:
        return self.given_prompt or (self.default_prompt if self.reads_prompt and self.reads == "text" else None)

    def annotate(self, config: Any, examples: Sequence[Example]) -> None:
        """Keeps the prompt, with which the model is to be asked wherever it is used."""
        super().annotate(config, examples)
        if self.asked_with is not None:
            setattr(config, TAUGHT, {"task": type(self).__name__, "prompt": self.asked_with})

    def asking(self, row: Row) -> Asking:
        """The row's prompt over the model's tokenizer."""
        prompt = self.prompt_of(row)
        key = str(prompt)
        if key not in self._askings:
            labels = [column.name for column in self.columns if column.label]
            self._askings[key] = Asking(prompt, self.chat, labels, self.architecture.end, verbatim=self.verbatim)
        return self._askings[key]

    @property
    def reads_chat(self) -> bool:
        """Whether a decoder is asked in messages."""
        if not self.architecture.reads_prompt or self.reads != "text":
            return False
        prompt = self.given_prompt
        return bool(self.tokenizer.chat_template) if prompt is None else not isinstance(prompt, str)

    @cached_property
    def chat(self) -> Chat:
        """The model's chat template, or one that stands in for it."""
        return Chat(self.tokenizer, None if self.tokenizer.chat_template else PLAIN)

    @property
    def input_names(self) -> list[str]:
        """The columns of which a prompt must name one."""
        return [column.name for column in self.columns if not column.label and column.kind == "text"]
