"""The epoch's plan: whole optimizer steps first, then their micro-batches.

A step is a set of rows of similar length. It is chosen before it is known how many micro-batches or ranks will share
it, so the same rows meet in a step however it is cut: 4 rows, 2 × 2 accumulated and 2 ranks × 2 are the same step.
Order is a function of (seed, epoch), the other streams' order of that and (stream, round): nothing depends on a global
random state, and a resumed run meets the rows that the uninterrupted one would have met.

The plan is the dataset: item i is the collated micro-batch i of the epoch, over all ranks. accelerate hands rank r the
items r, r + world size, … and forwards `set_epoch` to the dataset, also after a mid-epoch resume, where a wrapped
sampler would never hear of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from keeltune.tasks.common.example import Example
from keeltune.tasks.common.stored_examples import anchored_in, lengths_of

JITTER = 0.05
"""Lengths are multiplied by up to 1 + JITTER before sorting, so that each epoch puts other rows into a step."""


@dataclass(frozen=True)
class Stream:
    """Rows beside the labelled ones that define the epoch: `per_step` of them join each step, going round and round.

    In each round the short ones join the steps of short rows: a batch is padded to the longest row of all its streams.
    """

    name: str
    examples: Sequence[Example]
    per_step: float


class Plan(Dataset[Any]):
    """An epoch's micro-batches, over all ranks.

    Args:
        examples: the rows that define the epoch; `streams`: the others.
        batch_size: examples of one forward pass on one process.
        micro_batches: micro-batches of a step over all ranks (gradient_accumulation_steps × world size).
        collate: makes a batch of a list of examples.
        whole: whether the reference reads whole batches, also rows that do not carry D.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        streams: Sequence[Stream],
        *,
        batch_size: int,
        micro_batches: int,
        seed: int,
        collate: Callable[[Sequence[Example]], dict[str, Any]],
        whole: bool = False,
    ):
        if len(examples) < micro_batches:
            raise ValueError(
                f"found {len(examples)} rows for {micro_batches} micro-batches a step, expected at least one row each"
            )
        self.examples = examples
        self.streams = [stream for stream in streams if len(stream.examples) and stream.per_step > 0]
        self.step_size = batch_size * micro_batches
        self.micro_batches = micro_batches
        self.seed = seed
        self.collate = collate
        self.whole = whole
        self.steps = max(1, len(examples) // self.step_size)
        self.epoch = 0
        self._lengths = lengths_of(examples)
        self._orders: dict[int, list[np.ndarray]] = {}
        self._means: dict[int, np.ndarray] = {}
        self._rounds: dict[tuple[int, int], np.ndarray] = {}

    @property
    def anchored_per_step(self) -> float:
        """Examples of a step, on average, on which the reference is evaluated."""
        streams = [(self.examples, float(self.step_size)), *((s.examples, s.per_step) for s in self.streams)]
        return sum(rows * (len(of) if self.whole else anchored_in(of)) / len(of) for of, rows in streams)

    def anchored_examples(self) -> Sequence[Example]:
        """All examples on which training will ever evaluate the reference, each once a stream."""
        streams = [self.examples, *(stream.examples for stream in self.streams)]
        counts = [anchored_in(stream) for stream in streams]
        if not any(counts):
            return []
        if self.whole:
            counts = [len(stream) for stream in streams]
        if [len(stream) for stream, count in zip(streams, counts, strict=True) if count] == [sum(counts)]:
            return next(stream for stream, count in zip(streams, counts, strict=True) if count)
        return [example for stream in streams for example in stream if example.anchored or self.whole]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.micro_batches

    def __getitem__(self, item: int) -> dict[str, Any]:
        step, index = divmod(item, self.micro_batches)
        return self.collate(self.micro_batch(self.epoch, step, index))

    def micro_batch(self, epoch: int, step: int, index: int) -> list[Example]:
        """The examples of micro-batch `index` of `step` (from 0) of `epoch`: the epoch's own, then each stream's."""
        rows = [self.examples[i] for i in np.array_split(self._epoch_order(epoch)[step], self.micro_batches)[index]]
        for number, stream in enumerate(self.streams):
            positions = self._positions(stream, epoch * self.steps + step + 1)
            positions = np.array_split(positions, self.micro_batches)[index]
            rows += [self._at(number, int(position)) for position in positions]
        return rows

    def _epoch_order(self, epoch: int) -> list[np.ndarray]:
        if epoch not in self._orders:
            self._orders = {epoch: self._steps(epoch)}
        return self._orders[epoch]

    def _steps(self, epoch: int) -> list[np.ndarray]:
        return steps_of_similar_length(self._lengths, self.step_size, np.random.default_rng([self.seed, 0, epoch]))

    @staticmethod
    def _positions(stream: Stream, step: int) -> np.ndarray:
        """The rows of `stream` that step number `step` (from 1) takes, counted from the start of training."""
        return np.arange(round((step - 1) * stream.per_step), round(step * stream.per_step))

    def _at(self, number: int, position: int) -> Example:
        examples = self.streams[number].examples
        round_number, index = divmod(position, len(examples))
        return examples[self._stream_round(number, round_number)[index]]

    def _stream_round(self, number: int, round_number: int) -> np.ndarray:
        key = (number, round_number)
        if key not in self._rounds:
            stream = self.streams[number]
            lengths = lengths_of(stream.examples)
            random = np.random.default_rng([self.seed, 1, *stream.name.encode(), round_number])
            order = np.empty(len(lengths), dtype=int)
            order[np.argsort(self._mean_step_lengths(stream, round_number), kind="stable")] = _by_length(
                lengths, random
            )
            earlier = {k: v for k, v in self._rounds.items() if k[0] != number or k[1] == round_number - 1}
            self._rounds = {**earlier, key: order}  # a step may reach from one round into the next
        return self._rounds[key]

    def _mean_step_lengths(self, stream: Stream, round_number: int) -> np.ndarray:
        """For each position of a round, the mean length of the labelled rows in the step that takes it."""
        rows, share = len(stream.examples), stream.per_step
        start = round_number * rows
        step = max(1, int(start / share) - 1)
        means: list[float] = []
        while len(means) < rows:
            positions = self._positions(stream, step)
            inside = int(((positions >= start) & (positions < start + rows)).sum())
            if inside:
                epoch, index = divmod(step - 1, self.steps)
                means += [self._mean_lengths(epoch)[index]] * inside
            step += 1
        return np.array(means)

    def _mean_lengths(self, epoch: int) -> np.ndarray:
        if epoch not in self._means:
            self._means = {epoch: np.array([self._lengths[rows].mean() for rows in self._steps(epoch)])}
        return self._means[epoch]


def only(items: Sequence[Any]) -> Any:
    """The one item of a list: a loader's batch of one is a whole micro-batch."""
    (item,) = items
    return item


def work_of(batch: Mapping[str, Any]) -> list[float]:
    """Examples, tokens, slots (tokens and padding) and predictions of a micro-batch."""
    return [len(batch["keys"]), *batch["work"], len(batch["targets"])]


def steps_of_similar_length(lengths: np.ndarray, size: int, random: np.random.Generator) -> list[np.ndarray]:
    """All rows, each once, in max(1, ⌊rows / size⌋) steps whose sizes differ by at most one, in random order."""
    steps = np.array_split(_by_length(lengths, random), max(1, len(lengths) // size))
    return [steps[i] for i in random.permutation(len(steps))]


def _by_length(lengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Indices from the shortest row to the longest, those of nearly the same length in random order."""
    return np.argsort(lengths * random.uniform(1.0, 1.0 + JITTER, len(lengths)), kind="stable")
