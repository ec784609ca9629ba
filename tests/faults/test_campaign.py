"""The campaign's gate, in short: a few trials of each family of faults that every change is held against.

`python -m benchmarks.faults` is the whole of it. F3 and so on are the numbers of the promises in `docs/faults.md`. What
a kill or a cut leaves is the same on every machine, and so are the moments at which something happens.
"""

from __future__ import annotations

import pytest
from benchmarks.faults import calls, changes, damage, signals
from benchmarks.faults.bench import Bench

RUN = calls.RUN
WAYS = ["flip", "cut", "delete"]


@pytest.fixture(scope="module")
def bench(faults_library, tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("bench"), faults_library)
    yield made
    made.close()


def failed(trials: dict[str, str]) -> dict[str, str]:
    return {name: wrong for name, wrong in trials.items() if wrong}


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.wide)])
def test_a_kill_at_any_file_call_of_a_save_loses_nothing(bench, every):
    """F3 and F6, the oldest checkpoint being removed too; from some of the states the run goes on to its end."""
    states = calls.recorded(bench, RUN, "copy", "out", calls.LAST_SAVE)
    assert len(states) >= 15
    assert failed({state.name: bench.would_go_on_from(state, RUN) for state in states[::every]}) == {}
    assert failed({state.name: bench.goes_on_from(state, RUN) for state in states[:: every * 7]}) == {}


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.wide)])
def test_a_kill_while_a_finished_run_loses_its_checkpoints_loses_nothing(bench, every):
    """Before each of these file calls the run is finished; the next start takes away what is left of them."""
    states = [
        state for state in calls.recorded(bench, RUN, "copy", "out", {"at": ["page", 1]}) if calls.is_finished(state)
    ]
    left = {len(list((state / "checkpoints").glob("checkpoint-*"))) for state in states}
    assert left == {0, 1, 2}
    assert failed({state.name: bench.goes_on_from(state, RUN) for state in states[::every]}) == {}


WIDE_SHARES = [pytest.param(share, marks=pytest.mark.wide) for share in (0.25, 0.75)]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, *WIDE_SHARES])
def test_a_full_disk_ends_with_5_and_the_run_goes_on(bench, share):
    """F10: at the start, in the first and the last save, in the final stage."""
    assert calls.fails("enospc", 1 + int(share * calls.calls_of(bench)), bench) == ""


@pytest.mark.parametrize("how", ["each in turn", *(pytest.param(how, marks=pytest.mark.wide) for how in WAYS)])
def test_a_damaged_checkpoint_is_named_and_passed_over(bench, how):
    """F13 to F15: each file of the newest one; the manifest's damage is gone on from to the end."""
    newest = bench.state(RUN, "conclude") / "checkpoints" / damage.NEWEST
    files = sorted(str(path.relative_to(newest.parent)) for path in newest.rglob("*") if path.is_file())
    ways = WAYS * len(files) if how == "each in turn" else [how] * len(files)
    tried = {
        file: damage.damaged_checkpoint(way, file, 0 if "manifest" in file else 1, bench)
        for file, way in zip(files, ways, strict=False)
    }
    assert len(tried) >= 3
    assert failed(tried) == {}


CUT = pytest.param("cut", "shard-00000.safetensors", marks=pytest.mark.wide)


@pytest.mark.parametrize(("how", "file"), [("flip", "shard-00000.safetensors"), CUT])
def test_a_damaged_shard_is_made_again(bench, how, file):
    """F16."""
    assert damage.damaged_cache(how, file, 1, bench) == ""


def test_a_gradient_that_is_no_number_ends_the_run_before_its_update(bench):
    """F20: in a step that saves."""
    assert changes.poisoned(2, bench) == ""


@pytest.mark.parametrize(("moment", "option"), [("step", ""), ("save", "--overwrite")])
def test_a_second_run_in_a_folder_is_refused_and_a_killed_ones_lock_is_taken(bench, moment, option):
    """F24."""
    assert signals.two_runs(moment, option, bench) == ""
