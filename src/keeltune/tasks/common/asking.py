"""Rows as what a decoder is asked: within a prompt that is a text, or within messages in the model's chat template.

    "Summarize this.\\n\\n{document}\\n\\nSummary:"                  the answer stands behind it (`continuation.py`)
    [{"role": "user", "content": "Summarize this.\\n\\n{document}"}]   the answer is the assistant's next message

The answer's tokens are those that the model would write itself, with the end of the turn in a chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from keeltune.data.dataset import Row
from keeltune.tasks.common.chat import Chat
from keeltune.tasks.common.chat_fault import in_conversation
from keeltune.tasks.common.chat_forms import Conversation
from keeltune.tasks.common.continuation import continued, opened
from keeltune.tasks.common.control_tokens import encode_text
from keeltune.tasks.common.prompt import Template
from keeltune.tasks.common.prompted import Prompted


class Asking:
    """A prompt over one tokenizer.

    labels    the columns that it cannot name
    ends      the token that ends a text, which no prompt ends in; empty where the tokenizer has none
    verbatim  whether a prompt that ends in a column is gone on with as it stands, without a blank
    """

    def __init__(self, prompt: Template, chat: Chat, labels: Sequence[str], ends: Sequence[int], *, verbatim: bool):
        self.prompt, self.chat, self.labels, self.ends = prompt, chat, labels, list(ends)
        self.verbatim = verbatim and isinstance(prompt, str) and prompt.endswith("}")

    @property
    def tokenizer(self) -> Any:
        return self.chat.tokenizer

    def messages(self, row: Row, source: str, column: str) -> list[dict[str, Any]]:
        """What is asked in a chat, `source` in the place of `column`."""
        assert not isinstance(self.prompt, str)
        texts = [part.text(row, source, column).strip() for part in self._parts]
        return [{"role": m["role"], "content": text} for m, text in zip(self.prompt, texts, strict=True)]

    def text(self, row: Row, source: str, column: str) -> str:
        """What is asked as a text."""
        return self._parts[0].text(row, source, column)

    def encoded(self, row: Row, source: str, column: str, **options: Any) -> Any:
        """The same as an encoder reads it, with the tokenizer's own marks."""
        return self._parts[0].encoded(self.text(row, source, column), **options)

    def tokens(self, row: Row, source: str, column: str) -> list[int]:
        """The tokens of what is asked."""
        if not isinstance(self.prompt, str):
            with in_conversation(row):
                return self.chat.prompt(Conversation(self.messages(row, source, column)))
        text = self.text(row, source, column)
        ids = list(self._parts[0].encoded(text if self.verbatim else opened(text))["input_ids"])
        return ids[:-1] if len(ids) > 1 and self.ends and ids[-1] == self.ends[0] else ids

    def answer(self, row: Row, source: str, column: str, answer: str) -> list[int]:
        """The tokens of the answer behind it, its end among them."""
        if not isinstance(self.prompt, str):
            with in_conversation(row):
                said = [*self.messages(row, source, column), {"role": "assistant", "content": answer}]
                return self.chat.turns(Conversation(said), [len(said) - 1])[0].answer
        if self.verbatim:
            ids = list(encode_text(self.tokenizer, answer, add_special_tokens=False)["input_ids"])
        else:
            ids = continued(self.tokenizer, self.text(row, source, column), answer)
        return [*ids, *self.ends]

    @cached_property
    def _parts(self) -> list[Prompted]:
        texts = [self.prompt] if isinstance(self.prompt, str) else [m["content"] for m in self.prompt]
        return [Prompted(self.tokenizer, text, self.labels) for text in texts]
