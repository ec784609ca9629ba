"""What preparation hands on: rows, examples, task, processors, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keeltune.data.dataset import Row
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.stored_examples import flat, lengths_of
from keeltune.tasks.task import Task
from keeltune.training.preparation.compatibility import ReferenceFiles
from keeltune.training.preparation.encoded_rows import RowExamples
from keeltune.training.preparation.harness_tasks import HarnessTask
from keeltune.utils.distributed import world_size
from keeltune.utils.errors import Problem

SCORED = ("validation", "test", "source", "source_validation")
"""The splits that are scored before and after training; of the source domain its test rows and its control slice."""

OLD = ("source", "source_validation")
"""The splits that are scored on the source domain."""

LEARNT = ("train", "source_train")
"""The splits whose labels are learnt."""


@dataclass(frozen=True)
class TestSet:
    """Rows that are scored: their name (a split's, or the recipe's), the task that scores them, and their examples."""

    __test__ = False  # no test of ours, whatever pytest takes its name for

    name: str
    task: Task
    rows: Sequence[Row]
    encoded: Sequence[list[Example]]


@dataclass(frozen=True)
class Default:
    """A value that the recipe left to keeltune (`training.epochs: auto`), and why it is that."""

    value: float
    reason: str


@dataclass
class Material:
    """Everything a run reads, checked and encoded; no weights.

    source, config, auto_model, processor   the student's: where its weights lie, and how it is loaded and read
    new_head             whether its head does not have these labels and is initialised anew
    reference_is_start   whether the reference is the student as it was before training
    rows, encoded        each split's rows, and their examples row by row
    references           the models of the reference, where they are others
    anchor_task          the task of the second head (`objective.anchor_head`), or None
    source_task          the task that scores the source domain's rows: `task`, or the same in their language
    named_tests          the sets of `data.source.test`, where that is a list
    harness              the tasks of `data.source.lm_eval`
    notices, warnings, skipped   what users should know; what is doubtful; faults of rows that were left out
    sampled              whether only some rows of large splits are encoded
    defaults             what the recipe left at auto, by its field: `recipe` holds the numbers
    """

    recipe: Recipe
    task: Task
    source: str
    config: Any
    auto_model: str
    processor: Any
    new_head: bool
    reference_is_start: bool
    rows: dict[str, Sequence[Row]]
    encoded: dict[str, RowExamples]
    references: list[ReferenceFiles]
    anchor_task: Task | None = None
    source_task: Task | None = None
    notices: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    sampled: bool = False
    named_tests: Sequence[TestSet] = ()
    harness: Sequence[HarnessTask] = ()
    defaults: dict[str, Default] = field(default_factory=dict)

    @property
    def examples(self) -> dict[str, Sequence[Example]]:
        """Each split's examples, row by row."""
        return {name: flat(split) for name, split in self.encoded.items()}

    @property
    def batch_size(self) -> int:
        """Examples of one forward pass: as the recipe says, or as many as have `tokens_per_batch` tokens on average."""
        training = self.recipe.training
        if training.batch_size is not None:
            return training.batch_size
        assert training.tokens_per_batch is not None
        lengths = lengths_of(self.main_stream)
        return max(1, int(training.tokens_per_batch * len(lengths) / int(lengths.sum())))

    def scale(self, split: str) -> float:
        """Rows of a split for one that is encoded: 1, but where only some are, as `check` does."""
        if not self.sampled or not self.encoded.get(split):
            return 1.0
        return len(self.rows[split]) / len(self.encoded[split])

    @property
    def main_stream(self) -> Sequence[Example]:
        """The rows that define the epoch: the labelled ones, or the unlabelled ones where there are none."""
        return self.examples["train"] or self.examples["unlabeled"]

    @property
    def stream_ratios(self) -> dict[str, float]:
        """The splits whose rows join the labelled ones, with their rows per labelled row."""
        mix = self.recipe.data.mix
        ratios = {
            "unlabeled": mix.unlabeled,
            "augmented": mix.augmented,
            "source_unlabeled": mix.source_unlabeled,
            "source_train": mix.source,
        }
        alone = () if self.rows["train"] else ("unlabeled",)  # which then define the epoch
        present = {split: ratio for split, ratio in ratios.items() if self.rows.get(split) and split not in alone}
        return present | ({"generated": mix.source_unlabeled} if self.encoded.get("generated") else {})

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step over all ranks."""
        return self.recipe.training.gradient_accumulation_steps * world_size()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the rows that define the epoch."""
        examples = int(len(self.main_stream) * self.scale("train" if self.rows["train"] else "unlabeled"))
        return max(1, examples // (self.batch_size * self.micro_batches))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        training = self.recipe.training
        return training.max_steps or training.passes * self.steps_per_epoch
