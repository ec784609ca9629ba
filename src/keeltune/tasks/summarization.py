from __future__ import annotations

from typing import Any

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.tasks.families.text_generation import TextGeneration
from keeltune.tasks.metrics.rouge import Rouge


class Summarization(TextGeneration):
    """A short text that says what a long one says, by an encoder-decoder, or by a decoder that is asked for it.

    Metrics: ROUGE-L, ROUGE-1, ROUGE-2, F-measures 0..1 by rouge-score with its stemmer, Chinese by character
    (`metrics/rouge.py`); of several `references` the one that scores best counts.
    """

    pipeline = "summarization"
    scored_by = (Rouge,)
    columns = (
        Column("document", "text"),
        Column("summary", "text", label=True),
        Column("references", "texts", required=False, label=True),
    )
    cue = "Summary:"

    def asks(self) -> str:
        return "Summarize the following text.\n\n{document}"

    def source(self, row: Row) -> str:
        return str(row.fields["document"])

    def target(self, row: Row) -> str:
        return str(row.fields["summary"])

    def gold(self, row: Row) -> Any:
        return list(row.fields.get("references") or [row.fields["summary"]])
