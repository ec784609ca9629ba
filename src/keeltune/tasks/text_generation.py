from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.tasks.architectures.causal import Causal
from keeltune.tasks.common import instruction_rows
from keeltune.tasks.common.chat import PLAIN, Turn, joined, without_thought
from keeltune.tasks.common.chat_fault import in_conversation
from keeltune.tasks.common.chat_forms import Conversation
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.prompt import Template, prompt_faults
from keeltune.tasks.families import text_generation as family
from keeltune.tasks.metrics.exact_match import ExactMatch
from keeltune.utils.errors import Problem, UserError

CONVERSATION = "conversation"
"""The note of an example that is a conversation in a template."""


class TextGeneration(family.TextGeneration):
    """An answer to a prompt or a conversation: instruction tuning. Only what the assistant says is trained on.

    A row is `messages: [{role, content}]` (or ShareGPT's `conversations: [{from, value}]`), put into the model's own
    chat template with the functions of `tools`; or `prompt` and `completion`; or Alpaca's `instruction`, `input` and
    `output`. In a conversation of several turns each answer of the assistant is trained on, as the model is asked for
    it: in one sequence where the template only adds to what was said, else an example a turn. It is scored on the last.
    Metrics: loss (nats a token), perplexity, exact match of the last answer, its thought left out.
    """

    auto_models = ("AutoModelForCausalLM",)
    pipeline = "text-generation"
    scored_by = (ExactMatch,)
    columns = (
        Column("messages", "messages", required=False),
        Column("conversations", "messages", required=False),
        Column("prompt", "text", required=False),
        Column("completion", "text", required=False, label=True),
        Column("instruction", "anything", required=False),
        Column("input", "anything", required=False),
        Column("output", "anything", required=False, label=True),
        Column("system", "anything", required=False),
        Column("tools", "anything", required=False),
    )
    verbatim = True

    @property
    def reported(self) -> tuple[str, ...]:
        return ("loss", "perplexity", "exact_match")

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> list[Fault]:
        return instruction_rows.faults(row, labelled=labelled)

    def recipe_faults(self) -> list[Fault]:
        return prompt_faults(self.settings.prompt, self.columns, self.input_names)

    @property
    def input_names(self) -> list[str]:
        return ["prompt", "instruction"]

    def source(self, row: Row) -> str:
        return str(row.fields[self.source_column(row)])

    def source_column(self, row: Row) -> str:
        return instruction_rows.question_column(row)

    def target(self, row: Row) -> str:
        return str(row.fields[instruction_rows.answer_column(row)])

    def with_target(self, row: Row, value: Any) -> Row:
        return instruction_rows.with_answer(row, value)

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        if not self._is_conversation(row):
            return super().encode(row, labelled=labelled)
        return self._conversation(row, labelled, every=True)

    def encode_scored(self, row: Row, *, labelled: bool = True) -> list[Example]:
        if not self._is_conversation(row):
            return super().encode_scored(row, labelled=labelled)
        return self._conversation(row, labelled, every=False)

    def openings(self, rows: Sequence[Row]) -> list[Example]:
        """A decoder of text begins from nothing: its first token alone, once for each row."""
        starts = (self.tokenizer.bos_token_id, next(iter(self.architecture.end), None))
        first = next(([token] for token in starts if token is not None), [])
        if not first:
            return super().openings(rows)
        return [self._causal.example({"input_ids": first}, [], f"drawn {n}", False) for n in range(len(rows))]

    def notices(self, examples: Sequence[Example]) -> list[str]:
        plain = not self.tokenizer.chat_template and any(CONVERSATION in e.notes for e in examples)
        lacking = "the model has no chat template: conversations are written in lines <|role|>"
        return [*super().notices(examples), *([lacking] if plain else [])]

    def adopt(self, model: Any, processor: Any, examples: Sequence[Example] = ()) -> list[str]:
        """A model that was taught conversations alone, and has no template for them, keeps the one that stood in."""
        notes = super().adopt(model, processor)
        if examples and not self.tokenizer.chat_template and all(CONVERSATION in e.notes for e in examples):
            self.tokenizer.chat_template = PLAIN
        return notes

    # Conversations

    @property
    def _causal(self) -> Causal:
        assert isinstance(self.architecture, Causal)
        return self.architecture

    def _is_conversation(self, row: Row) -> bool:
        """Whether the row holds messages, or is written as some for a model with a chat template."""
        return self.reads_chat or instruction_rows.messages_column(row) is not None

    @property
    def asked_with(self) -> Template | None:
        return self.given_prompt

    def prompt_of(self, row: Row) -> Template:
        """Without a prompt what is asked alone; Alpaca's parts under the headings that it gives them."""
        if self.given_prompt is not None:
            return self.given_prompt
        given, system = row.fields.get("input"), row.fields.get("system")
        first = "{system}\n\n" if isinstance(system, str) and system.strip() else ""
        if self.source_column(row) == "prompt":
            return first + "{prompt}"
        second = "### Input:\n{input}\n\n" if isinstance(given, str) and given.strip() else ""
        return f"{first}### Instruction:\n{{instruction}}\n\n{second}### Response:\n"

    def _conversation(self, row: Row, labelled: bool, *, every: bool) -> list[Example]:
        """One sequence where the turns follow from one another, else an example a turn; not `every`: of the last."""
        column = instruction_rows.messages_column(row)
        if column is not None and self.settings.prompt is not None:
            raise UserError(_prompt_beside(row, column))
        said = self._said_in(row, answered=labelled)
        with in_conversation(row):
            if not labelled:
                ids = self.chat.prompt(said)
                return [self._example(ids, ids, [False] * len(ids), row.key)]
            places = instruction_rows.answers(list(said.messages))
            turns = [
                replace(turn, learnt=[own and instruction_rows.is_learnt(said.messages[place]) for own in turn.learnt])
                for place, turn in zip(places, self.chat.turns(said, places), strict=True)
            ]
        if (sequence := joined(turns)) is not None:
            return [self._example(turns[-1].prompt, *sequence, row.key)]
        if not every:
            return [self._turn(turns[-1], row.key)]
        learnt = [turn for turn in turns if any(turn.learnt)]
        return [self._turn(turn, f"{row.key}#{i}") for i, turn in enumerate(learnt)]

    def _said_in(self, row: Row, *, answered: bool) -> Conversation:
        """What a row says, within the prompt's messages where there are some."""
        if instruction_rows.messages_column(row) is not None or self.given_prompt is None:
            return instruction_rows.conversation(row, answered=answered)
        asked = self.asking(row).messages(row, self.source(row), self.source_column(row))
        answer = [{"role": "assistant", "content": self.target(row)}] if answered else []
        return Conversation([*asked, *answer], instruction_rows.tools(row))

    def _turn(self, turn: Turn, key: str) -> Example:
        trained = [False] * len(turn.prompt) + turn.learnt
        return self._example(turn.prompt, [*turn.prompt, *turn.answer], trained, key)

    def _example(self, prompt: list[int], ids: list[int], trained: list[bool], key: str) -> Example:
        """A sequence as an example: of one that is too long its end, the last answer, and as much before as fits."""
        limit = self.settings.max_length
        room = None if limit is None else max(1, limit - self.settings.max_new_tokens)
        kept = self._kept(ids, limit)
        example = self._causal.marked(
            {"input_ids": [prompt[i] for i in self._kept(prompt, room)]},
            [ids[i] for i in kept],
            [trained[i] for i in kept],
            key,
            len(kept) < len(ids),
        )
        return replace(example, notes={**example.notes, CONVERSATION: True})

    def _kept(self, ids: list[int], limit: int | None) -> list[int]:
        """The places of a sequence's last tokens, so many of them; the beginning of text stays the first."""
        if limit is None or len(ids) <= limit:
            return list(range(len(ids)))
        first = [0] if ids[0] == self.tokenizer.bos_token_id and limit > 1 else []
        return [*first, *range(len(ids) - limit + len(first), len(ids))]

    # Scores

    def gold(self, row: Row) -> Any:
        """The last answer; of one that calls tools, what the template writes of it."""
        if (column := instruction_rows.messages_column(row)) is None:
            return row.fields[instruction_rows.answer_column(row)]
        messages = row.fields[column]
        last = messages[instruction_rows.answers(messages)[-1]]
        if "tool_calls" not in last:
            return last["content"]
        with in_conversation(row):
            said = instruction_rows.conversation(row, answered=True)
            (turn,) = self.chat.turns(said, [len(said.messages) - 1])
        return self.architecture.text(turn.answer)

    def statistics(self, values: Sequence[Any], golds: Sequence[Any], *probabilities: Sequence[Any]) -> np.ndarray:
        return super().statistics([self._said(v) for v in values], [self._said(g) for g in golds], *probabilities)

    def row_score(self, value: Any, gold: Any) -> float:
        return super().row_score(self._said(value), self._said(gold))

    def _said(self, text: str) -> str:
        """An answer without the thought before it."""
        return without_thought(text, self.chat.thought_ends if self.processor is not None else ())


def _prompt_beside(row: Row, column: str) -> Problem:
    return Problem(
        f"{row.file}:{row.line}",
        "prompt",
        f"a row of {column}, and a prompt in the recipe",
        "one of them: a conversation is written by the model's chat template",
        "leave the recipe's prompt out, or give the rows prompt and completion",
        "prompt beside conversations",
    )
