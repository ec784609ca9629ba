"""Texts that are tokenized many at once become what each becomes in a call of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from keeltune.data.dataset import Row
from keeltune.models import tokenizer_training
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.tasks.common.control_tokens import encode_target, encode_text, encoding_ahead
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.common.tokens_ahead import tokenized
from keeltune.tasks.text_classification import TextClassification
from tests.helpers import models, writers

SEEN = [text for pair in writers.PAIRS for text in pair]

ODD = [
    "", " ", "the film", "the film", "  two  blanks ", "tab\tand\nline", "\u00dcn\u00efc \ufb01 e\u0301", "中文没有",
    "\U0001f469\u200d\U0001f467 ok", "a [SEP] b", "a </s> b", "[CLS]", "\u200bzero", "x" * 300,
    " ".join(["word"] * 90), "##piece", "\u2581under", "\u0120byte", "\0",
]  # fmt: skip

PAIRS = [(text, pair) for text, pair in zip(ODD, [*ODD[3:], None, "", None], strict=True)]


def tokenizers() -> Iterator[Any]:
    yield models.word_tokenizer()
    for kind in ("bpe", "unigram", "wordpiece", "characters"):
        yield tokenizer_training.train(TrainTokenizer(train=kind, size=300), SEEN, ends=True)


def facts(made: Any) -> tuple[Any, ...]:
    """All that is read of what a tokenizer made of a text."""
    (encoding,) = made.encodings
    cut = [(part.ids, part.offsets) for part in encoding.overflowing]
    return dict(made), encoding.ids, encoding.offsets, encoding.word_ids, encoding.sequence_ids, cut


@pytest.mark.parametrize(
    "options", [{}, {"truncation": True, "max_length": 12}, {"add_special_tokens": False}], ids=str
)
@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda t: f"{type(t).__name__}-{len(t)}")
def test_ahead_is_one_by_one(tokenizer: Any, options: dict[str, Any]):
    alone = [facts(encode_text(tokenizer, text, pair, **options)) for text, pair in PAIRS]
    targets = [dict(encode_target(tokenizer, text)) for text in ODD]
    with (
        encoding_ahead(tokenizer, PAIRS, **options),
        encoding_ahead(tokenizer, [(text, None) for text in ODD], target=True),
    ):
        assert tokenized(tokenizer, *PAIRS[2], options) is not None
        ahead = [facts(encode_text(tokenizer, text, pair, **options)) for text, pair in PAIRS]
        assert [dict(encode_target(tokenizer, text)) for text in ODD] == targets
    assert ahead == alone
    assert tokenized(tokenizer, *PAIRS[2], options) is None  # nothing is kept


def test_what_is_handed_out_is_nobody_elses():
    tokenizer = models.word_tokenizer()
    with encoding_ahead(tokenizer, [("the film", None)]):
        encode_text(tokenizer, "the film")["input_ids"].append(7)
        assert encode_text(tokenizer, "the film")["input_ids"] == tokenizer("the film")["input_ids"]


def test_other_options_are_another_reading():
    tokenizer = models.word_tokenizer()
    with encoding_ahead(tokenizer, [("the film is good", None)], truncation=True, max_length=4):
        assert encode_text(tokenizer, "the film is good")["input_ids"] == tokenizer("the film is good")["input_ids"]


def rows_of(pairs: Sequence[tuple[str, str | None]]) -> list[Row]:
    return [
        Row(
            {"text": text or "a", "label": "ab"[i % 2]} | ({} if pair is None else {"text_pair": pair}), "f", i, f"k{i}"
        )
        for i, (text, pair) in enumerate(pairs)
    ]


@pytest.mark.parametrize("max_length", [None, 12])
def test_a_task_reads_rows_ahead_as_it_does_one_by_one(max_length: int | None):
    task = TextClassification(models.word_tokenizer(), Settings(("a", "b"), max_length))
    rows = rows_of(PAIRS)
    alone = [task.encode(row) for row in rows]
    with task.encoding_ahead(rows):
        assert [task.encode(row) for row in rows] == alone


def test_a_writer_reads_sources_and_targets_ahead():
    _, task = writers.writer("marian")
    rows = writers.rows()
    unlabelled = [Row({"source": row.fields["source"]}, "f", row.line, row.key) for row in rows]
    alone = [task.encode(row) for row in rows], [task.encode(row, labelled=False) for row in unlabelled]
    with task.encoding_ahead([*rows, *unlabelled]):
        source = {"truncation": task.settings.max_length is not None, "max_length": task.settings.max_length}
        assert tokenized(task.tokenizer, rows[0].fields["source"], None, source) is not None
        assert ([task.encode(row) for row in rows], [task.encode(r, labelled=False) for r in unlabelled]) == alone
