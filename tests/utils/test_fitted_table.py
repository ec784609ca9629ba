"""What is shown at 80 columns: every table fits, and no figure in it is cut or broken over two lines."""

from __future__ import annotations

import io
import random
import re

import pytest
from rich.cells import cell_len
from rich.table import Table

from keeltune.cli import runs as runs_verb
from keeltune.runs import history
from keeltune.utils.fitted_table import FIGURE
from keeltune.utils.terminal import Terminal

WORDS = ["run", "cross-domain", "情感分析", "跨领域蒸馏", "a_very_long_name_of_a_column_without_any_blank", "–", "",
         "数据集合", "on target", "completed"]  # fmt: skip
FIGURES = ["0.9321", "+0.0123", "-0.0456", "2026-11-30", "18:02", "1,234,567", "12%", "3.4e-05", "(+0.0012", "99.9×"]


def shown(table: Table, width: int = 80) -> str:
    out = io.StringIO()
    Terminal(file=out, width=width, force_terminal=False).print(table)
    return out.getvalue()


def figures_of(texts: list[str]) -> list[str]:
    return [word for text in texts for word in text.split() if FIGURE.fullmatch(word)]


def require_whole(text: str, cells: list[str], width: int = 80) -> None:
    """Every line fits, and every figure of the cells stands in one of them, as often as in the cells."""
    assert max(map(cell_len, text.splitlines())) <= width, text
    assert "…" not in text or any("…" in cell for cell in cells)
    words = re.split(r"[\s│┃|]+", text)
    for figure in set(wanted := figures_of(cells)):
        assert words.count(figure) >= wanted.count(figure), f"{figure} in\n{text}"


@pytest.mark.parametrize("width", [40, 60, 80, 132])
def test_any_table_fits_with_every_figure_whole(width):
    drawn = random.Random(width)
    for _ in range(60):
        columns = drawn.randint(1, 10)

        def cell() -> str:
            return " ".join(drawn.choices(FIGURES + WORDS, k=drawn.randint(0, 5)))

        table, cells = Table(*(cell() for _ in range(columns))), []
        for _ in range(drawn.randint(1, 4)):
            row = [cell() for _ in range(columns)]
            table.add_row(*row)
            cells += row
        require_whole(shown(table, width), cells, width)


def test_a_table_that_fits_stays_as_it_is():
    table = Table("metric", "value")
    table.add_row("accuracy", "0.9321")
    plain = io.StringIO()
    from rich.console import Console

    Console(file=plain, width=80).print(table)
    assert shown(table) == plain.getvalue()


def test_what_cannot_stand_side_by_side_stands_one_below_the_other():
    table = Table(*(f"column {n}" for n in range(12)))
    table.add_row(*(f"0.{n}23456789" for n in range(12)))
    text = shown(table)
    assert [line.split() for line in text.splitlines()][3] == ["column", "3", "0.323456789"]


def test_runs_at_80_columns(monkeypatch, tmp_path, capsys):
    run = {"folder": str(tmp_path / "kundenbewertungen/2026/airline-anchored-on-source"), "method": "cross-domain",
           "status": "completed", "split": "validation", "metric": "macro_f1", "value": 0.87654,
           "interval": [0.86123, 0.89012], "seeds": [0, 1, 2], "looks": 12, "finished": "2026-11-30T18:02:11Z",
           "identity": "0f1e2d3c4b5a", "fault": None}  # fmt: skip
    monkeypatch.setattr(history, "runs", lambda folder: [run, {**run, "folder": str(tmp_path / "情感分析/跨领域")}])
    monkeypatch.setenv("COLUMNS", "80")
    runs_verb.runs(tmp_path)
    require_whole(capsys.readouterr().out, ["0.8765 0.8612 0.8901 3 12 2026-11-30 18:02"] * 2)
