from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from keeltune.objective.derived_predictions import Shared, Subset
from keeltune.objective.predictions import Rows
from keeltune.objective.references.reference import Batch, Reference
from keeltune.objective.stored_predictions import StoredForm
from keeltune.utils.tensor_store import Location, Store


class Cached(Reference):
    """Distributions from a `shards.Store`, by the keys of the batch: in any order, epoch, micro-batch or rank."""

    def __init__(
        self,
        store: Store,
        form: StoredForm,
        device: str = "cpu",
        kept: slice | Tensor | None = None,
        kind: str = "cached",
    ):
        self.store, self.form, self.device, self.kind = store, form, device, kind
        self.kept = kept  # the student's choices on which it is compared; None: all

    @torch.no_grad()
    def rows(self, batch: Batch) -> Rows:
        counts = [int(count) for count in batch["counts"]]
        places = []
        for key, count in zip(batch["keys"], counts, strict=True):
            place = self.store.location(key)
            if place is None:
                raise KeyError(f"found no distribution of the row {key} in {self.store.folder}, expected one")
            if place.count != count:
                raise ValueError(f"found {place.count} predictions of the row {key} in the cache, expected {count}")
            places.append(place)
        rows = self.form.read(self._columns(places), counts, [place.width for place in places])
        if self.kept is None:
            return rows
        return Shared(rows, self.kept) if self.form.kind == "hidden" else Subset(rows, self.kept)

    def _columns(self, places: Sequence[Location]) -> dict[str, Tensor]:
        found = {}
        for name in self.form.reads:
            parts = []
            for place in places:
                flat = name == "log_probs" and self.form.kind == "full"
                start, count = (place.number, place.count * place.width) if flat else (place.prediction, place.count)
                parts.append(self.store.read(place.shard, name, start, count))
            found[name] = torch.cat(parts).to(self.device)
        return found
