from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from keeltune.objective import host_counts
from keeltune.objective.derived_predictions import Shared, Subset
from keeltune.objective.predictions import Rows
from keeltune.objective.references.reference import Batch, Need, Reference, ReferenceContext
from keeltune.objective.stored_predictions import StoredForm
from keeltune.utils.tensor_store import Location, Store


class Cached(Reference):
    """Distributions from a `tensor_store.Store`, by the keys of the batch: in any order, epoch, micro-batch or rank.

    `shared` picks the student's choices on which it is compared; None: all. `kind`: whose answers they are, where it is
    not the models'.
    """

    kind = "cached"
    needs: ClassVar[frozenset[Need]] = frozenset({"models", "cache"})

    def __init__(
        self,
        store: Store,
        form: StoredForm,
        device: str = "cpu",
        shared: slice | Tensor | None = None,
        kind: str = "cached",
    ):
        self.store, self.form, self.device, self.shared, self.kind = store, form, device, shared, kind

    @classmethod
    def build(cls, context: ReferenceContext) -> Cached:
        answers = context.cache()
        return cls(answers.store, answers.form, context.device, answers.shared, answers.kind)

    @torch.no_grad()
    def rows(self, batch: Batch) -> Rows:
        counts = host_counts.sizes(batch)
        locations = []
        for key, count in zip(batch["keys"], counts, strict=True):
            location = self.store.location(key)
            if location is None:
                raise KeyError(f"found no distribution of the row {key} in {self.store.folder}, expected one")
            if location.count != count:
                raise ValueError(f"found {location.count} predictions of the row {key} in the cache, expected {count}")
            locations.append(location)
        rows = self.form.read(self._columns(locations), counts, [location.width for location in locations])
        if self.shared is None:
            return rows
        return Shared(rows, self.shared) if self.form.kind == "hidden" else Subset(rows, self.shared)

    def _columns(self, locations: Sequence[Location]) -> dict[str, Tensor]:
        columns = {}
        for name in self.form.reads:
            parts = []
            for location in locations:
                flat = name == "log_probs" and self.form.kind == "full"
                start = location.number if flat else location.prediction
                count = location.count * location.width if flat else location.count
                parts.append(self.store.read(location.shard, name, start, count))
            columns[name] = torch.cat(parts).to(self.device)
        return columns
