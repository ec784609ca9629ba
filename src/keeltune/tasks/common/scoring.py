"""The metrics of a task's answers, side by side in one table of statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.metrics.bleu import Bleu, missing, tokenizers
from keeltune.tasks.metrics.loss import Loss
from keeltune.tasks.metrics.metric import Metric
from keeltune.utils import registry
from keeltune.utils.errors import nearest, shown


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
        added = [registry.find("metrics", name) for name in self.settings.metrics]
        return [metric(self.settings) for metric in (*self.own, *added)]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the scores: that which the recipe chooses by first (`evaluation.metric`)."""
        added = (name for metric in self.metrics[len(self.own) :] for name in metric.names)
        names = [*self.reported, *added]
        primary = self.settings.metric if self.settings.metric in (*names, *Loss.names) else names[0]
        return tuple(dict.fromkeys([str(primary), *names]))

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

    def statistics(self, values: Sequence[Any], golds: Sequence[Any]) -> np.ndarray:
        """[rows, K], metric by metric."""
        return np.concatenate([metric.statistics(values, golds) for metric in self.metrics], axis=1)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Summed statistics [..., K] as scores [...] in the order of `names`."""
        values: dict[str, np.ndarray] = {}
        for metric, columns in self._columns():
            values |= metric.scores(sums[..., columns])
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
        names = list(dict.fromkeys([*self.reported, *Loss.names]))
        for name in self.settings.metrics:
            shelf = registry.names("metrics")
            known = ", ".join(n for n in shelf if registry.find("metrics", n).answers == self.answer)
            try:
                metric = registry.find("metrics", name)
            except LookupError as error:
                expected = f"a metric ({known}) or my_package.my_module:Name"
                yield Fault("evaluation.metrics", "unknown metric", shown(name), expected, str(error))
                continue
            if metric.answers != self.answer:
                expected, fix = f"metrics of {self.answer}: {known}", "leave it out"
                yield Fault("evaluation.metrics", "of other answers", f"{name}, of {metric.answers}", expected, fix)
            elif both := [n for n in metric.names if n in names]:
                found = f"{name}, whose {', '.join(both)} there is already"
                yield Fault("evaluation.metrics", "scored twice", found, "a score of another name", "leave it out")
            else:
                names += metric.names
        primary = self.settings.metric
        if primary is not None and primary not in names:
            fix = f"choose one of them{nearest(primary, names)}"
            yield Fault("evaluation.metric", "unknown metric", shown(primary), f"one of: {', '.join(names)}", fix)

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
