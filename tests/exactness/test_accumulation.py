"""One step is one step: 4 rows = 2 × 2 accumulated = 2 ranks × 2 rows, for every family and every divergence.

SGD without momentum, and the gradients themselves are compared: Adam would hide a factor, and a weight near 1 holds a
small step only to six digits.
"""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch

from keeltune.objective.formula import Objective
from keeltune.training.trainer import KeelTrainer
from keeltune.utils import registry
from tests.helpers import processes, wide
from tests.helpers.models import ARCHITECTURES, save_tiny
from tests.helpers.step_gradients import (
    RATE,
    build,
    difference,
    gradients,
    gradients_of,
    objective_of,
)

DIVERGENCES = ["none", *registry.names("divergences")]
CELLS = [(architecture, name) for architecture in ARCHITECTURES for name in DIVERGENCES]
FEW = [(ARCHITECTURES[i % len(ARCHITECTURES)], name) for i, name in enumerate(DIVERGENCES)]
"""Each architecture and each divergence: how a step is divided is the same code for every pair."""


@pytest.mark.parametrize(("architecture", "divergence"), wide.all_but(CELLS, FEW))
def test_accumulation_changes_nothing(tiny, tmp_path, architecture, divergence):
    folder = tiny(architecture)
    objective = objective_of(divergence)
    whole = gradients(folder, tmp_path / "a", batch=4, accumulation=1, world=1, objective=objective)
    cut = gradients(folder, tmp_path / "b", batch=2, accumulation=2, world=1, objective=objective)
    assert difference(whole, cut) < 1e-6


def test_the_gradient_is_that_of_the_mean_over_the_step(tiny, tmp_path):
    """Against a loop of plain torch: one step over 4 rows with torch's own cross-entropy and KL."""
    folder = tiny("bert")
    trainer = build(folder, tmp_path, batch=4, accumulation=1, world=1, objective=Objective(weight=0.7))
    model, teacher, by_hand = copy.deepcopy(trainer.model), trainer.step_loss.reference.model, []
    for step in range(4):
        epoch, place = divmod(step, 2)
        batch = trainer.step_loss.task.collate(trainer.plan.micro_batch(epoch, place, 0))
        logits = model(**batch["inputs"]).logits
        log_p, log_q = logits.log_softmax(-1), teacher(**batch["inputs"]).logits.log_softmax(-1)
        kl = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        (torch.nn.functional.cross_entropy(logits, batch["targets"]) + 0.7 * kl).backward()
        used = [p for p in model.parameters() if p.grad is not None]
        by_hand.append(torch.cat([p.grad.double().flatten() for p in used]))
        with torch.no_grad():
            for parameter in used:
                parameter -= RATE * parameter.grad
                parameter.grad = None
    assert difference(by_hand, gradients_of(trainer)) < 1e-6


def test_weight_zero_is_plain_fine_tuning_bit_for_bit(tiny, tmp_path):
    folder = tiny("roberta")
    plain, zero = (
        build(folder, tmp_path, batch=2, accumulation=2, world=1, objective=o) for o in (None, Objective(weight=0.0))
    )
    assert all(torch.equal(a, b) for a, b in zip(gradients_of(plain), gradients_of(zero), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), zero.model.parameters(), strict=True))


def test_a_mean_per_micro_batch_would_be_seen(tiny, tmp_path, monkeypatch):
    """The trap itself, put in: counts of the micro-batch in place of the step's."""
    folder = tiny("bert")
    whole = gradients(folder, tmp_path / "a", batch=4, accumulation=1, world=1, objective=None)

    def own_counts(self, epoch_iterator, num_batches, device):
        self.training_totals.started = 0.0
        batches = list(itertools.islice(epoch_iterator, num_batches))
        rows = float(len(batches[0]["keys"]))
        return batches, torch.tensor([rows, 1.0, rows])

    monkeypatch.setattr(KeelTrainer, "get_batch_samples", own_counts)
    cut = gradients(folder, tmp_path / "b", batch=2, accumulation=2, world=1, objective=None)
    assert difference(whole, cut) > 0.1


def rank(cells: list[tuple[Path, str]], out: Path) -> None:
    for folder, name in cells:
        trainer = build(folder, out / "run", batch=2, accumulation=1, world=2, objective=objective_of(name))
        steps = gradients_of(trainer)
        trainer.release()
        if trainer.args.process_index == 0:
            torch.save(steps, out / f"{folder.parent.name}-{name}.pt")


@pytest.mark.slow  # two processes that train many times
@pytest.mark.parametrize("cells", [pytest.param(FEW, id="few"), pytest.param(CELLS, id="all", marks=pytest.mark.wide)])
def test_two_ranks_are_one(tiny, tmp_path, cells):
    cells = [(tiny(architecture), name) for architecture, name in cells]
    done = processes.ranks(rank, cells, tmp_path, folder=tmp_path)
    assert [one.process.exitcode for one in done] == [0, 0], "\n".join(one.text[-3000:] for one in done)
    for folder, name in cells:
        how = {"batch": 4, "accumulation": 1, "world": 1, "objective": objective_of(name)}
        whole = gradients(folder, tmp_path / "one", **how)
        ranks = torch.load(tmp_path / f"{folder.parent.name}-{name}.pt", weights_only=True)
        assert difference(whole, ranks) < 1e-6, (folder, name)


def test_every_architecture_is_one_that_users_have(tmp_path):
    for architecture in ARCHITECTURES:
        assert (save_tiny(tmp_path / architecture, architecture) / "model.safetensors").is_file()
