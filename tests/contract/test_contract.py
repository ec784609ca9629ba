"""One suite over everything that the folders hold: a new file is tested before its author writes a test."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from pathlib import Path

import keeltune.divergences
import pytest
import torch

from keeltune.objective.formula import Objective
from keeltune.objective.predictions import Dense
from keeltune.utils import registry

DIVERGENCES, TASKS = registry.names("divergences"), registry.names("tasks")


def normal(*shape: int, seed: int) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Divergences


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_is_a_documented_function_of_two_log_probabilities(name):
    function = registry.find("divergences", name)
    assert inspect.isfunction(function)
    assert function.__name__ == name.replace("-", "_")
    assert getattr(keeltune.objective.divergences, function.__name__) is function
    for word in ("student", "reference", "[N", "Returns", "Source: "):
        assert word in (function.__doc__ or ""), word
    first, second, *others = inspect.signature(function).parameters.values()
    assert (first.name, second.name) == ("student", "reference")
    for parameter in others:
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert isinstance(parameter.default, float)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_keeps_its_contract(name):
    function = registry.find("divergences", name)
    p, q = normal(6, 5, seed=0).log_softmax(-1), normal(6, 5, seed=1).log_softmax(-1)
    value = function(p, q)
    assert value.shape == (6,)
    assert (value > 0).all()
    torch.testing.assert_close(function(p, p), torch.zeros(6).double(), rtol=0, atol=1e-14)
    assert function(p.float(), q.float()).dtype == torch.float32
    torch.testing.assert_close(function(p.flip(-1), q.flip(-1)), value, rtol=1e-12, atol=0)  # no choice is special
    torch.testing.assert_close(torch.cat([function(p[:2], q[:2]), function(p[2:], q[2:])]), value, rtol=1e-12, atol=0)
    padded = [torch.cat([x, torch.full((6, 2), -torch.inf).double()], -1).requires_grad_() for x in (p, q)]
    torch.testing.assert_close(function(*padded), value, rtol=1e-12, atol=0)
    assert torch.isfinite(torch.autograd.grad(function(*padded).sum(), padded[0])[0]).all()
    assert Objective(name).total(Dense(p), Dense(q)).item() == pytest.approx(value.sum().item(), rel=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_step_down_its_gradient_brings_the_student_nearer(name):
    z, w = normal(6, 5, seed=2).requires_grad_(), normal(6, 5, seed=3)
    before = Objective(name).total(Dense(z), Dense(w))
    (gradient,) = torch.autograd.grad(before, z)
    assert Objective(name).total(Dense(z.detach() - 1e-3 * gradient), Dense(w)) < before


# The folder is the registry


@pytest.fixture
def own_folder(tmp_path, monkeypatch) -> Path:
    """A copy of the divergences' folder, which the registry and the importer take for part of the package."""
    folder = tmp_path / "objective" / "divergences"
    shutil.copytree(
        Path(keeltune.objective.divergences.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(registry, "_PACKAGE", tmp_path)
    monkeypatch.setattr(
        keeltune.objective.divergences, "__path__", [*keeltune.objective.divergences.__path__, str(folder)]
    )
    yield folder
    registry.find.cache_clear()
    for name in ("squared_gap", "two_things"):
        sys.modules.pop(f"keeltune.objective.divergences.{name}", None)
        vars(keeltune.objective.divergences).pop(name, None)


def test_a_new_file_is_a_valid_name_without_registration(own_folder):
    assert registry.check("divergences", "squared-gap")
    (own_folder / "squared_gap.py").write_text(
        "def squared_gap(student, reference):\n    return (student.exp() - reference.exp()).square().sum(-1)\n"
    )
    assert registry.names("divergences") == sorted([*DIVERGENCES, "squared-gap"])
    assert registry.check("divergences", "squared-gap") is None
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.8, 0.2]]).log()
    assert Objective("squared-gap").total(Dense(p), Dense(q)).item() == pytest.approx(0.18)


def test_a_file_without_its_function_is_told_so(own_folder):
    (own_folder / "two_things.py").write_text("class A: ...\nclass B: ...\n")
    with pytest.raises(LookupError, match="must hold exactly one final class, found 2"):
        registry.find("divergences", "two-things")


@pytest.mark.parametrize(
    ("folder", "wrong", "right"),
    [("divergences", "reverse-kll", "reverse-kl"), ("divergences", "jensen_shanon", "jensen-shannon"),
     ("tasks", "sentiment-analisys", "sentiment-analysis")],
)  # fmt: skip
def test_an_unknown_name_gets_the_nearest(folder, wrong, right):
    with pytest.raises(LookupError, match=rf'"{wrong}".*{right}.*known: ') as caught:
        registry.find(folder, wrong)
    assert registry.check(folder, wrong) == str(caught.value)


@pytest.mark.parametrize(
    ("shelf", "name"), [(shelf, name) for shelf in registry.SHELVES for name in registry.names(shelf)]
)
def test_every_file_of_a_shelf_is_what_its_name_says(shelf, name):
    found = registry.find(shelf, name)
    assert callable(found) and found.__module__ == registry.SHELVES[shelf].module(name.replace("-", "_"))


@pytest.mark.parametrize("shelf", registry.SHELVES)
def test_a_contract_is_no_name(shelf):
    names = registry.names(shelf)
    assert names and not {registry.SHELVES[shelf].singular.replace(" ", "-"), "--init--"} & set(names)


def test_a_name_from_outside_the_package():
    assert registry.find("divergences", "torch.nn:KLDivLoss") is torch.nn.KLDivLoss


@pytest.mark.parametrize(
    ("shelf", "name", "reason"),
    [("tasks", "nowhere.tasks:Mine", "no module nowhere in the installed packages or in the working folder"),
     ("divergences", "torch.nnn:KLDivLoss", "no module torch.nnn"),
     ("divergences", "torch.nn:KLDivLos", 'no KLDivLos in torch.nn; did you mean "KLDivLoss"'),
     ("divergences", "math:pi", "math:pi is neither a function nor a class"),
     ("divergences", "own_broken:d", "own_broken cannot be imported: ZeroDivisionError: division by zero"),
     ("tasks", "torch.nn:Linear", "no class derived from keeltune.tasks.task.Task"),
     ("tasks", "keeltune.tasks.task:Task", "is abstract: a task must define encode, "),
     ("file_formats", "keeltune.data.file_formats.file_format:FileFormat", "a file format must define records")],
)  # fmt: skip
def test_a_name_from_outside_that_is_none_is_told_why(shelf, name, reason, tmp_path, monkeypatch):
    (tmp_path / "own_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert reason in (registry.fault(shelf, name) or "")
    with pytest.raises(LookupError, match=re.escape(reason)):
        registry.find(shelf, name)
