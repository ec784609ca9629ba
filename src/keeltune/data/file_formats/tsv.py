from __future__ import annotations

from keeltune.data.file_formats._delimited import Delimited


class Tsv(Delimited):
    """Cells between tabs, quoted as in CSV or not at all."""

    endings = (".tsv",)
    delimiter = "\t"
    knows_quoting = False
