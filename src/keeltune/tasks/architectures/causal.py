"""Decoders: one sequence, the prompt first and the answer after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED
from keeltune.tasks.architectures.architecture import SAMPLING, Architecture, TextTask
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.packing import Packing, slots
from keeltune.tasks.common.padding_effect import Sharing, groups_of_one_length, rounding, say
from keeltune.utils.device import in_eval_mode


class Causal(Architecture):
    """P(answer | prompt) = Π P(y_t | prompt, y_<t). N = answer tokens, its end among them; C = V.

    Position t of the model predicts token t + 1, so the first answer token is predicted where the prompt ends. The
    prompt is never trained on.
    """

    reads_prompt = True

    def __init__(self, task: TextTask):
        super().__init__(task)
        self._writes_beside: WeakKeyDictionary[Any, Sharing] = WeakKeyDictionary()
        self.packing = Packing()

    def extend(self, batch: dict[str, Any], examples: Sequence[Example]) -> None:
        if self.task.settings.packing:
            batch["work"][1] = slots([example.length for example in examples], self.task.settings.config)

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        if self.task.settings.packing and not self.unpackable(model, batch):
            return self.packing.forward(model, batch)
        return super().forward(model, batch)

    def unpackable(self, model: Any, batch: Mapping[str, Any]) -> str:
        return self.packing.reason(model, batch)

    def encode(self, row: Row, target: str | None) -> Example:
        answer: list[int] = []
        answer_cut = False
        if target is not None:
            answer, answer_cut = self.answer_ids(row, target)
        prompt, prompt_cut = self.task.prompt_inputs(row, len(answer))
        return self.example(prompt, answer, row.key, answer_cut or prompt_cut)

    def example(self, prompt: dict[str, Any], answer: Sequence[int], key: str, truncated: bool) -> Example:
        """`prompt` (input ids, and pictures or sound beside them) and the answer's tokens behind it."""
        ids = [*prompt["input_ids"], *answer]
        return self.marked(prompt, ids, [False] * len(prompt["input_ids"]) + [True] * len(answer), key, truncated)

    def marked(
        self, prompt: dict[str, Any], ids: Sequence[int], trained: Sequence[bool], key: str, truncated: bool
    ) -> Example:
        """A sequence of which the tokens marked `trained` are predicted; `prompt` is what generation starts from."""
        targets = [i for i, learnt in zip(ids[1:], trained[1:], strict=True) if learnt]
        answer = len(ids) - len(prompt["input_ids"])
        asked, places = prompt, self.task.settings.bounds.places
        if places is not None:  # what is written needs places too: the end of a prompt is what matters
            room = max(1, places - self.task.settings.max_new_tokens)
            asked = {name: value[-room:] if isinstance(value, list) else value for name, value in prompt.items()}
        longer = {
            name: self.task.lengthened(name, values, answer)
            for name, values in prompt.items()
            if isinstance(values, list)
        }
        return Example(
            {**prompt, **longer, "input_ids": list(ids), "attention_mask": [1] * len(ids)},
            targets,
            [1.0] * len(targets),
            key,
            len(ids),
            predicted=[*trained[1:], False],
            truncated=truncated,
            notes={"prompt": {**asked, "attention_mask": [1] * len(asked["input_ids"])}},
        )

    def answer_ids(self, row: Row, text: str) -> tuple[list[int], bool]:
        """The tokens of an answer and its end; cut to `target_max_length`."""
        ids = self.task.answer_ids(row, text)
        limit = self.task.settings.target_max_length
        if limit is not None and len(ids) > limit:
            end = ids[-1:] if ids[-1] in self.task.ends else []
            return ids[: limit - len(end)] + end, True
        return ids, False

    def text(self, ids: Sequence[int]) -> str:
        """What was written before its end; an end need be no special token of the tokenizer."""
        written = self.until_the_end(ids)
        return super().text(written[:-1] if written and written[-1] in self.task.ends else written)

    def groups(self, model: Any, examples: Sequence[Example], device: str) -> list[list[int]]:
        """Prompts are padded before their first token, where a state that is carried along reads the padding."""
        prompts = [example.notes["prompt"] for example in examples]
        if len(prompts) == 1:
            return [[0]]
        inner = getattr(model, "module", model)
        if inner not in self._writes_beside:
            longest = max(prompts, key=lambda prompt: len(prompt["input_ids"]))
            self._writes_beside[inner] = found = self._measured(inner, longest, device)
            if found != "any":
                say(type(inner).__name__, "prompts", found)
        if self._writes_beside[inner] == "none":
            return [[index] for index in range(len(prompts))]
        if self._writes_beside[inner] == "one length":
            return groups_of_one_length([{"input_ids": (len(prompt["input_ids"]),)} for prompt in prompts])
        return [list(range(len(prompts)))]

    def _measured(self, model: Any, longest: Mapping[str, Any], device: str) -> Sharing:
        """Which prompts may be written for together: two tokens behind the beginnings of one, alone and side by side.

        The second token is written from what the model keeps of the first (RWKV's state mixes the rows of a batch).
        """
        whole = len(longest["input_ids"])

        def begun(size: int) -> dict[str, Any]:
            return {name: v[:size] if isinstance(v, list) else v for name, v in longest.items()}

        def logits(rows: Sequence[Mapping[str, Any]]) -> Tensor:
            options = {"max_new_tokens": 2, "num_beams": 1, "eos_token_id": None}
            options |= {"output_logits": True, "return_dict_in_generate": True}
            batch = to_device(self.task.pad(rows, left=True), device)
            made: Tensor = torch.stack(self.generate(model, batch, **options).logits, 1)  # type: ignore[attr-defined]
            return made

        def alike(rows: Sequence[Mapping[str, Any]]) -> bool:
            together, alone = logits(rows), torch.cat([logits([row]) for row in rows])
            return bool((together - alone).abs().max() <= rounding(model) * alone.abs().max())

        with in_eval_mode(model):
            shorter = sorted({n for n in (whole - 1, whole // 2) if 0 < n < whole}, reverse=True)
            if alike([begun(size) for size in (whole, *shorter)]):
                return "any"
            other = {**longest, "input_ids": longest["input_ids"][::-1]}
            return "one length" if alike([longest, other]) else "none"

    def sample(self, model: Any, examples: Sequence[Example], device: str) -> list[list[int]]:
        return [self.until_the_end(line) for line in self.written(model, examples, device, **SAMPLING)]

    def answered(self, example: Example, ids: Sequence[int]) -> Example:
        prompt = example.notes["prompt"]
        longer = self.example({k: v for k, v in prompt.items() if k != "attention_mask"}, ids, example.key, False)
        return replace(example, inputs=longer.inputs, targets=[IGNORED] * len(ids), weights=longer.weights,
                       predicted=longer.predicted, length=longer.length)  # fmt: skip

    def written(self, model: Any, examples: Sequence[Example], device: str, **options: Any) -> list[list[int]]:
        batch = to_device(self.task.pad([e.notes["prompt"] for e in examples], left=True), device)
        ids = self.generate(model, batch, **options)
        lines: list[list[int]] = ids[:, batch["input_ids"].shape[1] :].tolist()
        return lines
