"""Progress says in one line of 80 columns how far it is, how it stands and how long it will take."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len

from keeltune.utils import progress
from keeltune.utils.progress import Display
from keeltune.utils.terminal import Terminal

NOTE = "loss 0.6931 · cross_entropy 0.6012 · divergence 0.0919 · matching 1.2345"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def line_at(width: int, label: str, note: str, done: int = 120, total: int = 34567) -> str:
    """The last line that a terminal of this width shows."""
    clock, out, display = Clock(), io.StringIO(), Display()
    display.console = Terminal(file=out, width=width, force_terminal=True, color_system=None)
    bars = display._rich()
    bars.get_time = bars.live.get_time = clock
    task = bars.add_task(label, total=total, note=note)
    for _ in range(2):
        clock.now += 30
        bars.update(task, advance=done / 2)
    display.console.print(bars.make_tasks_table(bars.tasks))
    return out.getvalue().rstrip("\n")


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("note", ["", "loss 0.6931", NOTE])
def test_the_line_fits_and_says_step_share_and_time_left(width, note):
    line = line_at(width, "training", note)
    assert "\n" not in line
    assert cell_len(line) <= width
    assert "120/34567" in line and "0%" in line
    assert re.search(r"\d+:\d\d:\d\d left", line)


def test_the_loss_stays_where_its_terms_do_not_fit():
    assert "loss 0.6931" in line_at(80, "training", NOTE)
    assert "matching" not in line_at(80, "training", NOTE)
    assert NOTE in line_at(200, "training", NOTE)


def test_a_chinese_label_takes_two_cells_a_character():
    line = line_at(80, "教师撰写无标注行的目标文本", NOTE)
    assert cell_len(line) <= 80
    assert "loss 0.6931" in line and "left" in line


def test_without_a_terminal_it_is_a_plain_line(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    display = Display(plain_every=10)
    with display.bar("training", 1000) as advance:
        advance(0)
        advance(400, "loss 0.9000")  # a run that goes on: where it was tells nothing of its speed
        clock.now += 50
        advance(100, "loss 0.6931")
        clock.now += 1
        advance(500, "loss 0.5000")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["training 500/1000 50% loss 0.6931 0:04:10 left", "training 1000/1000 100% loss 0.5000"]
