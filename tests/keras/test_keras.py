"""The formula in Keras 3 is the formula: every value and gradient is that of the torch page, in float64."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from keeltune import recipe
from keeltune.cli import cache
from keeltune.cli.demo_data import make_reviews
from keeltune.data.dataset import row_key
from keeltune.objective.derived_predictions import Mixture
from keeltune.objective.formula import Counts, Objective, find_divergence
from keeltune.objective.predictions import IGNORED, Coarse, Dense, cross_entropy
from keeltune.objective.stored_predictions import TopK
from keeltune.training.regularizers.label_smoothing import LabelSmoothing
from keeltune.utils import registry
from keeltune.utils.progress import Display
from keeltune.utils.tensor_store import Store
from tests.helpers.families import write_lines
from tests.helpers.models import save_tiny

if find_spec("tensorflow") is None or find_spec("keras") is None:  # neither is imported here
    pytest.skip("Keras and TensorFlow come with keeltune[tensorflow]", allow_module_level=True)

ROOT = Path(__file__).parents[2]

CASES = [
    (name, parameters, temperature, form)
    for name, parameters in [*((name, {}) for name in registry.names("divergences")), ("jensen-shannon", {"beta": 0.2}),
                             ("jensen-shannon", {"beta": 0.0}), ("jensen-shannon", {"beta": 1.0}),
                             ("skewed-kl", {"a": 0.3}), ("skewed-reverse-kl", {"a": 0.3})]
    for temperature in (1.0, 2.5)
    for form in ("dense", "padded", "coarse", "anchored")
    if not (form == "coarse" and name == "logit-mse") and not (name == "total-variation" and temperature != 1.0)
]  # fmt: skip


def normal(*shape: int, seed: int) -> np.ndarray:
    return 2 * np.random.default_rng(seed).normal(size=shape)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, Any]:
    """The numbers that both sides read."""
    dense = {"dense student": normal(6, 5, seed=0), "dense reference": normal(6, 5, seed=1)}
    padding = np.full((6, 2), -np.inf)
    reference = torch.from_numpy(dense["dense reference"]).log_softmax(-1)
    kept, ids = reference.topk(2)
    tail = reference.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    y = np.array([0, 1, 2, IGNORED, 1, 0, 2, 2, IGNORED, 1, 0, 1])
    return dense | {
        "padded student": np.concatenate([dense["dense student"], padding], -1),
        "padded reference": np.concatenate([dense["dense reference"], padding], -1),
        "coarse student": dense["dense student"],
        "coarse reference": torch.cat([kept, tail], -1).numpy(), "coarse ids": ids.numpy(),
        "anchored student": dense["dense student"], "anchored reference": dense["dense reference"],
        "anchored": np.array([True, False, True, True, False, False]),
        "targets": np.array([0, 4, IGNORED, 2, 1, IGNORED]), "weights": np.array([1.0, 0.5, 2.0, 3.0, 0.0, 1.0]),
        "wide": normal(4, 3000, seed=2), "as wide": 1.003 * normal(4, 3000, seed=2), "cases": json.dumps(CASES),
        "x": normal(12, 4, seed=3).astype(np.float32), "y": y,
        "row weights": np.array([1, 2, 0.5, 1, 0, 1, 3, 1, 1, 0, 1, 1], dtype=np.float32),
        "row anchored": np.arange(12) % 3 > 0,
        "kernel": normal(4, 3, seed=4).astype(np.float32), "bias": normal(3, seed=5).astype(np.float32),
        "teacher kernel": normal(4, 3, seed=6).astype(np.float32), "teacher bias": normal(3, seed=7).astype(np.float32),
        "tokens": np.array([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 0, 0], [1, 1, 1, 1]]),
        "tags": np.array([[0, 1, IGNORED, 0], [2, 0, 0, 0], [1, 0, 0, 0], [0, 1, 2, 0]]),
        "embedding": normal(7, 3, seed=8).astype(np.float32),
        "teacher embedding": normal(7, 3, seed=9).astype(np.float32),
        "page teacher": np.array([[1.2, -0.3, -1.7], [1.5, 0.5, 0.5]]),
        "page student": np.array([[0.5, -1.5, 0.9], [-0.6, 0.6, 2.4]]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def caches(tmp_path_factory) -> tuple[Path, list[str]]:
    """A teacher's answers to eight rows, kept in both forms, and one with a flipped bit."""
    folder = tmp_path_factory.mktemp("caches")
    save_tiny(folder / "student", "bert", seed=0)
    save_tiny(folder / "teacher", "bert", seed=5)
    rows = make_reviews("films", 8, seed=1)
    write_lines(folder / "train.jsonl", rows)
    for form in ("full", "top-k"):
        spec = {
            "task": "sentiment-analysis", "method": "distillation", "model": "student", "output": "out",
            "reference": {"model": "teacher", "from": "cached", "cache": form, "form": form, "k": 1},
            "data": {"train": "train.jsonl"}, "training": {"precision": "fp32"},
        }  # fmt: skip
        cache.precompute(recipe.from_dict(spec, folder), display=Display(quiet=True))
    shutil.copytree(folder / "full", folder / "broken")
    shard = folder / "broken" / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    return folder, [row_key(row, ["text", "text_pair", "label"]) for row in rows]


