"""An answer is a span of the text that is read: its first and its last token are chosen."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED, Dense, Rows, nll
from keeltune.tasks.common.batches import stack
from keeltune.tasks.common.control_tokens import encode_text
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.padding import cut_text, pad_tokens
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem, UserError

OVERLAP = 128
"""The most tokens that a stride shares with the one before it; half of the room for text where that is less."""

LONGEST = 64
"""The most tokens of an answer: longer spans are mostly a start and an end that do not belong together."""

ROOM = 8
"""The fewest tokens of question and text that a model must be able to read at once."""


class SpanExtraction(Task):
    """The first and the last token of an answer: two predictions an example, among the S positions of its tokens.

    A text that is too long is read in strides that overlap; each is an example of its own, with the whole question.
    Position 0 ([CLS], <s>) stands for "no answer here" and is the target in a stride that holds no answer whole. It and
    the text's own tokens can be chosen; question, marks and padding have probability 0. N = 2B, C = S: example by
    example, the start and then the end. An answer that fits into no stride of its row has no targets: it would be
    taught as none.

    The best span of a stride has the largest log P(start) + log P(end) of those with start ≤ end and at most
    `LONGEST` tokens. Strides are compared by the log-odds against "no answer here",

        score = log P(start) + log P(end) − log P(no answer), of both ends, = z_start + z_end − z_0 − z'_0

    as a stride's logits z are known but for a constant, which the softmax of training leaves free: raw logits of two
    strides have no common zero, while position 0 means the same in each. With it the rule for a row without an answer
    is simple: there is none where no stride prefers a span, score < 0 in all of them (SQuAD 2.0 at threshold 0).

    A model that was trained on rows that all have an answer must not say so: in most strides of a long text position 0
    is right, and an unsure model would leave the row empty (MiniLM after 147 steps on 1,000 rows of SQuAD-shifts, 128
    tokens: F1 0.24 so, 0.43 with an answer to each). The training rows decide, and the model's configuration keeps it:
    `no_answer` true or false. A model without that entry (trained elsewhere) may leave rows empty.
    Sources: Devlin et al. 2019, section 4.2 and 4.3, https://arxiv.org/abs/1810.04805; Clark & Gardner 2018, on scores
    across passages, https://arxiv.org/abs/1710.10723.
    """

    auto_models: ClassVar[tuple[str, ...]] = ("AutoModelForQuestionAnswering",)
    answer = "text"
    choices = "positions"
    pipeline = "question-answering"

    def setup(self) -> None:
        tokenizer, limit = self.tokenizer, self.settings.max_length
        if not tokenizer.is_fast:
            expected = "a fast tokenizer, which says which characters a token stands for"
            fix = "take a model with a tokenizer.json (BERT, RoBERTa, DeBERTa, ELECTRA and their kin have one)"
            raise UserError(Problem("", "model", f"{type(tokenizer).__name__}, which is no fast one", expected, fix))
        self.marks = int(tokenizer.num_special_tokens_to_add(pair=True))
        if limit is not None and limit < self.marks + ROOM:
            expected = f"at least {self.marks + ROOM}: room for a question, a text and {self.marks} special tokens"
            raise UserError(Problem("", "max_length", str(limit), expected, "raise max_length; 384 is usual"))

    # What a task says

    @abstractmethod
    def question(self, row: Row) -> str:
        """What is asked."""

    @abstractmethod
    def text(self, row: Row) -> str:
        """What the answer is cut from."""

    @abstractmethod
    def spans(self, row: Row) -> Sequence[tuple[int, int]]:
        """The right answers as [start, end) in characters of the text, the first the one to learn; none: no answer."""

    # rows of the data

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        text = self.text(row)
        question, truncated = self._question(row)
        strides = self._strides(question, text)
        answers = [(a, b) for a, b in (_stripped(text, *span) for span in self.spans(row)) if b > a] if labelled else []
        targets = [self._targets(answers, starts, ends) for _, starts, ends in strides]
        if not labelled or (answers and not any(targets)):
            targets = [(IGNORED, IGNORED)] * len(strides)  # unknown, or in no stride whole
        return [
            Example(
                inputs, target or (0, 0), (1.0, 1.0), f"{row.key}#{i}", len(inputs["input_ids"]), truncated=truncated,
                notes={"text": text, "starts": starts, "ends": ends, "answered": bool(answers) if labelled else None},
            )
            for i, ((inputs, starts, ends), target) in enumerate(zip(strides, targets, strict=True))
        ]  # fmt: skip

    def _question(self, row: Row) -> tuple[str, bool]:
        """The question, and whether it was cut: it may take half of the room."""
        question, limit = self.question(row).strip(), self.settings.max_length
        if limit is None:
            return question, False
        short = cut_text(self.tokenizer, question, (limit - self.marks) // 2)
        return short, short != question

    def _strides(self, question: str, text: str) -> list[tuple[dict[str, Any], array[int], array[int]]]:
        """The inputs of each stride, with the characters [start, end) of each token; 0, 0 where it is not the text's.

        Arrays, not lists: a batch's lists are searched for tensors on the way to the model, number by number.
        """
        limit = self.settings.max_length
        options: dict[str, Any] = {}
        if limit is not None:
            length = len(encode_text(self.tokenizer, question, add_special_tokens=False)["input_ids"])
            room = limit - self.marks - length
            options = {"truncation": "only_second", "max_length": limit, "stride": min(OVERLAP, room // 2)}
            options["return_overflowing_tokens"] = True
        encoded = encode_text(self.tokenizer, question, text, return_offsets_mapping=True, **options)
        parts = []
        names = [name for name in encoded if name not in ("offset_mapping", "overflow_to_sample_mapping")]
        for i, encoding in enumerate(encoded.encodings):
            spans = [
                offsets if text_number == 1 else (0, 0)
                for offsets, text_number in zip(encoding.offsets, encoding.sequence_ids, strict=True)
            ]
            inputs = {name: encoded[name][i] if options else encoded[name] for name in names}
            parts.append((inputs, array("l", [a for a, _ in spans]), array("l", [b for _, b in spans])))
        return parts

    @staticmethod
    def _targets(answers: Sequence[tuple[int, int]], starts: array[int], ends: array[int]) -> tuple[int, int] | None:
        """First and last token of the first of the answers that lies whole in a stride; None where none does."""
        first, last = np.asarray(starts), np.asarray(ends)
        tokens = np.flatnonzero(last > first)
        for a, b in answers:
            if len(tokens) and first[tokens[0]] <= a and b <= last[tokens[-1]]:
                start, end = tokens[last[tokens] > a], tokens[first[tokens] < b]
                if len(start) and len(end) and start[0] <= end[-1]:
                    return int(start[0]), int(end[-1])
        return None

    def notices(self, examples: Sequence[Example]) -> list[str]:
        rows = {e.key.rpartition("#")[0]: e for e in examples}
        lost = sum(bool(e.notes["answered"]) and e.targets[0] == IGNORED for e in rows.values())
        notices = []
        if len(examples) > len(rows):
            notices.append(f"{len(rows)} training rows are read in {len(examples)} strides of overlapping text")
        if lost:
            fix = "raise max_length" if self.settings.max_length else "look at their offsets"
            notices.append(f"{lost} of {len(rows)} answers lie whole in no stride and are not trained on; {fix}")
        return notices

    def annotate(self, config: Any, examples: Sequence[Example]) -> None:
        """Whether a row may be left without an answer: where training rows have none, or the model did so before."""
        labelled = [e.notes["answered"] for e in examples if e.notes["answered"] is not None]
        if labelled:
            may_be_empty = bool(getattr(config, "no_answer", False)) or not all(labelled)
            config.no_answer = may_be_empty
            if self.settings.config is not None:
                self.settings.config.no_answer = may_be_empty

    # batches

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        batch = super().collate(examples)
        batch["open"] = stack([_open(e.notes) for e in examples], fill=False)
        return batch

    def pad(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return pad_tokens(self.tokenizer, inputs, left=False)  # position 0 is "no answer here" in every row

    # predictions

    def rows(self, outputs: Any, batch: Mapping[str, Any], order: Sequence[int] | None = None) -> Rows:
        both = torch.stack([outputs.start_logits, outputs.end_logits], dim=1)  # [B, 2, S]
        return Dense(both.masked_fill(~batch["open"][:, None], -torch.inf).flatten(0, 1))

    def decode(self, rows: Rows, batch: Mapping[str, Any]) -> list[Prediction]:
        table = rows.log_probs(slice(None)).unflatten(0, (-1, 2))  # [B, 2, S]
        losses = nll(rows, batch["targets"], batch["weights"]).unflatten(0, (-1, 2)).sum(-1).tolist()
        counts = ((batch["targets"] != IGNORED) * batch["weights"]).unflatten(0, (-1, 2)).sum(-1).tolist()
        start, end, log_probs = _best(table[:, 0], table[:, 1], LONGEST)
        scores = (log_probs - table[:, :, 0].sum(-1)).tolist()
        answers = []
        spans = zip(batch["notes"], start.tolist(), end.tolist(), strict=True)
        for (note, first, last), loss, count, score in zip(spans, losses, counts, scores, strict=True):
            a, b = _stripped(note["text"], note["starts"][first], note["ends"][last])
            answers.append(Prediction(note["text"][a:b], None, loss, count, score, a))
        return answers

    def combine(self, predictions: Sequence[Prediction]) -> Prediction:
        best = super().combine(predictions)
        if best.score < 0 and getattr(self.settings.config, "no_answer", True):
            return replace(best, value="")
        return best


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends, which no token stands for."""
    span = text[start:end]
    return start + len(span) - len(span.lstrip()), end - len(span) + len(span.rstrip())


def _open(notes: Mapping[str, Any]) -> list[bool]:
    """Which positions can be chosen, [S] bool: position 0, and the text's own tokens that stand for something."""
    chosen: list[bool] = (np.asarray(notes["ends"]) > np.asarray(notes["starts"])).tolist()
    return [True, *chosen[1:]]


def _best(start: Tensor, end: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """The span of the largest start[i] + end[j], 0 < i ≤ j < i + longest, of each example.

    Args: `start`, `end` [B, S], −inf where a position cannot be chosen. Returns i, j and the score, [B] each.
    """
    windows = pad(end, (0, longest - 1), value=-torch.inf).unfold(-1, longest, 1)  # [B, S, longest], a view
    lengths = windows.max(-1)  # the best end for each start
    scores = (start + lengths.values)[:, 1:]
    best = scores.max(-1)
    first = best.indices + 1
    return first, first + lengths.indices.gather(-1, first[:, None]).squeeze(-1), best.values
