"""What a task that writes adds to the contract: how texts are asked for, written and sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keeltune.tasks.common.declaration import Declaration
from keeltune.tasks.common.example import Example


class TextAnswers(Declaration):
    """Nothing here is for a task that writes no text."""

    @property
    def reads_prompt(self) -> bool:
        """Whether prompt and answer are one sequence, as a server of completions has it."""
        return False

    @property
    def asked_with(self) -> Any:
        """What rows are read in, as JSON: a text or messages that name columns; None: they are read as they are."""
        return None

    @property
    def samples(self) -> bool:
        """Whether a model of this task can sample texts of its own while it trains."""
        return False

    def candidates(self, model: Any, examples: Sequence[Example], device: str, count: int = 1) -> list[list[str]]:
        """The `count` best texts that the model writes for each example, the likeliest first."""
        raise NotImplementedError(f"{type(self).__name__} writes no text")

    def sample_ids(self, model: Any, examples: Sequence[Example], device: str) -> list[list[int]]:
        """Token ids that the model samples for each example, from torch's random state."""
        raise NotImplementedError(f"{type(self).__name__} writes no text")

    def answered(self, example: Example, ids: Sequence[int]) -> Example:
        """The example with `ids` as its text: as many predictions, and no label, so that it carries D alone."""
        raise NotImplementedError(f"{type(self).__name__} writes no text")

    def sample(self, model: Any, examples: Sequence[Example], device: str) -> list[Example]:
        """The examples with texts that the model samples itself, as predictions without labels."""
        texts = self.sample_ids(model, examples, device)
        return [self.answered(example, ids) for example, ids in zip(examples, texts, strict=True)]
