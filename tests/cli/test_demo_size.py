"""How many rows the demo takes: all where the machine is quick, never more than its time allows at the timed speed."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from keeltune import recipe
from keeltune.cli import demo, demo_data
from keeltune.cli.demo_size import MARGIN, SECONDS, SHARES, Speed, choose_share, size_of, timed


def test_the_whole_demo_is_what_it_was():
    size = size_of(1.0)
    assert size.rows == {"source": 1200, "target": 400, "unlabeled": 1600, "validation": 200, "test": 400}
    assert size.batch_size == 32
    assert demo.recipes("encoder", size.batch_size) == demo.recipes("encoder")
    assert "batch_size" not in demo.recipes("encoder")["fine-tuning"]["training"]


QUICK = Speed(trained=1 / 170, scored=1 / 600, update=0.03)


def test_a_quick_machine_takes_all_of_it():
    assert choose_share(QUICK) == 1.0  # two cores with bf16 hardware


@pytest.mark.parametrize("slower", [2.0, 4.0, 5.5])
def test_a_slow_machine_takes_as_much_as_fits_and_no_less(slower):
    speed = Speed(*(slower * seconds for seconds in astuple(QUICK)))
    share = choose_share(speed)
    assert speed.seconds(share) <= MARGIN * SECONDS < speed.seconds(SHARES[SHARES.index(share) - 1])


def test_the_slowest_machine_takes_the_least():
    assert choose_share(Speed(10.0, 10.0, 10.0)) == SHARES[-1]


@pytest.mark.parametrize("share", SHARES)
def test_fewer_rows_are_as_many_steps(share):
    """Nearly: a batch is a power of two, of 8 rows at least."""
    size = size_of(share)
    assert all(rows % 2 == 0 for rows in size.rows.values())
    assert size.rows["source"] == pytest.approx(1200 * share, abs=1)
    assert 8 <= size.batch_size <= 32
    assert size.rows["source"] // size.batch_size >= 12


def test_speed_is_timed_on_the_rows_that_are_trained_on(tiny, tmp_path):
    demo_data.write(tmp_path / "data", **size_of(SHARES[-1]).rows)
    speed = timed(recipe.from_dict(demo.recipes(str(tiny("bert")))["source model"], tmp_path))
    assert 0 < speed.scored < speed.trained < 1
    assert speed.update > 0


def test_the_decision_is_printed_and_written(tiny, tmp_path, capsys):
    from keeltune.utils.terminal import Terminal

    size = demo._size(tmp_path, str(tiny("bert")), 0.25, Terminal())
    assert size == size_of(0.25)
    assert "25% of the demo's rows" in capsys.readouterr().out
    written = (tmp_path / "demo.json").read_text("utf-8")
    assert '"share": 0.25' in written and '"chosen by": "--share"' in written
