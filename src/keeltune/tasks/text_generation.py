from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.families import text_generation as family
from keeltune.tasks.metrics.exact_match import ExactMatch


class TextGeneration(family.TextGeneration):
    """An answer to a prompt or a conversation: instruction tuning. Only what the assistant says is trained on.

    A row is `messages: [{role, content}]`, put into the model's own chat template, or `prompt` and `completion`. In a
    conversation of several turns each answer of the assistant is trained on; it is scored on the last.
    Metrics: loss (nats a token), perplexity, exact match of the last answer.
    """

    auto_models = ("AutoModelForCausalLM",)
    pipeline = "text-generation"
    scored_by = (ExactMatch,)
    columns = (
        Column("messages", "messages", required=False),
        Column("prompt", "text", required=False),
        Column("completion", "text", required=False, label=True),
    )

    @property
    def reported(self) -> tuple[str, ...]:
        return ("loss", "perplexity", "exact_match")

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> list[Fault]:
        fields = row.fields
        if "messages" not in fields:
            needed = ("prompt", "completion") if labelled else ("prompt",)
            lost = [name for name in needed if name not in fields]
            fix = "give the row messages: [{role, content}], or prompt and completion"
            return [Fault(name, "missing field", "nothing", "text, where there are no messages", fix) for name in lost]
        messages = fields["messages"]
        roles = [m["role"] for m in messages]
        if labelled and "assistant" not in roles:
            return [
                Fault("messages", "no answer", f"roles {', '.join(roles)}", "an answer of the assistant to learn from",
                      "add a message with the role assistant, or delete the row")
            ]  # fmt: skip
        faults = []
        for previous, role in zip([None, *roles], roles, strict=False):
            if role == "assistant" and previous in (None, "system", "assistant"):
                found = f"assistant after {previous or 'nothing'}"
                expected = "an answer after a user's (or a tool's) message"
                faults.append(Fault("messages", "roles out of order", found, expected, "put the messages in order"))
        if "system" in roles[1:]:
            faults.append(
                Fault("messages", "roles out of order", "system after the first message", "system first, once",
                      "put it first")
            )  # fmt: skip
        return faults

    def source(self, row: Row) -> str:
        return str(row.fields["prompt"])

    def target(self, row: Row) -> str:
        return str(row.fields["completion"])

    def with_target(self, row: Row, value: Any) -> Row:
        if "messages" not in row.fields:
            return replace(row, fields={**row.fields, "completion": value})
        messages = row.fields["messages"]
        earlier = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        return replace(row, fields={**row.fields, "messages": [*earlier, {"role": "assistant", "content": value}]})

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        if "messages" in row.fields:
            return [self._conversation(row, labelled)]
        return super().encode(row, labelled=labelled)

    def openings(self, rows: Sequence[Row]) -> list[Example]:
        """A decoder of text begins from nothing: its first token alone, once for each row."""
        starts = (self.tokenizer.bos_token_id, next(iter(self.architecture.end), None))
        first = next(([token] for token in starts if token is not None), [])
        if not first:
            return super().openings(rows)
        return [self.architecture.example({"input_ids": first}, [], f"drawn {n}", False) for n in range(len(rows))]  # type: ignore[attr-defined]

    def _prompt_ids(self, row: Row, source: str) -> list[int]:
        text = self.settings.prompt.replace("{prompt}", source) if self.settings.prompt else source
        ids = list(self.tokenizer(text)["input_ids"])
        end = self.architecture.end
        return ids[:-1] if len(ids) > 1 and end and ids[-1] == end[0] else ids

    def _conversation(self, row: Row, labelled: bool) -> Example:
        """Each assistant turn is what the template adds to the turns before it; all else is not trained on.

        Text before and after a turn's beginning is tokenized apart, as it is when the model is asked for the turn.
        Where a template rewrites earlier turns when a later one comes (reasoning that is dropped), the last turn alone
        counts.
        """
        messages = row.fields["messages"]
        turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        if not labelled:
            prompt = self._pieces([self._text(messages[: turns[-1] if turns else None], opened=True)])
            ids = prompt[0]
            return self.architecture.marked({"input_ids": ids}, ids, [False] * len(ids), row.key, False)  # type: ignore[attr-defined]
        pieces = self._turns(messages, turns) or self._turns(messages, turns[-1:]) or []
        encoded = self._pieces(pieces)
        ids = [i for piece in encoded for i in piece]
        trained = [n % 2 == 1 for n, piece in enumerate(encoded) for _ in piece]
        begin = len(ids) - len(encoded[-1])  # the last answer's
        limit = self.settings.max_length
        truncated = limit is not None and len(ids) > limit
        if truncated and limit is not None:  # the end is what matters: the last answer, and as much before it as fits
            begin = max(1, begin - (len(ids) - limit))
            ids, trained = ids[-limit:], trained[-limit:]
        return self.architecture.marked({"input_ids": ids[:begin]}, ids, trained, row.key, truncated)  # type: ignore[attr-defined]

    def _turns(self, messages: Sequence[dict[str, str]], turns: Sequence[int]) -> list[str] | None:
        """Text before, in, between … the assistant's turns; None where the template does not just add to what was."""
        pieces: list[str] = []
        done = ""
        for turn in turns:
            for text in (self._text(messages[:turn], opened=True), self._text(messages[: turn + 1], opened=False)):
                if not text.startswith(done):
                    return None
                pieces.append(text[len(done) :])
                done = text
        return pieces

    def _text(self, messages: Sequence[dict[str, str]], *, opened: bool) -> str:
        """A conversation in the model's template; `opened`: up to where the assistant begins."""
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=opened)
            return str(text)
        end = self.tokenizer.eos_token or ""
        parts = [f"<|{m['role']}|>\n{m['content']}{end if m['role'] == 'assistant' else ''}\n" for m in messages]
        text = "".join(parts) + ("<|assistant|>\n" if opened else "")
        return (self.tokenizer.bos_token or "") + text

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]

    def gold(self, row: Row) -> Any:
        if "messages" in row.fields:
            return [m["content"] for m in row.fields["messages"] if m["role"] == "assistant"][-1]
        return row.fields["completion"]
