"""The losses of each step are what they were: a change of the code that should change no number changes none.

The tolerance is the arithmetic's. A float32 product of d numbers is off by up to d · 2⁻²⁴, some 4e-6 for the d ≤ 64 of
these models, and by its root, 5e-7, as a rule; processors differ in nothing else, as they add up in another order. Six
steps of SGD hand such an error on and do not multiply it. A divergence near 0 is the difference of log-probabilities
that are off by that much themselves, so it has an absolute bound. Seen between AVX2 and
AVX-512: 1e-6 of a loss, and 2e-7 in a divergence.
"""

from __future__ import annotations

import json

import pytest

from tests.golden.runs import CELLS, FILE, MODELS, losses, name_of
from tests.helpers.families import by_turns

RELATIVE, ABSOLUTE = 3e-5, 3e-6

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")


FEW = {name_of(*cell) for cell in by_turns(MODELS)}


def marked(cell: tuple[str, str, str]) -> object:
    """Each model once, and one of them by every method: what a method adds to the loss is the same code for all."""
    name = name_of(*cell)
    return pytest.param(cell, id=name, marks=[] if name in FEW else [pytest.mark.wide])


@pytest.mark.parametrize("cell", map(marked, CELLS))
def test_each_step_has_the_loss_that_it_had(cell, tmp_path):
    expected = json.loads(FILE.read_text(encoding="utf-8"))[name_of(*cell)]
    found = losses(tmp_path, *cell)
    assert len(found) == len(expected) == 6
    for step, (then, now) in enumerate(zip(expected, found, strict=True), 1):
        assert now == pytest.approx(then, rel=RELATIVE, abs=ABSOLUTE), f"step {step}"


def test_every_cell_is_stored_and_no_other():
    assert set(json.loads(FILE.read_text(encoding="utf-8"))) == {name_of(*cell) for cell in CELLS}


def test_the_losses_tell_the_methods_apart():
    """Else a golden run would not see a reference that is gone."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    for task, architecture, method in CELLS:
        steps = stored[name_of(task, architecture, method)]
        assert all(("divergence" in step) == (method != "fine-tuning") for step in steps)
        if method != "fine-tuning":
            assert max(step["divergence"] for step in steps) > 10 * ABSOLUTE
