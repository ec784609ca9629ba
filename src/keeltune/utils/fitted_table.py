"""A table that fits the width it is shown in: words are folded, and no figure is ever cut or broken.

Shapes: n columns, each of a width in cells; a Chinese character takes two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from keeltune.utils.language import said
from keeltune.utils.sanitization import shown_text

NARROWEST = (12, 8)
"""Cells of a column of words at the least, where its words are longer: tried one after the other."""

FRAME, GAP = 3, 2
"""Cells that the frame takes for each column, and those between two columns without one."""

FIGURE = re.compile(r"\W*\d[\d.,:/%×eE+−-]*\W*")
"""A word that is a number, a date, a time or a share: what it says is lost where it is broken."""


def fitted(table: Table, width: int) -> Table:
    """The table as it is where it fits; else with narrower columns of words, then without its frame, and where even
    its figures take more than `width` cells, a block of `column  value` lines for each row."""
    columns = [[said(shown_text(str(cell), keep="\n")) for cell in (c.header, *c._cells)] for c in table.columns]
    natural = [max(map(cell_len, lines_of(cells)), default=0) for cells in columns]
    framed, bare = FRAME * len(columns) + 1, GAP * (len(columns) - 1)
    if sum(natural) + framed <= width:
        return table
    for narrowest in NARROWEST:
        floors = [max(1, *(floor_of(cell, narrowest) for cell in cells)) for cells in columns]
        for frame in (framed, bare):
            if sum(floors) + frame <= width:
                return narrowed(table, shared_out(natural, floors, width - frame), framed=frame == framed)
    return in_blocks(table, columns, width)


def lines_of(cells: Sequence[str]) -> list[str]:
    return [line for cell in cells for line in cell.split("\n")]


def floor_of(cell: str, narrowest: int) -> int:
    """The cells that its longest figure takes, and its longest other word up to `narrowest`."""
    words = [word for line in cell.split("\n") for word in line.split()]
    return max((cell_len(w) if FIGURE.fullmatch(w) else min(cell_len(w), narrowest) for w in words), default=0)


def shared_out(natural: Sequence[int], floors: Sequence[int], room: int) -> list[int]:
    """Widths that add up to at most `room`, the room beyond the floors given cell by cell to who has least of it."""
    widths = [*floors]
    while sum(widths) < room:
        wanting = [i for i, whole in enumerate(natural) if widths[i] < whole]
        if not wanting:
            break
        widths[min(wanting, key=lambda i: widths[i])] += 1
    return widths


def narrowed(table: Table, widths: Sequence[int], *, framed: bool) -> Table:
    """The table with columns of these widths; words that are longer are folded."""
    made = Table(title=table.title, show_header=table.show_header, header_style=table.header_style)
    if not framed:
        made.box, made.padding, made.pad_edge = None, (0, GAP, 0, 0), False
    for column, width in zip(table.columns, widths, strict=True):
        made.add_column(column.header, width=width, overflow="fold", justify=column.justify)
    for row in zip(*(column._cells for column in table.columns), strict=True):
        made.add_row(*(cell.strip() if isinstance(cell, str) else cell for cell in row))  # a blank is a cell, too
    return made


def in_blocks(table: Table, columns: Sequence[Sequence[str]], width: int) -> Table:
    """A block of lines for each row: a column's name, and what stands there; empty cells are left out."""
    names = [cells[0] for cells in columns]
    wide = min(max(map(cell_len, names), default=0), width // 2)
    made = Table.grid(padding=(0, GAP, 0, 0))
    made.title = table.title
    made.add_column(width=wide, overflow="fold")
    made.add_column(width=max(1, width - wide - GAP), overflow="fold")
    for number, row in enumerate(zip(*(cells[1:] for cells in columns), strict=True)):
        if number:
            made.add_row(Text(""), Text(""))
        for name, cell in zip(names, row, strict=True):
            if cell:
                made.add_row(name, cell)
    return made
