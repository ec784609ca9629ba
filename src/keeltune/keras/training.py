"""`fit` with the formula: a Keras model that learns beside a reference, which is neither trained nor saved.

A batch of `fit` is one optimizer step. It is cut into `micro_batches`, of which n_CE and n_D are counted before the
first of them is differentiated, so that the cut changes no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
from keras import ops, tree

from keeltune.keras import gradients
from keeltune.keras.cached import Cached
from keeltune.keras.formula import Counts, Objective, Terms, divide
from keeltune.keras.micro_batches import MicroBatch, cut, whole_step
from keeltune.keras.predictions import Coarse, averaged, nll, smoothing

Tensor = Any
Step = tuple[Any, Terms]
"""A micro-batch's outputs, and its terms."""


@dataclass(frozen=True)
class _Untracked:
    """What Keras does not see as a part of a model: its weights are neither trained, nor counted, nor saved."""

    models: tuple[Any, ...] = ()
    cached: Cached | None = None

    @property
    def is_none(self) -> bool:
        return not self.models and self.cached is None


class Distiller(keras.Model):
    """A Keras model with the formula as its `fit` and `evaluate`; `compile` makes one.

    What is called, saved and exported is the student alone. `fit` and `evaluate` report `loss`, `cross_entropy` and
    `divergence`, nats a prediction over the epoch, and the metrics.
    """

    def __init__(
        self, student: Any, reference: _Untracked, objective: Objective, micro_batches: int, label_smoothing: float
    ):
        super().__init__(name=f"{student.name}_with_reference")
        self.student = student
        self.objective = objective
        self.micro_batches = micro_batches
        self.label_smoothing = label_smoothing
        self._reference = reference
        self._loss_mean = keras.metrics.Mean(name="loss")
        self._ce_mean = keras.metrics.Mean(name="cross_entropy")
        self._divergence_mean = keras.metrics.Mean(name="divergence")
        self.built = student.built

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student's outputs; `training` reaches it through Keras' call context."""
        return self.student(inputs)

    @property
    def metrics(self) -> list[Any]:
        """The three means and the metrics that `compile` was given."""
        own = [self._loss_mean, self._ce_mean] + ([] if self._reference.is_none else [self._divergence_mean])
        return [*own, *([self._compile_metrics] if self.compiled and self._compile_metrics is not None else [])]

    def train_step(self, data: Any) -> dict[str, Any]:
        """One optimizer step, over all its micro-batches."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        parts = list(cut(whole_step(x, y, sample_weight, self.objective.temperature), self.micro_batches))
        counts = self._counted(parts)
        variables, total, steps = self.trainable_variables, None, []
        for part in parts:
            reference = self._answers(part)

            def scaled(part: MicroBatch = part, reference: Any = reference) -> tuple[Tensor, Step]:
                outputs, terms = self._terms(part, reference, counts, training=True)
                return self.optimizer.scale_loss(terms.loss), (outputs, terms)

            step, of_part = gradients.with_gradients(scaled, variables)
            steps.append(step)
            total = gradients.added(total, of_part)
        gradients.apply(self.optimizer, total or [], variables)
        return self._told(x, y, sample_weight, steps, counts or self._own_counts(parts[0], steps[0][0]))

    def test_step(self, data: Any) -> dict[str, Any]:
        """The terms and metrics of a batch, in inference mode."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch = whole_step(x, y, sample_weight, self.objective.temperature)
        step = gradients.without_gradient(lambda: self._terms(batch, self._answers(batch), None, training=False))
        return self._told(x, y, sample_weight, [step], self._own_counts(batch, step[0]))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """The metrics so far. Predictions without a label weigh nothing in them."""
        targets = y["targets"] if isinstance(y, dict) and "targets" in y else y
        batch = whole_step(x, y, sample_weight, self.objective.temperature)
        weights = [batch.labelled(i, mask) for i, mask in enumerate(_masks(y_pred))]
        weighing = tree.pack_sequence_as(targets, weights)
        return super().compute_metrics(x, targets, y_pred, sample_weight=weighing)

    def save(self, *args: Any, **kwargs: Any) -> Any:
        """Saves the student."""
        return self.student.save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> Any:
        """Saves the student's weights."""
        return self.student.save_weights(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> Any:
        """Reads the student's weights."""
        return self.student.load_weights(*args, **kwargs)

    def _counted(self, parts: Sequence[MicroBatch]) -> Counts | None:
        """n_CE and n_D of a step before it is differentiated; None where its one micro-batch counts itself."""
        if len(parts) == 1:
            return None
        counts = [part.counts(masks) for part, masks in zip(parts, self._masks_of(parts), strict=True)]
        return Counts(*(sum(column[1:], column[0]) for column in zip(*counts, strict=True)))

    def _masks_of(self, parts: Sequence[MicroBatch]) -> Iterator[list[Tensor | None]]:
        """The masks of the outputs, of a forward pass of which nothing else is used; none where the first has none."""
        masked = True
        for part in parts:
            inputs, none = part.x, [None] * len(part.targets)
            found = _masks(gradients.without_gradient(partial(self.__call__, inputs, training=False)))
            masked = masked and any(mask is not None for mask in found)
            yield found if masked else none

    def _own_counts(self, batch: MicroBatch, outputs: Any) -> Counts:
        return batch.counts(_masks(outputs))

    def _answers(self, batch: MicroBatch) -> list[Tensor | Coarse] | None:
        """The reference's answers for each output, without a gradient; None where there is no reference."""
        if batch.reference is not None or not self._reference.models:
            return batch.reference

        def asked() -> list[Tensor]:
            answers = [tree.flatten(model(batch.x, training=False)) for model in self._reference.models]
            return answers[0] if len(answers) == 1 else [averaged(each) for each in zip(*answers, strict=True)]

        return gradients.without_gradient(asked)

    def _terms(
        self, batch: MicroBatch, reference: list[Tensor | Coarse] | None, counts: Counts | None, *, training: bool
    ) -> Step:
        """The terms of a micro-batch, summed over its outputs; `counts` None: it is the whole step."""
        outputs = self(batch.x, training=training)
        logits, masks = tree.flatten(outputs), _masks(outputs)
        self._check(logits, batch, reference)
        counts = counts or batch.counts(masks)
        found = []
        for i, (of_output, mask) in enumerate(zip(logits, masks, strict=True)):
            weights, losses = batch.labelled(i, mask), nll(of_output, batch.targets[i])
            cross_entropy = _weighted(losses, weights)
            terms = self.objective(cross_entropy, of_output, None if reference is None else reference[i],
                                   batch.carrying(i, mask), counts=counts)  # fmt: skip
            if training and self.label_smoothing:
                added = _weighted(smoothing(of_output, batch.targets[i], self.label_smoothing), weights)
                terms = terms._replace(loss=terms.loss + divide(added, counts.cross_entropy))
            found.append(terms)
        loss, cross_entropy, divergence = (sum(column[1:], column[0]) for column in zip(*found, strict=True))
        for penalty in self.student.losses:  # each micro-batch carries its share
            share = self.micro_batches if training else 1
            loss = loss + ops.cast(penalty, loss.dtype) / share
        return outputs, Terms(loss, cross_entropy, divergence)

    def _check(self, logits: list[Tensor], batch: MicroBatch, reference: list[Tensor | Coarse] | None) -> None:
        """Raises ValueError where outputs, targets and reference do not belong together."""
        if len(batch.targets) != len(logits):
            raise ValueError(f"found {len(batch.targets)} targets, expected one for each of the student's "
                             f"{len(logits)} outputs")  # fmt: skip
        if reference is not None and len(reference) != len(logits):
            raise ValueError(f"found {len(reference)} outputs of the reference, expected the student's {len(logits)}")
        for of_output, targets in zip(logits, batch.targets, strict=True):
            if len(targets.shape) != len(of_output.shape) - 1:
                raise ValueError(f"found targets of shape {tuple(targets.shape)} for logits {tuple(of_output.shape)}, "
                                 "expected one whole number for each prediction: no one-hot rows")  # fmt: skip
            if of_output.shape[-1] == 1:
                raise ValueError("found 1 choice, expected logits of at least two: write a yes or no as two classes")

    def _told(self, x: Any, y: Any, sample_weight: Any, steps: Sequence[Step], counts: Counts) -> dict[str, Any]:
        """The epoch's means so far, with this step in them."""
        sums = [terms for _, terms in steps]
        loss, cross_entropy, divergence = (sum(column[1:], column[0]) for column in zip(*sums, strict=True))
        self._loss_mean.update_state(ops.stop_gradient(loss), sample_weight=counts.cross_entropy)
        for mean, total, count in ((self._ce_mean, cross_entropy, counts.cross_entropy),
                                   (self._divergence_mean, divergence, counts.divergence)):  # fmt: skip
            mean.update_state(ops.stop_gradient(total) / ops.maximum(count, 1e-30), sample_weight=count)
        outputs = [of_part for of_part, _ in steps]
        whole = outputs[0]
        if len(outputs) > 1:
            whole = tree.map_structure(lambda *parts: ops.concatenate(parts, axis=0), *outputs)
        return self.compute_metrics(x, y, tree.map_structure(ops.stop_gradient, whole), sample_weight)


def compile(
    student: Any,
    reference: Any = None,
    objective: Objective | None = None,
    *,
    optimizer: Any = "adamw",
    metrics: Sequence[Any] = (),
    micro_batches: int = 1,
    label_smoothing: float = 0.0,
) -> Distiller:
    """A Keras model ready to `fit` with L = Σ CE / n_CE + weight · Σ D / n_D.

    Args:
        student: any Keras model whose outputs are logits [B, C] or [B, T, C], one or a structure of them.
        reference: None; a model with the same outputs, or several, whose probabilities are averaged; or `Cached`, whose
            answers then come with the rows (`Cached.with_targets`). It is asked in inference mode and never trained.
        objective: divergence, weight, temperature; None: reverse KL with weight 1.
        optimizer, metrics: as Keras has them; metrics leave out what has no label.
        micro_batches: into how many parts a batch of `fit`, which is one step, is cut: less memory, the same gradient.
        label_smoothing: ε, while training; what is reported is not smoothed.

    `fit` takes `y` as whole numbers, IGNORED where there is no label, or {"targets": y, "anchored": …}, bool, where D
    runs over other predictions than the labelled ones. `sample_weight` multiplies a prediction's CE, and n_CE is then
    its sum; D is not weighted; a prediction of weight 0, or that Keras' mask leaves out, is in neither term.
    """
    gradients.require_backend()
    models = reference if isinstance(reference, list | tuple) else () if reference is None else (reference,)
    cached = reference if isinstance(reference, Cached) else None
    held = _Untracked(cached=cached) if cached is not None else _Untracked(tuple(models))
    objective = objective or Objective()
    for model in (student, *held.models):
        _refuse_probabilities(model)
    if cached is not None:
        cached.require(objective)
    if micro_batches < 1:
        raise ValueError(f"found micro_batches {micro_batches}, expected 1 or more")
    model = Distiller(student, held, objective, micro_batches, label_smoothing)
    model.compile(optimizer=optimizer, weighted_metrics=list(metrics), jit_compile=False)
    return model


def _refuse_probabilities(model: Any) -> None:
    """Raises ValueError where the last layer of a functional model says that it gives probabilities."""
    for output in tree.flatten(getattr(model, "outputs", None) or []):
        layer = output._keras_history.operation
        activation = getattr(layer, "activation", None)
        if activation in (keras.activations.softmax, keras.activations.sigmoid) or type(layer) is keras.layers.Softmax:
            raise ValueError(f"found {model.name} with probabilities as its output (layer {layer.name}), expected "
                             "logits: build it without that activation")  # fmt: skip


def _masks(outputs: Any) -> list[Tensor | None]:
    """Keras' own mask of each output, where a layer has made one: [...] bool."""
    return [getattr(output, "_keras_mask", None) for output in tree.flatten(outputs)]


def _weighted(losses: Tensor, weights: Tensor) -> Tensor:
    """Σ w · losses; what weighs nothing adds nothing, though it were infinite."""
    weights = ops.cast(weights, losses.dtype)
    return ops.sum(ops.where(weights != 0, losses, ops.zeros_like(losses)) * weights)
