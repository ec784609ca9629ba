from __future__ import annotations

from typing import Any

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.models.languages import in_english
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.prompt import escaped
from keeltune.tasks.families.text_generation import TextGeneration
from keeltune.tasks.metrics.bleu import Bleu
from keeltune.tasks.metrics.chrf import Chrf


class Translation(TextGeneration):
    """A text in another language. Metrics: BLEU and chrF, 0..100, by sacrebleu: tokens `13a`, and `zh` for Chinese."""

    pipeline = "translation"
    accepts_languages = True
    scored_by = (Bleu, Chrf)
    columns = (Column("source", "text"), Column("target", "text", label=True))
    cue = "Translation:"

    def asks(self) -> str:
        source, target = (in_english(name) for name in self.settings.languages or ("", ""))
        between = f" from {source} to {target}" if target else ""
        return f"Translate the following text{escaped(between)}.\n\n{{source}}"

    def source(self, row: Row) -> str:
        return str(row.fields["source"])

    def target(self, row: Row) -> str:
        return str(row.fields["target"])

    def recipe_faults(self) -> list[Fault]:
        told = [] if self.reads_prompt else self.language_faults(needed=True)  # a decoder is told in words
        return [*super().recipe_faults(), *told]

    def gold(self, row: Row) -> Any:
        return row.fields["target"]
