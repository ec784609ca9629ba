"""What `keeltune.keras` computes, in a process of its own, as Keras reads its backend when it is imported.

    KERAS_BACKEND=tensorflow python -m tests.keras.figures IN.npz OUT.npz CACHES PART ...

IN has the numbers that `test_keras.py` compares with those of torch; CACHES is a folder with `full` and `top-k`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import keeltune.keras as kk
from keeltune.keras.gradients import with_gradients
from keeltune.keras.predictions import averaged, smoothing

if keras.backend.backend() == "tensorflow":
    assert "torch" not in sys.modules, "keeltune.keras imports torch"


def main(given: Any, parts: list[str]) -> dict[str, Any]:
    found = {part: globals()[part](given) for part in parts}
    return {f"{part} {name}": value for part, made in found.items() for name, value in made.items()}


def value_and_gradient(function: Any, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a scalar, at logits in float64."""
    variable = keras.Variable(at, dtype="float64")

    def twice() -> tuple[Any, Any]:
        value = function(variable.value)
        return value, value

    value, (gradient,) = with_gradients(twice, [variable])
    return numbers(value), numbers(gradient)


def numbers(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.stop_gradient(ops.convert_to_tensor(x))))


def divergences(given: Any) -> dict[str, Any]:
    made = {}
    for number, (name, parameters, temperature, form) in enumerate(json.loads(str(given["cases"]))):
        function = kk.divergences.find(name, **parameters)
        objective = kk.Objective(function, temperature=temperature)
        student, reference, anchored = given[f"{form} student"], given[f"{form} reference"], None
        if form == "coarse":
            reference = kk.Coarse(given["coarse ids"], reference, temperature)
        if form == "anchored":
            anchored = given["anchored"]
        made[f"{number} value"], made[f"{number} gradient"] = value_and_gradient(
            lambda z, o=objective, r=reference, a=anchored: o.total(z, r, a), student
        )
    return made


def cross_entropies(given: Any) -> dict[str, Any]:
    targets, weights = given["targets"], given["weights"]
    made = {}
    for name, function in {
        "plain": lambda z: kk.cross_entropy(z, targets),
        "weighted": lambda z: kk.cross_entropy(z, targets, weights),
        "smoothed": lambda z: ops.sum(smoothing(z, targets, 0.1)),
        "padded and smoothed": lambda z: ops.sum(smoothing(z, targets, 0.1)),
    }.items():
        at = given["padded student"] if name.startswith("padded") else given["dense student"]
        made[f"{name} value"], made[f"{name} gradient"] = value_and_gradient(function, at)
    made["averaged"] = numbers(averaged([given["dense student"], given["dense reference"]], [3.0, 1.0]))
    return made


def objectives(given: Any) -> dict[str, Any]:
    made = {}
    reference, targets = given["dense reference"], given["targets"]
    for per_label in (False, True):
        objective = kk.Objective("forward-kl", weight=0.7, temperature=2.0, per_label=per_label)

        def loss(z: Any, objective: kk.Objective = objective) -> Any:
            counts = kk.Counts(5.0, 3.0)
            return objective(kk.cross_entropy(z, targets), z, reference, given["anchored"], counts=counts).loss

        made[f"{per_label} value"], made[f"{per_label} gradient"] = value_and_gradient(loss, given["dense student"])
    nothing = kk.Objective()(kk.cross_entropy(reference, targets), reference, reference, counts=kk.Counts(0, 0))
    made["nothing to count"] = numbers(nothing.loss)
    return made


def half_precision(given: Any) -> dict[str, Any]:
    """KL of near-equal distributions in bfloat16, and a step of a model under a policy of half precision."""
    near = kk.Objective().total(*(ops.cast(given[name], "bfloat16") for name in ("wide", "as wide")))
    keras.mixed_precision.set_global_policy("mixed_float16")
    keras.utils.set_random_seed(0)
    student = keras.Sequential([keras.Input((4,)), layers.Dense(8, activation="tanh"), layers.Dense(3)])
    keras.mixed_precision.set_global_policy("float32")
    model = kk.compile(student, given_teacher(given), optimizer=keras.optimizers.SGD(0.1), micro_batches=2)
    before = student.get_weights()[0].copy()
    losses = model.fit(given["x"], given["y"], batch_size=12, epochs=4, verbose=0, shuffle=False).history["loss"]
    dtype = keras.backend.standardize_dtype(student(given["x"]).dtype)
    return {"near": numbers(near), "dtype": keras.backend.standardize_dtype(near.dtype), "outputs": dtype,
            "losses": np.array(losses), "moved": np.abs(student.get_weights()[0] - before).max()}  # fmt: skip


