from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from keeltune.tasks.common.tag_schemes import parsed, spans
from keeltune.tasks.metrics._span_f1 import SpanF1


class EntityF1(SpanF1):
    """F1, precision and recall of entities over all types, 0..1, as seqeval and conlleval count.

    An entity is right if its type and all of its words are. Tags are read in whatever scheme they are written
    (`common/tag_schemes.py`: seqeval's default mode, in which an I-X that nothing precedes begins an entity).
    Statistics a row: entities right, predicted and gold, of each type in turn; those of types never learnt together.
    Source: https://github.com/chakki-works/seqeval; Tjong Kim Sang & De Meulder 2003, https://aclanthology.org/W03-0419.
    """

    library = "checked against seqeval"

    def kinds_of(self, labels: Sequence[str]) -> Collection[str]:
        return {kind for letter, kind in map(parsed, labels) if letter}

    def spans(self, tags: Sequence[str]) -> set[tuple[str, Any]]:
        return {(kind, (first, last)) for kind, first, last in spans(tags)}
