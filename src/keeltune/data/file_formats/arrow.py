from __future__ import annotations

from collections.abc import Iterator

from keeltune.data.file_formats._tables import table_records
from keeltune.data.file_formats.file_format import FileFormat, FileLog, Record
from keeltune.utils.errors import visible


class Arrow(FileFormat):
    """An Arrow file or stream, as `datasets` saves its data."""

    endings = (".arrow",)
    magic = b"\xff\xff\xff\xff"

    def records(self, data: bytes, log: FileLog) -> Iterator[Record]:
        import pyarrow as pa

        try:
            source = pa.BufferReader(data)
            is_stream = data.startswith(self.magic)
            table = (pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source)).read_all()
            table.validate(full=True)
            yield from table_records(table, log)
        except (pa.ArrowException, OSError, ValueError) as error:
            fix = "copy it again, or save the data set again"
            log.whole("broken Arrow", visible(str(error), 200), "a whole Arrow file or stream", fix)