SLOW = pytest.mark.slow("twenty models are trained; Keras on torch is a process of its own besides")


@pytest.fixture(
    scope="module",
    params=[("tensorflow", "quick"), pytest.param(("tensorflow", "rest"), marks=SLOW),
            pytest.param(("torch", "all"), marks=SLOW)],
    ids=" ".join,
)  # fmt: skip
def made(request, given, caches, tmp_path_factory) -> dict[str, Any]:
    """What `figures.py` makes of them on a backend: the parts whose processes take seconds, or the others."""
    backend, which = request.param
    parts = [part for part in CHECKS if which == "all" or (part in QUICK) == (which == "quick")]
    folder = tmp_path_factory.mktemp(backend)
    np.savez(folder / "in.npz", **given, folder=str(folder), keys=np.array(caches[1]))
    environment = {"KERAS_BACKEND": backend, "KERAS_HOME": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3",
                   "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}  # fmt: skip
    files = [str(folder / "in.npz"), str(folder / "out.npz"), str(caches[0])]
    done = subprocess.run([sys.executable, "-m", "tests.keras.figures", *files, *parts], cwd=ROOT,
                          env={**os.environ, **environment}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {"parts": parts, **np.load(folder / "out.npz")}


def gradient_of(function: Any, at: np.ndarray) -> tuple[float, np.ndarray]:
    z = torch.from_numpy(at).requires_grad_()
    value = function(z)
    return value.item(), torch.autograd.grad(value, z)[0].numpy()


def same(made: dict[str, Any], name: str, function: Any, at: np.ndarray) -> None:
    """Value and gradient are those of torch, to 1e-10."""
    value, gradient = gradient_of(function, at)
    assert made[f"{name} value"] == pytest.approx(value, rel=1e-10, abs=1e-10), name
    assert np.abs(gradient).max() > 1e-3, name
    np.testing.assert_allclose(made[f"{name} gradient"], gradient, rtol=0, atol=1e-10, err_msg=name)


def test_what_keras_computes_is_what_torch_does(made, given, caches):
    """One test of all, as what makes them is a process that takes seconds to begin."""
    for part in made["parts"]:
        CHECKS[part](
            {n.removeprefix(f"{part} "): v for n, v in made.items() if n.startswith(f"{part} ")}, given, caches
        )


def check_divergences(made, given, caches):
    for number, (name, parameters, temperature, form) in enumerate(CASES):
        objective = Objective(find_divergence(name, **parameters), temperature=temperature)
        anchored = torch.from_numpy(given["anchored"]) if form == "anchored" else None
        reference: Any = torch.from_numpy(given[f"{form} reference"])
        rows = Coarse(torch.from_numpy(given["coarse ids"]), reference, temperature) if form == "coarse" else (
            Dense(reference))  # fmt: skip

        def total(z: Tensor, objective=objective, rows=rows, anchored=anchored) -> Tensor:
            return objective.total(Dense(z), rows, anchored)

        same(made, f"{number}", total, given[f"{form} student"])


def check_cross_entropies(made, given, caches):
    targets, weights = torch.from_numpy(given["targets"]), torch.from_numpy(given["weights"])
    labelled = targets != IGNORED

    def smoothed(z: Tensor) -> Tensor:
        return LabelSmoothing(0.1).on_labelled([z[labelled].log_softmax(-1)], targets[labelled]).sum()

    for name, function in {
        "plain": lambda z: cross_entropy(Dense(z), targets),
        "weighted": lambda z: cross_entropy(Dense(z), targets, weights),
        "smoothed": smoothed, "padded and smoothed": smoothed,
    }.items():  # fmt: skip
        at = given["padded student"] if name.startswith("padded") else given["dense student"]
        same(made, f"{name}", function, at)
    members = [Dense(torch.from_numpy(given[f"dense {side}"])) for side in ("student", "reference")]
    voted = Mixture(members, np.log([0.75, 0.25]).tolist()).log_probs(slice(None)).numpy()
    np.testing.assert_allclose(made["averaged"], voted, rtol=0, atol=1e-12)


def check_objective(made, given, caches):
    targets, anchored = torch.from_numpy(given["targets"]), torch.from_numpy(given["anchored"])
    reference = Dense(torch.from_numpy(given["dense reference"]))
    for per_label in (False, True):
        objective = Objective("forward-kl", weight=0.7, temperature=2.0, per_label=per_label)

        def loss(z: Tensor, objective=objective) -> Tensor:
            student = Dense(z)
            return objective(cross_entropy(student, targets), student, reference, anchored, counts=Counts(5, 3)).loss

        same(made, f"{per_label}", loss, given["dense student"])
    assert made["nothing to count"] == 0


def check_half_precision(made, given, caches):
    assert made["dtype"] == "float32"
    near = [Dense(torch.from_numpy(given[name]).bfloat16()) for name in ("wide", "as wide")]
    assert made["near"] == pytest.approx(Objective().total(*near).item(), rel=1e-2)  # float32
    assert 0 < made["near"] < 1e-2
    assert made["outputs"] == "float16"
    assert made["losses"][-1] < made["losses"][0]
    assert made["moved"] > 1e-3


def linear_steps(given, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, list[tuple[float, float, float]]]:
    """Three steps of SGD of the same classifier by the torch page: weights, bias, (loss, CE, D) a prediction."""
    kernel, bias = (torch.from_numpy(given[n]).clone().requires_grad_() for n in ("kernel", "bias"))
    x, y = torch.from_numpy(given["x"]), torch.from_numpy(given["y"])
    teacher = Dense(x @ torch.from_numpy(given["teacher kernel"]) + torch.from_numpy(given["teacher bias"]))
    w = torch.ones(len(y)) if weights is None else torch.from_numpy(weights)
    carrying = (y != IGNORED) & (w != 0)
    counts = Counts(w[y != IGNORED].sum(), carrying.sum().float())
    told = []
    for _ in range(3):
        student = Dense(x @ kernel + bias)
        objective = Objective("reverse-kl", weight=0.5, temperature=2.0)
        terms = objective(cross_entropy(student, y, w), student, teacher, carrying, counts=counts)
        told.append((terms.loss.item(), (terms.cross_entropy / counts.cross_entropy).item(),
                     (terms.divergence / counts.divergence).item()))  # fmt: skip
        with torch.no_grad():
            for parameter, gradient in zip(
                (kernel, bias), torch.autograd.grad(terms.loss, (kernel, bias)), strict=True
            ):
                parameter -= 0.5 * gradient
    return kernel.detach().numpy(), bias.detach().numpy(), told


def check_steps(made, given, caches):
    check_trained(made, linear_steps(given, None))


def check_weighted_steps(made, given, caches):
    check_trained(made, linear_steps(given, given["row weights"]))


def check_trained(made, expected):
    """Weights and reported terms after three steps."""
    kernel, bias, told = expected
    np.testing.assert_allclose(made["kernel"], kernel, rtol=0, atol=2e-6)
    np.testing.assert_allclose(made["bias"], bias, rtol=0, atol=2e-6)
    for column, term in zip(zip(*told, strict=True), ("loss", "cross_entropy", "divergence"), strict=True):
        np.testing.assert_allclose(made[term], column, rtol=2e-6, err_msg=term)


def check_one_batch(made, given, caches):
    """The steps, and what `evaluate` says over batches of uneven sizes."""
    check_steps(made, given, caches)
    kernel, bias, _ = linear_steps(given, None)
    logits = torch.from_numpy(given["x"]) @ torch.from_numpy(kernel) + torch.from_numpy(bias)
    np.testing.assert_allclose(made["predicted"], logits.numpy(), rtol=1e-5, atol=1e-5)
    labelled, y = given["y"] != IGNORED, torch.from_numpy(given["y"])
    ce = cross_entropy(Dense(logits), y).item() / labelled.sum()
    assert made["evaluated cross_entropy"] == pytest.approx(ce, rel=1e-5)
    accuracy = (logits.argmax(-1).numpy() == given["y"])[labelled].mean()
    assert made["evaluated accuracy"] == pytest.approx(accuracy, abs=1e-6)


def check_adam(made, given, caches):
    table = torch.from_numpy(given["embedding"]).clone().requires_grad_()
    tokens, tags = torch.from_numpy(given["tokens"]), torch.from_numpy(given["tags"]).flatten()
    optimizer = torch.optim.Adam([table], 0.1, eps=1e-12)  # Keras adds ε before it corrects the bias, torch after
    for _ in range(3):
        optimizer.zero_grad()
        (cross_entropy(Dense(table[tokens].flatten(0, 1)), tags) / (tags != IGNORED).sum()).backward()
        optimizer.step()
    np.testing.assert_allclose(made["embedding"], table.detach().numpy(), rtol=0, atol=1e-5)


def check_masks(made, given, caches):
    tokens, tags = torch.from_numpy(given["tokens"]), torch.from_numpy(given["tags"])
    embedding = torch.from_numpy(given["embedding"]).clone().requires_grad_()
    carrying = ((tokens != 0) & (tags != IGNORED)).flatten()
    targets = torch.where(carrying, tags.flatten(), IGNORED)
    student = Dense(embedding[tokens].flatten(0, 1))
    teacher = Dense(torch.from_numpy(given["teacher embedding"])[tokens].flatten(0, 1))
    n = carrying.sum()
    terms = Objective(weight=0.5)(cross_entropy(student, targets), student, teacher, carrying, counts=Counts(n, n))
    (gradient,) = torch.autograd.grad(terms.loss, embedding)
    for micro_batches in (1, 2):
        after = made[f"{micro_batches} embedding"]
        np.testing.assert_allclose(after, (embedding.detach() - gradient).numpy(), rtol=0, atol=2e-6)
        assert made[f"{micro_batches} divergence"] == pytest.approx((terms.divergence / n).item(), rel=2e-6)


def check_outputs(made, given, caches):
    x, y, anchored = (torch.from_numpy(given[n]) for n in ("x", "y", "row anchored"))
    ours, theirs = ([torch.from_numpy(given[f"{side}{n}"]).clone() for n in ("kernel", "bias")]
                    for side in ("", "teacher "))  # fmt: skip
    layers = {"start": (ours, theirs, y), "end": (theirs, ours, y.flip(0))}
    n_ce, n_d = 2 * (y != IGNORED).sum(), 2 * anchored.sum()
    told = []
    for name, (student, teacher, targets) in layers.items():
        kernel = student[0].clone().requires_grad_()
        rows = Dense(x @ kernel + student[1])
        terms = Objective(weight=0.5)(cross_entropy(rows, targets), rows, Dense(x @ teacher[0] + teacher[1]), anchored,
                                      counts=Counts(n_ce, n_d))  # fmt: skip
        after = (kernel - 0.5 * torch.autograd.grad(terms.loss, kernel)[0]).detach().numpy()
        np.testing.assert_allclose(made[name], after, rtol=0, atol=2e-6, err_msg=name)
        told.append(terms.divergence.item())
    assert made["divergence"] == pytest.approx(sum(told) / n_d.item(), rel=2e-6)


def check_penalty(made, given, caches):
    np.testing.assert_allclose(made["1 kernel"], made["3 kernel"], rtol=0, atol=2e-6)
    kernel = torch.from_numpy(given["kernel"]).clone().requires_grad_()
    x, y = torch.from_numpy(given["x"]), torch.from_numpy(given["y"])
    log_probs = (x @ kernel + torch.from_numpy(given["bias"])).log_softmax(-1)[y != IGNORED]
    smoothed = torch.nn.functional.cross_entropy(log_probs, y[y != IGNORED], label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(smoothed + 0.1 * kernel.square().sum(), kernel)
    np.testing.assert_allclose(made["1 kernel"], (kernel - 0.5 * gradient).detach().numpy(), rtol=0, atol=2e-6)


def check_own_distillation(made, given, caches):
    assert made["by default"] == pytest.approx(6.003, abs=5e-4)  # logits where probabilities belong
    assert made["with KLDivergence"] == pytest.approx(1.207, abs=5e-4)
    assert made["ours"] == pytest.approx(1.207, abs=5e-4)


def check_saved(made, given, caches):
    assert made["same"]
    assert made["class"] == "Sequential"
    assert made["variables"] == 2


def check_refusals(made, given, caches):
    for name, words in {
        "probabilities": ("probabilities", "expected logits"),
        "one-hot": ("no one-hot rows",),
        "one choice": ("1 choice", "two classes"),
        "another head": ("2 choices of the reference", "student's 3"),
        "no such divergence": ('did you mean "reverse-kl"',),
        "no micro-batches": ("found micro_batches 0",),
    }.items():
        for word in words:
            assert word in str(made[name]), (name, str(made[name]))


def check_cache(made, given, caches):
    folder, keys = caches
    table = {}
    for form in ("full", "top-k"):
        store = Store(folder / form, "")
        where = [store.location(key) for key in keys]
        table[form] = {
            name: torch.stack([store.read(at.shard, name, at.number if (form, name) == ("full", "log_probs") else
                                          at.prediction, at.width if form == "full" else 1).flatten() for at in where])
            for name in (("log_probs",) if form == "full" else ("ids", "log_probs", "tail"))
        }  # fmt: skip
    full = table["full"]["log_probs"]
    np.testing.assert_array_equal(made["full log_probs"], full.numpy())
    np.testing.assert_array_equal(made["at positions"][:, 1], full.numpy())
    rows = TopK(1).read({name: column.squeeze(-1) if name == "tail" else column for name, column
                         in table["top-k"].items()}, [], [])  # fmt: skip
    np.testing.assert_array_equal(made["top-k ids"], rows.ids.numpy())
    np.testing.assert_allclose(made["top-k log_probs"], rows.log_probs(slice(None)).numpy(), atol=1e-6)
    x = torch.from_numpy(given["x"][: len(keys)])
    y = torch.from_numpy(given["y"][: len(keys)]).clamp_max(1)
    for form, reference in (("full", Dense(full)), ("top-k", rows)):
        kernel = torch.from_numpy(given["kernel"][:, :2].copy()).requires_grad_()
        student, carrying = Dense(x @ kernel + torch.from_numpy(given["bias"][:2])), y != IGNORED
        n = carrying.sum()
        terms = Objective(weight=0.5)(cross_entropy(student, y), student, reference, carrying, counts=Counts(n, n))
        after = (kernel - 0.5 * torch.autograd.grad(terms.loss, kernel)[0]).detach().numpy()
        np.testing.assert_allclose(made[f"{form} kernel"], after, rtol=0, atol=2e-6)
        assert made[f"{form} divergence"] == pytest.approx((terms.divergence / n).item(), rel=1e-5)
    assert "no answer to the row no such key" in str(made["unknown row"])
    assert "expected 1.0" in str(made["temperature"])
    assert "SHA-256" in str(made["broken"])


CHECKS = {
    "divergences": check_divergences, "cross_entropies": check_cross_entropies, "objectives": check_objective,
    "one_batch": check_one_batch, "own_distillation": check_own_distillation, "cached": check_cache,
    "cut_in_three": check_steps, "weighted": check_weighted_steps, "weighted_and_cut_in_five": check_weighted_steps,
    "tagged": check_masks, "adam": check_adam, "two_outputs": check_outputs, "half_precision": check_half_precision,
    "penalised": check_penalty, "saved": check_saved, "refusals": check_refusals,
}  # fmt: skip
"""The parts of `figures.py`, and what holds each to the torch page."""

QUICK = ("divergences", "cross_entropies", "objectives", "one_batch", "own_distillation")


def test_without_keras_the_word_is_what_to_install():
    code = "import sys; sys.modules['keras'] = None\ntry:\n    import keeltune.keras\nexcept ImportError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'keeltune[tensorflow]'" in done.stdout


def test_every_divergence_has_its_twin():
    text = (ROOT / "src" / "keeltune" / "keras" / "divergences.py").read_text(encoding="utf-8")
    for name in registry.names("divergences"):
        assert f"def {name.replace('-', '_')}(student: Tensor, reference: Tensor" in text, name
