from __future__ import annotations

from keeltune.data.file_formats._delimited import Delimited


class Csv(Delimited):
    """Cells between commas; a text that holds a comma, a quotation mark or a line's end is quoted."""

    endings = (".csv",)
    delimiter = ","
    knows_quoting = True
