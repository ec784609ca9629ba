"""Question answering by a model that writes, beside the extractive one (`tasks/question_answering.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.tasks.common.batches import Autocast
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.prompt import Template
from keeltune.tasks.families.text_generation import TextGeneration
from keeltune.tasks.metrics.squad import Squad

NO_ANSWER = "unanswerable"
"""What is written where the text has no answer, as FLAN's prompts for SQuAD v2 ask for it: Wei et al. 2022,
https://arxiv.org/abs/2109.01652."""


class GeneratedAnswers(TextGeneration):
    """The answer to a question about a text, in words that a model writes; "unanswerable" where the text has none.

    The first of a row's answers is learnt. Metrics: those of the extractive task, F1 of words and exact match, the best
    of a row's answers; "unanswerable" counts as the empty answer, which is right where a row has none.
    """

    pipeline = "question-answering"
    scored_by = (Squad,)
    passage = "context"
    columns = (Column("question", "text"), Column("context", "text"), Column("answers", "answers", label=True))
    cue = "Answer:"

    def asks(self) -> str:
        return (
            "Answer the question with a few words of the text. If the text does not answer it, write "
            f'"{NO_ANSWER}".\n\nText:\n{{context}}\n\nQuestion: {{question}}'
        )

    @property
    def default_prompt(self) -> Template:
        """Encoder-decoders know the form of T5: Raffel et al. 2020, https://arxiv.org/abs/1910.10683, appendix D.15."""
        return super().default_prompt if self.reads_prompt else "question: {question} context: {context}"

    @property
    def reads_within(self) -> bool:
        return True  # the question is part of what is asked

    @property
    def input_names(self) -> list[str]:
        return ["context"]

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterable[Fault]:
        if labelled:
            yield from flag_faults(row)

    def source(self, row: Row) -> str:
        return str(row.fields["context"])

    def source_column(self, row: Row) -> str:
        return "context"

    def target(self, row: Row) -> str:
        return next(iter(row.fields["answers"]["text"]), NO_ANSWER)

    def with_target(self, row: Row, value: Any) -> Row:
        said = said_answer(str(value))
        texts, starts = ([said], [max(0, self.source(row).find(said))]) if said else ([], [])
        return super().with_target(row, {"text": texts, "answer_start": starts})

    def predict(
        self, model: Any, examples: Sequence[Example], *, device: str = "cpu", autocast: Autocast = nullcontext
    ) -> list[Prediction]:
        written = super().predict(model, examples, device=device, autocast=autocast)
        return [replace(p, value=said_answer(p.value)) for p in written]

    def gold(self, row: Row) -> Any:
        return list(row.fields["answers"]["text"])


def said_answer(text: str) -> str:
    """A written answer; nothing where it says that there is none."""
    return "" if text.strip(" \t\n.\"'`“”").casefold() == NO_ANSWER else text


def flag_faults(row: Row) -> Iterable[Fault]:
    """A row that says that it has no answer, and has some; or the other way round."""
    count, flag = len(row.fields["answers"]["text"]), row.fields.get("is_impossible")
    if isinstance(flag, bool) and flag == bool(count):
        found = f"{str(flag).lower()}, and {count} answers"
        fix = "correct the one or the other; a row that has no answer has empty lists"
        yield Fault("is_impossible", "answers and is_impossible differ", found, "true where there is none", fix)
