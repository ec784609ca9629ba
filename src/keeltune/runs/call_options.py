"""What a call says of how rows are asked and compared, where no recipe does: its prompt, its normaliser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from keeltune.recipe.evaluation_fields import Evaluation
from keeltune.recipe.generation_fields import Message, plain
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem, UserError, nearest, shown

Given = str | Sequence[Mapping[str, str]]
"""A prompt as a call has it: a text, messages {role, content}, or a text that is such messages as JSON."""


@dataclass(frozen=True)
class CallOptions:
    """`prompt`: what is asked around a row, for a model that is no run; `normalizer`: as `evaluation.normalizer`."""

    prompt: Given | None = None
    normalizer: str | None = None

    def asked(self, where: str, *, of_run: bool, writes: bool) -> Any:
        """The prompt as a recipe holds it. UserError for what is none, of a run, and where no text is written."""
        if self.prompt is None:
            return None
        if of_run:
            found, fix = "a prompt, and a run, whose recipe says what is asked", f"name its model: {where}/model"
            raise UserError(Problem(where, "--prompt", found, "no prompt", fix))
        if not writes:
            found, expected = "a prompt, for a task that writes no text", "no prompt: its model reads a row as it is"
            raise UserError(Problem(where, "--prompt", found, expected, "leave it out"))
        return _read(self.prompt, where)

    def faults(self, task: Task, where: str) -> list[Problem]:
        """What the task, now that its model is known, cannot do with them."""
        known = [
            value for part in get_args(Evaluation.model_fields["normalizer"].annotation) for value in get_args(part)
        ]
        found: list[Fault] = []
        if self.normalizer is not None and self.normalizer not in known:
            fix = f"choose one of them{nearest(self.normalizer, known)}, or leave it out"
            expected = f"one of: {', '.join(known)}"
            found.append(Fault("evaluation.normalizer", "unknown normaliser", shown(self.normalizer), expected, fix))
        elif self.normalizer is not None:
            found += [fault for fault in task.scoring.faults() if fault.field == "evaluation.normalizer"]
        if self.prompt is not None:
            found += [fault for fault in task.recipe_faults() if fault.field == "prompt"]
        return [Problem(where, f"--{f.field.rpartition('.')[2]}", f.found, f.expected, f.fix) for f in found]


def _read(prompt: Given, where: str) -> Any:
    """A text that is a JSON list is messages; any other text, also one that begins as a list, is what is asked."""
    if isinstance(prompt, str):
        try:
            messages = json.loads(prompt)
        except ValueError:
            messages = prompt
        if not isinstance(messages, list) and prompt.strip():
            return prompt
    else:
        messages = [dict(message) for message in prompt]
    try:
        checked = TypeAdapter(list[Message]).validate_python(messages)
    except ValidationError:
        checked = []
    if not checked:
        expected = 'a text with columns in braces, or messages: [{"role": "user", "content": "… {document}"}]'
        problem = Problem(where, "--prompt", shown(json.dumps(messages, ensure_ascii=False)), expected, "correct it")
        raise UserError(problem)
    return plain(checked)
