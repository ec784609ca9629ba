"""Where all that keeltune prints goes through: data in it is text, never a code, markup or a line of its own."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from keeltune.utils import language
from keeltune.utils.fitted_table import fitted
from keeltune.utils.sanitization import shown_text


class _Stderr:
    """`sys.stderr`, whichever that is by now. Nobody's work ends because nobody can be told of it any more: a terminal
    that was closed, a pipe without a reader, a full disk under a log."""

    @property
    def stream(self) -> Any:
        """What lies behind rich's own stand-in, while it draws a bar."""
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    @property
    def encoding(self) -> str | None:
        encoding: str | None = self.stream.encoding
        return encoding

    def isatty(self) -> bool:
        return bool(self.stream.isatty())

    def fileno(self) -> int:
        return int(self.stream.fileno())

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()


class Terminal(Console):
    """A console without markup, emoji codes or highlighting, on which every text is `shown_text`, also in a table.
    A table fits the width without a figure being cut.

    `options` are those of rich's Console, such as `stderr` and `quiet`.
    """

    def __init__(self, *, stderr: bool = False, **options: Any):
        if stderr:
            options["file"] = _Stderr()
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Each text passes here on its way to the terminal, whether it was printed or stands in a cell."""
        return super().render_str(language.said(shown_text(text)), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """A table's headings are said in the command's language, and the table fits the width."""
        tables = [table for table in objects if isinstance(table, Table)]
        for column in (column for table in tables for column in table.columns):
            if isinstance(column.header, str):
                column.header = language.heading(column.header)
        super().print(*(fitted(o, self.width) if isinstance(o, Table) else o for o in objects), **options)

    def block(self, text: str) -> None:
        """A text of several lines that are ours; a newline in data is spelt out before it gets here."""
        for line in text.split("\n"):
            self.print(line)


class _Record(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802 (the name is of `logging`)
        return _indented(super().getMessage())


def _indented(text: str) -> str:
    """What a library says, its further lines indented, so that none looks like a message of ours."""
    return shown_text(text.strip(), keep="\n").replace("\n", "\n  ")


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"{category.__name__}: {_indented(str(message))}\n"


@contextmanager
def filtered_output() -> Iterator[None]:
    """Within: what libraries log and warn of is filtered too, and a letter that the terminal's encoding does not have
    is spelt out."""
    factory, formatter = logging.getLogRecordFactory(), warnings.formatwarning
    logging.setLogRecordFactory(_Record)
    warnings.formatwarning = _format_warning
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = formatter