def own_distillation(given: Any) -> dict[str, Any]:
    """The page's example: Keras' own distillation loss and ours, nats a row."""
    teacher, student = given["page teacher"], given["page student"]
    own = keras.distillation.LogitsDistillation
    return {
        "by default": numbers(own(temperature=2.0).compute_loss(teacher, student)),
        "with KLDivergence": numbers(own(2.0, keras.losses.KLDivergence()).compute_loss(teacher, student)),
        "ours": numbers(kk.Objective("forward-kl", temperature=2.0).total(student, teacher)) / len(teacher),
    }


def given_teacher(given: Any) -> Any:
    teacher = keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="teacher")
    teacher.set_weights([given["teacher kernel"], given["teacher bias"]])
    return teacher


class Subclassed(keras.Model):
    """A model of one's own that says nothing of `training`."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)


def one_batch(given: Any) -> dict[str, Any]:
    """Three steps of SGD of a linear classifier, its scores and its answers."""
    model, made = stepped(given, keras.Sequential([keras.Input((4,)), layers.Dense(3)]), 1)
    scores = model.evaluate(given["x"], given["y"], batch_size=5, verbose=0, return_dict=True)
    return {**made, **{f"evaluated {metric}": value for metric, value in scores.items()},
            "predicted": model.predict(given["x"], verbose=0)}  # fmt: skip


def cut_in_three(given: Any) -> dict[str, Any]:
    return stepped(given, keras.Sequential([keras.Input((4,)), layers.Dense(3)]), 3)[1]


def weighted(given: Any) -> dict[str, Any]:
    return stepped(given, Subclassed(), 1, given["row weights"])[1]


def weighted_and_cut_in_five(given: Any) -> dict[str, Any]:
    return stepped(given, Subclassed(), 5, given["row weights"])[1]


def stepped(given: Any, student: Any, micro_batches: int, weights: Any = None) -> tuple[Any, dict[str, Any]]:
    """The student's weights after three steps, and what `fit` reports; its reference is as it was."""
    student(given["x"][:1])
    student.set_weights([given["kernel"], given["bias"]])
    teacher = given_teacher(given)
    model = kk.compile(
        student, teacher, kk.Objective("reverse-kl", weight=0.5, temperature=2.0), optimizer=keras.optimizers.SGD(0.5),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")], micro_batches=micro_batches,
    )  # fmt: skip
    history = model.fit(given["x"], given["y"], sample_weight=weights, batch_size=12, epochs=3, verbose=0,
                        shuffle=False).history  # fmt: skip
    np.testing.assert_array_equal(teacher.get_weights()[0], given["teacher kernel"])
    made = {"kernel": student.get_weights()[0], "bias": student.get_weights()[1]}
    return model, made | {metric: np.array(values) for metric, values in history.items()}


def tagged(given: Any) -> dict[str, Any]:
    """A tagger whose padding is masked by Keras: the counts are those of what is not."""
    made = {}
    for micro_batches in (1, 2):
        tagger = keras.Sequential([layers.Embedding(7, 3, mask_zero=True)])
        tagger(given["tokens"])
        tagger.set_weights([given["embedding"]])
        teacher = keras.Sequential([layers.Embedding(7, 3)])
        teacher(given["tokens"])
        teacher.set_weights([given["teacher embedding"]])
        model = kk.compile(tagger, [teacher, teacher], kk.Objective(weight=0.5), optimizer=keras.optimizers.SGD(1.0),
                           micro_batches=micro_batches)  # fmt: skip
        history = model.fit(given["tokens"], given["tags"], batch_size=4, verbose=0, shuffle=False).history
        made[f"{micro_batches} embedding"] = tagger.get_weights()[0]
        made |= {f"{micro_batches} {name}": values[0] for name, values in history.items()}
    return made


def adam(given: Any) -> dict[str, Any]:
    """Three steps of Adam on an embedding, some of whose rows are met twice and some never."""
    tagger = keras.Sequential([layers.Embedding(7, 3)])
    tagger(given["tokens"])
    tagger.set_weights([given["embedding"]])
    model = kk.compile(tagger, optimizer=keras.optimizers.Adam(0.1, epsilon=1e-12))
    model.fit(given["tokens"], given["tags"], batch_size=4, epochs=3, verbose=0, shuffle=False)
    return {"embedding": tagger.get_weights()[0]}


