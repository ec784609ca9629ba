"""Some of the mutated files of each reader; `python -m tests.bad_inputs.fuzz` tries 10,000 of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_inputs.fuzz.readers import READERS
from tests.bad_inputs.fuzz.trials import trials

FILES = 10


@pytest.mark.filterwarnings("ignore")  # of other libraries, which the command does not show either
@pytest.mark.parametrize("reader", READERS)
def test_a_mutated_file_is_read_or_refused(reader: str, tmp_path: Path):
    ended = list(trials(reader, tmp_path, 0, range(FILES)))
    assert not [trial for trial in ended if trial.fault]
    assert {trial.status for trial in ended} <= {0, 2} and len(ended) == FILES
