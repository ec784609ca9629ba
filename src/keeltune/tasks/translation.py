from __future__ import annotations

from typing import Any

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.families.text_generation import TextGeneration
from keeltune.tasks.metrics.bleu import Bleu
from keeltune.tasks.metrics.chrf import Chrf


class Translation(TextGeneration):
    """A text in another language. Metrics: BLEU and chrF, 0..100, by sacrebleu: tokens `13a`, and `zh` for Chinese."""

    pipeline = "translation"
    accepts_languages = True
    scored_by = (Bleu, Chrf)
    columns = (Column("source", "text"), Column("target", "text", label=True))
    prompt = "{source}\nTranslation:"

    def source(self, row: Row) -> str:
        return str(row.fields["source"])

    def instruction(self, row: Row) -> str:
        source, target = self.settings.languages or (None, None)
        return f"Translate the following text{f' from {source} to {target}' if source else ''}."

    def target(self, row: Row) -> str:
        return str(row.fields["target"])

    def recipe_faults(self) -> list[Fault]:
        told = [] if self.reads_chat else self.language_faults(needed=True)  # a chat model is told in words
        return [*super().recipe_faults(), *told]

    def gold(self, row: Row) -> Any:
        return row.fields["target"]