def two_outputs(given: Any) -> dict[str, Any]:
    """A span: two predictions a row, which carry D where `anchored` says so."""
    inputs = keras.Input((4,))
    student = keras.Model(inputs, {name: layers.Dense(3, name=name)(inputs) for name in ("start", "end")})
    sides = {"start": [given["kernel"], given["bias"]], "end": [given["teacher kernel"], given["teacher bias"]]}
    for name, weights in sides.items():
        student.get_layer(name).set_weights(weights)
    teacher = keras.models.clone_model(student)
    for name, weights in zip(sides, reversed(sides.values()), strict=True):
        teacher.get_layer(name).set_weights(weights)
    model = kk.compile(student, teacher, kk.Objective(weight=0.5), optimizer=keras.optimizers.SGD(0.5))
    y, anchored = given["y"], given["row anchored"]
    y = {"targets": {"start": y, "end": y[::-1]}, "anchored": {"start": anchored, "end": anchored}}
    history = model.fit(given["x"], y, batch_size=12, verbose=0, shuffle=False).history
    kernels = {name: student.get_layer(name).get_weights()[0] for name in sides}
    return kernels | {name: values[0] for name, values in history.items()}


def penalised(given: Any) -> dict[str, Any]:
    """A penalty on the weights counts once a step, however the step is cut."""
    made = {}
    for micro_batches in (1, 3):
        dense = layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
        student = keras.Sequential([keras.Input((4,)), dense])
        student.set_weights([given["kernel"], given["bias"]])
        model = kk.compile(student, optimizer=keras.optimizers.SGD(0.5), micro_batches=micro_batches,
                           label_smoothing=0.1)  # fmt: skip
        model.fit(given["x"], given["y"], batch_size=12, verbose=0, shuffle=False)
        made[f"{micro_batches} kernel"] = student.get_weights()[0]
    return made


def saved(given: Any) -> dict[str, Any]:
    """What is saved is the student: it is read again without this package's classes."""
    student = keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="student")
    model = kk.compile(student, given_teacher(given), optimizer=keras.optimizers.AdamW(0.1))
    model.fit(given["x"], given["y"], batch_size=12, verbose=0)
    folder = Path(str(given["folder"]))
    model.save(folder / "model.keras")
    again = keras.models.load_model(folder / "model.keras")
    return {"same": np.array_equal(again.predict(given["x"], verbose=0), model.predict(given["x"], verbose=0)),
            "class": type(again).__name__, "variables": len(model.trainable_variables)}  # fmt: skip


def cached(given: Any) -> dict[str, Any]:
    """A cache read without torch, and one step on it beside one step with the same answers from a model's hands."""
    made, caches = {}, Path(sys.argv[3])
    keys = [str(key) for key in given["keys"]]
    for form in ("full", "top-k"):
        cache = kk.Cached(caches / form)
        answers = cache.answers(keys)
        made |= {f"{form} {name}": v for name, v in (answers if form == "top-k" else {"log_probs": answers}).items()}
        student = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
        student.set_weights([given["kernel"][:, :2], given["bias"][:2]])
        model = kk.compile(student, cache, kk.Objective(weight=0.5), optimizer=keras.optimizers.SGD(0.5),
                           micro_batches=2)  # fmt: skip
        x, y = given["x"][: len(keys)], np.minimum(given["y"][: len(keys)], 1)
        history = model.fit(x, cache.with_targets(y, keys), batch_size=len(keys), verbose=0, shuffle=False).history
        made |= {f"{form} divergence": history["divergence"][0], f"{form} kernel": student.get_weights()[0]}
    mask = np.zeros((len(keys), 3), dtype=bool)
    mask[:, 1] = True
    made["at positions"] = kk.Cached(caches / "full").answers(keys, mask)
    return made | {
        "unknown row": said(KeyError, lambda: kk.Cached(caches / "full").answers(["no such key"])),
        "temperature": said(ValueError, lambda: kk.Cached(caches / "top-k").require(kk.Objective(temperature=2.0))),
        "broken": said(Exception, lambda: kk.Cached(caches / "broken").answers(keys)),
    }


def refusals(given: Any) -> dict[str, Any]:
    softmax = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")], name="probabilities")
    one = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    three = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    x, y = given["x"], given["y"]

    def fit(student: Any, targets: Any, reference: Any = None) -> Any:
        return kk.compile(student, reference, optimizer="sgd").fit(x, targets, verbose=0)

    return {
        "probabilities": said(ValueError, lambda: kk.compile(softmax)),
        "one-hot": said(ValueError, lambda: fit(three, np.eye(3)[np.maximum(y, 0)])),
        "one choice": said(ValueError, lambda: fit(one, y)),
        "another head": said(ValueError, lambda: fit(three, y, keras.Sequential([keras.Input((4,)), layers.Dense(2)]))),
        "no such divergence": said(LookupError, lambda: kk.Objective("reverse-kll").function),
        "no micro-batches": said(ValueError, lambda: kk.compile(three, micro_batches=0)),
    }


def said(kind: type[Exception], function: Any) -> str:
    """What a call is refused with."""
    try:
        function()
    except kind as error:
        return str(error)
    return "nothing"


if __name__ == "__main__":
    np.savez(sys.argv[2], **main(np.load(sys.argv[1]), sys.argv[4:]))
