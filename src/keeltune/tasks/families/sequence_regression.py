"""One number, or several, for a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from keeltune.data.dataset import Row
from keeltune.data.targets import numbers_of, unit_of
from keeltune.objective.gaussian import Gaussian, gaussian_nll
from keeltune.objective.predictions import IGNORED, PerSlice, Rows
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.whole_text import WholeText
from keeltune.tasks.metrics.correlation import Correlation
from keeltune.tasks.metrics.metric import Metric
from keeltune.tasks.metrics.numeric_error import NumericError
from keeltune.tasks.metrics.rank_correlation import RankCorrelation


class SequenceRegression(WholeText):
    """Numbers for a row, column `target`: each a Gaussian of variance 1 around what the head says.

    N = B × numbers of a row. The head's outputs are standardised numbers, z = (y − mean) / deviation of the training
    rows (`target_mean` and `target_std` of the model's configuration; a model without them says y itself): CE, D and
    the loss are of z, in nats; answers and metrics in the unit of the rows.
    """

    answer = "numbers"
    choices = "numbers"
    scored_by: ClassVar[tuple[type[Metric], ...]] = (Correlation, RankCorrelation, NumericError)
    pipeline = "text-classification"

    def setup(self) -> None:
        super().setup()
        self.names = list(self.settings.labels)
        mean, deviation = unit_of(self.settings.config, len(self.names))
        self.mean, self.deviation = torch.tensor(mean).double(), torch.tensor(deviation).double()

    def targets(self, row: Row, *, labelled: bool) -> tuple[Sequence[int], Sequence[float], Mapping[str, Any]]:
        count = len(self.names)
        if not labelled:
            return [IGNORED] * count, [1.0] * count, {"numbers": [0.0] * count}
        given = torch.tensor(numbers_of(row.fields["target"])).double()
        if len(given) != count:  # which `row_faults` refuses
            return [IGNORED] * count, [1.0] * count, {"numbers": [0.0] * count, "given": len(given)}
        return [0] * count, [1.0] * count, {"numbers": ((given - self.mean) / self.deviation).tolist()}

    def row_faults(self, row: Row, examples: Sequence[Example]) -> Iterable[Fault]:
        yield from super().row_faults(row, examples)
        for given in (e.notes["given"] for e in examples if "given" in e.notes):
            yield Fault("target", "other numbers", f"{given} numbers", f"{len(self.names)}, as the model predicts",
                        "give every row as many")  # fmt: skip

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        batch = super().collate(examples)
        batch["numbers"] = torch.tensor([z for e in examples for z in e.notes["numbers"]], dtype=torch.float32)
        return batch

    # Predictions

    def rows(self, outputs: Any, batch: Mapping[str, Any], order: Sequence[int] | None = None) -> Rows:
        logits: Tensor = outputs.logits if order is None else outputs.logits[:, list(order)]  # [B, numbers]
        return Gaussian(logits.flatten())

    def converted(self, to_rows: Callable[[Any, Mapping[str, Any]], Rows], config: Any) -> Callable[..., Rows]:
        """The rows of a model of this configuration, whose numbers have a unit of their own, in this task's."""
        mean, deviation = (torch.tensor(part).double() for part in unit_of(config, len(self.names)))
        scale, shift = deviation / self.deviation, (mean - self.mean) / self.deviation
        if torch.equal(scale, torch.ones_like(scale)) and not shift.any():
            return to_rows

        def in_our_unit(outputs: Any, batch: Mapping[str, Any]) -> Rows:
            means = to_rows(outputs, batch).log_probs(slice(None))[:, 0].view(-1, len(self.names))
            return Gaussian((means * scale.to(means) + shift.to(means)).flatten())

        return in_our_unit

    def cross_entropy(self, rows: Rows, batch: Mapping[str, Any]) -> Tensor:
        """Σ −log N(z; μ, 1): a sum in nats."""
        return _losses(rows.log_probs(slice(None)), batch, slice(None)).sum()

    def sliced_cross_entropy(self, batch: Mapping[str, Any]) -> PerSlice | None:
        def of_slice(log_probs: Tensor, part: slice) -> Tensor:
            return _losses(log_probs, batch, part).sum()

        return of_slice

    def losses(self, rows: Rows, batch: Mapping[str, Any]) -> list[float]:
        parts = _losses(rows.log_probs(slice(None)), batch, slice(None)).split(batch["counts"].tolist())
        return [part.sum().item() for part in parts]

    def decode(self, rows: Rows, batch: Mapping[str, Any]) -> list[Prediction]:
        means = rows.log_probs(slice(None)).detach().double().cpu().view(-1, len(self.names))
        answers = (means * self.deviation + self.mean).tolist()
        labelled = ((batch["targets"] != IGNORED) * batch["weights"]).view(-1, len(self.names)).sum(-1).tolist()
        return [
            Prediction(_plain(numbers), None, loss, count)
            for numbers, loss, count in zip(answers, self.losses(rows, batch), labelled, strict=True)
        ]

    def gold(self, row: Row) -> Any:
        return _plain(numbers_of(row.fields["target"]))

    def annotate(self, config: Any, examples: Sequence[Example]) -> None:
        """The unit of the head's outputs, and that they are numbers."""
        config.problem_type = "regression"
        config.target_mean, config.target_std = self.mean.tolist(), self.deviation.tolist()


def _losses(means: Tensor, batch: Mapping[str, Any], part: slice) -> Tensor:
    """w · −log N(z; μ, 1) of means [n, 1] -> [n] nats, 0 where there is no target."""
    losses = gaussian_nll(means[:, 0], batch["numbers"][part]) * batch["weights"][part]
    return torch.where(batch["targets"][part] == IGNORED, 0.0, losses)


def _plain(numbers: Sequence[float]) -> Any:
    """One number as itself, several as a list."""
    return numbers[0] if len(numbers) == 1 else list(numbers)
