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

    def target(self, row: Row) -> str:
        return str(row.fields["target"])

    def setup(self) -> None:
        super().setup()
        for attribute, name in zip(("src_lang", "tgt_lang"), self.settings.languages or (), strict=False):
            if hasattr(self.tokenizer, attribute):
                setattr(self.tokenizer, attribute, name)

    def recipe_faults(self) -> list[Fault]:
        known = self.tokenizer.get_vocab()
        return [
            Fault("languages", "unknown language", name, "a language that the tokenizer has a token for",
                  "write it as the tokenizer does, as in deu_Latn or de_DE; leave it out for a model of one pair")
            for name in self.settings.languages or ()
            if name not in known
        ]  # fmt: skip

    def target_language_id(self) -> int | None:
        if not self.settings.languages:
            return None
        return int(self.tokenizer.convert_tokens_to_ids(self.settings.languages[1]))

    def gold(self, row: Row) -> Any:
        return row.fields["target"]
