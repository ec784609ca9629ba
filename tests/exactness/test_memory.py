"""Peak memory of whole models with a large vocabulary: it grows with the slice, not with N × V."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from keeltune.objective import predictions
from keeltune.objective.formula import Counts, Objective
from keeltune.objective.predictions import SLICE, Dense, Projected
from keeltune.objective.references.ensemble import Ensemble
from keeltune.objective.references.model import Model
from keeltune.tasks.common import lm_head
from keeltune.training.self_test import self_test
from tests.helpers import captioners, speakers, wide, writers

VOCABULARY = 50_048
WRITERS = ("marian", "llama", "gemma2")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory):
    """`bench(kind, n)`: (student, teacher, task, a batch of about n predictions) with a vocabulary of 50,048."""
    folder = tmp_path_factory.mktemp("memory")

    def make(kind: str, n: int, vocabulary: int = VOCABULARY) -> tuple[Any, Any, Any, dict[str, Any]]:
        if kind in WRITERS:
            (model, task), rows = writers.writer(kind), writers.rows()
        elif kind in speakers.KINDS:
            sounds = [folder / speakers.save_sound(folder, i) for i in range(4)]
            rows = [speakers.row_of(path, speakers.TEXTS[i], i) for i, path in enumerate(sounds)]
            model, task = speakers.speaker(kind)
        else:
            (model, task), rows = captioners.captioner(kind), captioners.rows(folder, 4)
        part = model.decoder if kind in captioners.ENCODER_DECODERS else model
        part.resize_token_embeddings(vocabulary, mean_resizing=False)
        if hasattr(model, "final_logits_bias"):  # zero when new; Marian's checkpoints have one
            model.final_logits_bias.normal_()
        examples = [replace(e, anchored=True) for row in rows for e in task.encode(row)]
        each = sum(e.predictions for e in examples)
        teacher = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        return model.eval(), teacher, task, task.collate(examples * max(1, round(n / each)))

    return make


def step(model: Any, reference: Any, task: Any, batch: dict[str, Any], forward: Any = None) -> tuple[torch.Tensor, Any]:
    """The loss of a micro-batch that is a whole step, its gradients made; and the student's rows."""
    rows = task.rows((forward or task.forward)(model, batch), batch)
    n = len(batch["targets"])
    objective = Objective(weight=0.7)
    terms = objective(
        task.cross_entropy(rows, batch), rows, reference.rows(batch), batch["anchored"],
        counts=Counts(n, n),
    )  # fmt: skip
    terms.loss.backward()
    return terms.loss.detach(), rows


