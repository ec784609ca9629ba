"""Errors that come from another process of the run are those that were raised there."""

from __future__ import annotations

import pickle

import pytest

from keeltune.data.row_problems import RowProblem
from keeltune.utils.errors import Problem, StateRefused, UserError
from keeltune.utils.tensor_store import BrokenShards

PROBLEMS = [
    Problem("r.yaml:3", "model", "x", "y", "z", "kind"),
    RowProblem("f:1", "text", "a", "b", "c", file="f", line=1),
]


@pytest.mark.parametrize("kind", [UserError, StateRefused, BrokenShards])
def test_an_error_with_problems_comes_whole_from_a_worker(kind):
    error = kind(PROBLEMS, "errors.jsonl")
    came = pickle.loads(pickle.dumps(error))  # as a data worker's queue hands it over
    assert type(came) is kind
    assert came.problems == PROBLEMS
    assert (str(came), came.exit_status) == (str(error), error.exit_status)
