from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor

from keeltune.models import loading
from keeltune.recipe.field_types import Share
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.training.regularizers.regularizer import Refusal, Regularizer

MASKING = ("_mask_input_features", "_mask_hidden_states")
"""How the models of transformers call what masks: Whisper's kind the mel features, wav2vec2's what is made of them."""


class SpecAugment(Regularizer):
    """Masks spans of time and of frequency in what a model hears, drawn anew in each step: transformers' own masking.

    About this share of the frames, and of the mel bins or features, is masked, in spans of the lengths that the model's
    configuration says (`mask_time_length`, `mask_feature_length`). In training alone: what is scored and saved hears
    all, and the saved configuration is the model's own. References hear all too.

    Source: Park et al. 2019, https://arxiv.org/abs/1904.08779.
    """

    parameter = Share
    description = (
        "SpecAugment (arXiv:1904.08779): the share of the frames, and of the mel bins, that is masked in training; "
        "of models that hear and mask, such as Whisper and wav2vec2."
    )
    phrase = "masked sound (SpecAugment, {value})"

    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        if task is None:
            return
        if task.reads != "sound":
            yield Refusal(f"no {self.name}: what is read is {task.reads}, no sound")
            return
        shape = loading.skeleton(task.settings.config, task.settings.auto_model, recipe.where("model"), "model")
        if not _masking(shape):
            found = f"{task.settings.config.model_type}, whose class masks nothing"
            yield Refusal("a model that masks what it hears, such as Whisper or wav2vec2", "leave it out", found)

    def on_micro_batch(self, *, repeated: bool) -> AbstractContextManager[None]:
        return self._masked()

    @contextmanager
    def _masked(self) -> Iterator[None]:
        asked = {"apply_spec_augment": True, "mask_time_prob": self.value, "mask_feature_prob": self.value}
        parts = _masking(self.model)
        configs = {id(part.config): part.config for part in parts}
        own = {key: {name: getattr(config, name) for name in asked} for key, config in configs.items()}
        for config in configs.values():
            _set(config, asked)
        hooks = [part.register_forward_pre_hook(_with_a_copy, with_kwargs=True) for part in parts]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for key, config in configs.items():
                _set(config, own[key])


def _with_a_copy(part: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Whisper's masking writes into the batch itself, which references and further passes read after it."""
    copied = tuple(value.clone() if isinstance(value, Tensor) else value for value in args)
    return copied, {name: value.clone() if name == "input_features" else value for name, value in inputs.items()}


def _set(config: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(config, name, value)


def _masking(model: Any) -> list[Any]:
    """The parts of a model that mask; wav2vec2's kind only where it has what stands in a masked place."""
    parts = [module for module in model.modules() if any(hasattr(module, name) for name in MASKING)]
    parts = [part for part in parts if hasattr(part.config, "mask_time_prob")]  # Moonshine's has but the method
    return [part for part in parts if hasattr(part, MASKING[0]) or hasattr(part, "masked_spec_embed")]