def grown(run: Any) -> float:
    """MiB of tensors that live at most while `run()` runs, above those before: what torch allocates and frees."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(itertools.accumulate(sizes)) / 2**20


@pytest.mark.slow  # a vocabulary of 50,048 and whole steps of 500 and 1,000 predictions: some seconds a case
@pytest.mark.parametrize("kind", wide.all_but(("marian", "gemma2", "vit gpt2"), ("marian", "gemma2")))
def test_peak_memory_of_a_step_does_not_grow_with_n_times_v(bench, kind):
    found = {}
    for n in (500, 1000):
        model, teacher, task, batch = bench(kind, n)
        reference = Model(teacher, task.rows, forward=task.forward)
        found[len(batch["targets"])] = grown(lambda s=(model, reference, task, batch): step(*s))
    (few, small), (many, large) = found.items()
    one = VOCABULARY * 4 / 2**20  # a prediction's numbers in float32, in MiB; dense logits take seven times that
    assert large - small < 0.25 * (many - few) * one
    assert large < 3 * many * one


@pytest.mark.parametrize(
    "kind",
    wide.all_but(
        ("marian", "gemma2", "whisper", "speech_to_text", "vit gpt2"),
        ("marian", "gemma2", "speech_to_text", "vit gpt2"),
    ),
)
def test_value_and_gradient_are_those_of_all_logits(bench, kind, monkeypatch):
    """In float64; an eighth of the vocabulary and a sixteenth of a slice's numbers: two slices of half as many rows."""
    monkeypatch.setattr(predictions, "SLICE", SLICE // 16)
    monkeypatch.setattr(lm_head, "LARGE", lm_head.LARGE // 16)
    model, teacher, task, batch = bench(kind, 200, VOCABULARY // 8)
    model, teacher = model.double(), teacher.double()
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in batch["inputs"].items()}
    batch = {**batch, "inputs": inputs}
    found = {}
    for how in ("slices", "whole"):
        model.zero_grad()
        forward = task.forward if how == "slices" else everything
        loss, rows = step(model, Model(teacher, task.rows, forward=forward), task, batch, forward)
        found[how] = (loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), type(rows))
    (ours, gradient, kind_of), (theirs, expected, _) = found.values()
    assert kind_of is Projected
    assert abs(ours / theirs - 1).item() < 1e-12
    assert ((gradient - expected).norm() / expected.norm()).item() < 1e-10


def everything(model: Any, batch: dict[str, Any]) -> Any:
    """The model as it is, row by row where padding matters: logits [B, T, V]."""
    shapes = [note.get("shapes") for note in batch["notes"]]
    if not any(shapes):
        return model(**batch["inputs"])
    outputs = []
    for i, shape in enumerate(shapes):
        one = {k: v[i : i + 1] for k, v in batch["inputs"].items()}
        cut = {k: v[(slice(None), *(slice(n) for n in shape[k]))] if k in shape else v for k, v in one.items()}
        outputs.append(model(**cut).logits)
    return SimpleNamespace(logits=torch.cat(outputs))


@pytest.mark.parametrize("kind", ["moonshine", "speech_to_text"])
def test_recordings_of_several_lengths_keep_their_order_in_slices(bench, kind, monkeypatch):
    model, _, task, batch = bench(kind, 100)  # each recording several times: their groups are not the batch's order
    assert task.padding_effect.matters(model, batch)
    with torch.no_grad():
        selected = task.rows(task.forward(model, batch), batch)
        monkeypatch.setattr(lm_head, "LARGE", 0)
        sliced = task.rows(task.forward(model, batch), batch)
        whole = Dense(everything(model, batch).logits[batch["predicted"]])
    assert (type(selected), type(sliced)) == (Dense, Projected)
    for rows in (selected, sliced):
        torch.testing.assert_close(rows.log_probs(slice(None)), whole.log_probs(slice(None)), rtol=1e-5, atol=1e-5)


def test_a_model_that_mixes_its_heads_output_is_run_whole(caplog):
    """Logits that hang on other positions cannot be made slice by slice: seen, said, and the value is right."""
    model, task = writers.writer("gpt2")
    batch = task.collate([e for row in writers.rows() for e in task.encode(row)])

    class Mixing(type(model)):
        def forward(self, **inputs: Any) -> Any:
            outputs = super().forward(**inputs)
            outputs.logits = outputs.logits - outputs.logits.mean(1, keepdim=True)
            return outputs

    model.__class__ = Mixing
    rows = lm_head.rows(lm_head.forward(model, batch, large=0), batch)
    assert isinstance(rows, Dense)
    assert "is not applied in slices" in caplog.text
    again = lm_head.rows(lm_head.forward(model, batch, large=2**40), batch)
    torch.testing.assert_close(rows.logits, again.logits, rtol=0, atol=0)


@pytest.mark.parametrize("change", ["assignment", "in place", "mask"])
def test_what_is_done_behind_the_head_is_done_to_every_slice(change):
    """In place, by assignment, and with −inf for tokens that are never written (0 × −inf would be NaN)."""
    model, task = writers.writer("llama")
    batch = task.collate([e for row in writers.rows() for e in task.encode(row)])
    batch["targets"].clamp_min_(1)
    size = model.config.vocab_size
    scale = torch.nn.Parameter(torch.linspace(0.5, 1.5, size))
    model.scale = scale

    class Changed(type(model)):
        def forward(self, **inputs: Any) -> Any:
            outputs = super().forward(**inputs)
            logits = outputs.logits * self.scale
            if change == "assignment":
                logits[..., 0] = -3.0
            elif change == "in place":
                logits.mul_(0.7).tanh_()
            else:
                logits = logits.masked_fill(torch.arange(size) == 0, -torch.inf)
            outputs.logits = logits
            return outputs

    model.__class__ = Changed
    found = []
    for large in (0, 2**40):
        model.zero_grad()
        rows = lm_head.rows(lm_head.forward(model, batch, large), batch)
        loss = task.cross_entropy(rows, batch)
        loss.backward()
        found.append((loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()]), type(rows)))
    (ours, gradient, kind), (theirs, expected, _) = found
    assert kind is Projected
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    assert ((gradient - expected).norm() / expected.norm()).item() < 1e-6
    assert scale.grad.any()


def test_an_ensemble_and_the_self_test_read_no_more_than_they_need(bench, monkeypatch):
    """Numbers of [n, V] that are read of the members at a time."""
    model, teacher, task, batch = bench("llama", 400)
    widest: list[int] = []
    read = Projected.log_probs

    def noted(self: Projected, part: slice, temperature: float = 1.0) -> torch.Tensor:
        made = read(self, part, temperature)
        widest.append(made.numel())
        return made

    monkeypatch.setattr(Projected, "log_probs", noted)
    members = [Model(teacher, task.rows, forward=task.forward) for _ in range(2)]
    with torch.no_grad():
        step_rows = Ensemble(members).rows(batch)
        assert not widest
        Objective().total(task.rows(task.forward(model, batch), batch), step_rows)
    assert 0 < max(widest) <= SLICE
    widest.clear()
    self_test(model, task, Objective(), members[0], batch)
    assert max(widest) <= 2**20
