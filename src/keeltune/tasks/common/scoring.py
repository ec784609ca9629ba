"""The metrics of a task's answers, side by side in one table of statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keeltune.models import libraries
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.metrics._function import ANY, FunctionMetric, of_function
from keeltune.tasks.metrics.bleu import Bleu, missing, tokenizers
from keeltune.tasks.metrics.loss import Loss
from keeltune.tasks.metrics.metric import Metric
from keeltune.utils import registry
from keeltune.utils.errors import nearest, shown

LISTED = 20
"""Scores that a message names: each label has three."""


class Scoring:
    """What a task is scored by: its own metrics, then those that the recipe adds (`evaluation.metrics`).

    `answer`: what the task's answers are, which a metric must score; `own`: its metrics; `reported`: the names of their
    scores that it reports, the primary first.
    """

    def __init__(self, answer: str, own: Sequence[type[Metric]], reported: Sequence[str], settings: Settings):
        self.answer, self.own, self.reported, self.settings = answer, own, reported, settings

    @cached_property
    def metrics(self) -> list[Metric]:
        """In the order of their statistics."""
        return [metric(self.settings) for metric in (*self.own, *map(self._found, self._added))]

    @cached_property
    def _added(self) -> list[str]:
        """The metrics that the recipe adds: those of `evaluation.metrics`, and that which chooses where it is neither
        among them nor a score of the task."""
        primary, added = self.settings.metric, list(self.settings.metrics)
        if primary is None or primary in (*self.reported, *Loss.names, *added):
            return added
        if ":" in primary:
            return [*added, primary]
        files = [name for name in registry.names("metrics") if self._fits(metric := self._found(name))
                 and primary in metric.names and name not in added]  # fmt: skip
        return [*added, *files[:1]]

    def _found(self, name: str) -> type[Metric]:
        """A metric by its name in a recipe. Raises: LookupError."""
        metric: type[Metric] = registry.find("metrics", name)
        said = self.settings.directions.get(name)
        if said is None or not issubclass(metric, FunctionMetric):
            return metric
        return of_function(name, metric.function, said)

    def _fits(self, metric: type[Metric]) -> bool:
        """Whether a metric scores what the task answers."""
        of_labels = metric.answers == "probabilities" and self.answer == "label"
        return metric.answers in (self.answer, ANY) or of_labels

    @property
    def reads_probabilities(self) -> bool:
        """Whether a metric scores the probabilities of labels."""
        return any(metric.answers == "probabilities" for metric in self.metrics)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the scores: that which the recipe chooses by first (`evaluation.metric`)."""
        added = (name for metric in self.metrics[len(self.own) :] for name in metric.names)
        names = [*self.reported, *added]
        primary = self._primary
        if primary is None or (primary not in (*names, *Loss.names) and primary not in self.of_labels):
            primary = names[0]
        return tuple(dict.fromkeys([primary, *names]))

    @cached_property
    def _primary(self) -> str | None:
        """The score that `evaluation.metric` names: its own name, or the first one of a metric from outside."""
        primary = self.settings.metric
        return self._found(primary).names[0] if primary is not None and ":" in primary else primary

    @cached_property
    def of_labels(self) -> list[str]:
        """The scores of single labels, `recall.LABEL`, `precision.LABEL` and `f1.LABEL`."""
        tables = [metric.details(np.zeros(metric.width)).get("by_label", {}) for metric in self.metrics]
        return [f"{kind}.{label}" for table in tables for label, scores in table.items()
                for kind in scores if kind != "rows"]  # fmt: skip

    def _of_label(self, name: str, sums: np.ndarray) -> np.ndarray:
        """A score of one label, of summed statistics [..., K]."""
        kind, _, label = name.partition(".")
        draws = [self.details(draw)["by_label"][label][kind] for draw in sums.reshape(-1, sums.shape[-1])]
        return np.array(draws).reshape(sums.shape[:-1])

    @property
    def lower_is_better(self) -> frozenset[str]:
        """The names whose smaller values are the better ones."""
        metrics: list[Metric] = [Loss(), *self.metrics]
        return frozenset(name for metric in metrics if not metric.higher_is_better for name in metric.names)

    @property
    def reads_language(self) -> bool:
        """Whether a score depends on the language of the data set."""
        return any(metric.reads_language for metric in self.metrics)

    @property
    def signatures(self) -> dict[str, str]:
        """How each metric's scores come about, by its first name."""
        return {metric.names[0]: metric.signature for metric in self.metrics}

    def misfits(self, texts: Sequence[str]) -> list[str]:
        """Why metrics do not fit a data set, of a sample of its right answers."""
        return [found for metric in self.metrics for found in metric.misfits(texts)]

    def statistics(self, values: Sequence[Any], golds: Sequence[Any], probabilities: Sequence[Any] = ()) -> np.ndarray:
        """[rows, K], metric by metric; `probabilities` of each row's labels, where a metric reads them."""
        given = [probabilities if metric.answers == "probabilities" else values for metric in self.metrics]
        tables = [metric.statistics(of_rows, golds) for metric, of_rows in zip(self.metrics, given, strict=True)]
        return np.concatenate(tables, axis=1)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Summed statistics [..., K] as scores [...] in the order of `names`."""
        values: dict[str, np.ndarray] = {}
        for metric, columns in self._columns():
            values |= metric.scores(sums[..., columns])
        if self.names[0] not in (*values, *Loss.names):
            values[self.names[0]] = self._of_label(self.names[0], sums)
        return {name: values[name] for name in self.names if name in values}

    def details(self, sums: np.ndarray) -> dict[str, Any]:
        """What the metrics have besides numbers, from summed statistics [K]."""
        details: dict[str, Any] = {}
        for metric, columns in self._columns():
            details |= metric.details(sums[..., columns])
        return details

    def row_score(self, value: Any, gold: Any) -> float:
        """One row's own score, by the first metric that has a telling one."""
        metric = next((m for m in self.metrics if m.scores_single_rows), self.metrics[0])
        return metric.row_score(value, gold)

    def _columns(self) -> Iterator[tuple[Metric, slice]]:
        """Each metric with its columns of the table."""
        start = 0
        for metric in self.metrics:
            yield metric, slice(start, start + metric.width)
            start += metric.width

    def faults(self) -> list[Fault]:
        """What is wrong with the recipe's `evaluation.metrics`, `metric`, `bleu_tokenizer` and `normalizer`."""
        return list(self._metric_faults()) or [*self._tokenizer_faults(), *self._normalizer_faults()]  # ask the metrics

    def _metric_faults(self) -> Iterator[Fault]:
        names, sound = list(dict.fromkeys([*self.reported, *Loss.names])), True
        for name in self._added:
            shelf = registry.names("metrics")
            known = ", ".join(n for n in shelf if self._fits(registry.find("metrics", n)))
            try:
                metric = self._found(name)
            except LookupError as error:
                sound = False
                expected = f"a metric ({known}) or my_package.my_module:Name"
                yield Fault(self._field(name), "unknown metric", shown(name), expected, str(error))
                continue
            if not self._fits(metric):
                expected, fix = f"metrics of {self.answer}: {known}", "leave it out"
                yield Fault(self._field(name), "of other answers", f"{name}, of {metric.answers}", expected, fix)
            elif metric.requires and not libraries.installed(metric.requires):
                expected, fix = "the library that computes it", libraries.install(libraries.EXTRAS[metric.requires])
                yield Fault(self._field(name), "not installed", f"{name}, and no {metric.requires}", expected, fix)
            elif both := [n for n in metric.names if n in names]:
                found = f"{name}, whose {', '.join(both)} there is already"
                yield Fault(self._field(name), "scored twice", found, "a score of another name", "leave it out")
            else:
                names += metric.names
        primary = self.settings.metric
        if not sound or primary is None or ":" in primary or primary in (*names, *(of_labels := self.of_labels)):
            return
        others = [n for name in registry.names("metrics") if self._fits(metric := self._found(name))
                  for n in metric.names if n not in names]  # fmt: skip
        choices = [*names, *others, *of_labels]
        listed = ", ".join(choices[:LISTED]) + (" …" if len(choices) > LISTED else "")
        fix = f"choose one of them{nearest(primary, choices)}"
        yield Fault("evaluation.metric", "unknown metric", shown(primary), f"one of: {listed}", fix)

    def _field(self, name: str) -> str:
        """Where the recipe names a metric."""
        return "evaluation.metrics" if name in self.settings.metrics else "evaluation.metric"

    def _normalizer_faults(self) -> Iterator[Fault]:
        if self.settings.normalizer is not None and not any({"wer", "cer"} & {*m.names} for m in self.metrics):
            yield Fault("evaluation.normalizer", "no transcripts", self.settings.normalizer,
                        "nothing: neither WER nor CER is among the metrics", "leave it out")  # fmt: skip

    def _tokenizer_faults(self) -> Iterator[Fault]:
        name = self.settings.bleu_tokenizer
        if name is None:
            return
        if not any(isinstance(metric, Bleu) for metric in self.metrics):
            yield Fault("evaluation.bleu_tokenizer", "no BLEU", name, "nothing: BLEU is not among the metrics",
                        "leave it out")  # fmt: skip
        elif name not in tokenizers():
            yield Fault("evaluation.bleu_tokenizer", "unknown tokenizer", shown(name),
                        f"one of sacrebleu's: {', '.join(tokenizers())}",
                        f"choose one of them{nearest(name, tokenizers())}")  # fmt: skip
        elif package := missing(name):
            expected = "a tokenizer whose dictionary or model is installed"
            yield Fault("evaluation.bleu_tokenizer", "not installed", name, expected, f"pip install '{package}'")
