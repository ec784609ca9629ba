from __future__ import annotations

from collections.abc import Iterator

from keeltune.data.file_formats._tables import table_records
from keeltune.data.file_formats.file_format import FileFormat, FileLog, Record
from keeltune.utils.errors import visible


class Parquet(FileFormat):
    """A Parquet file, read whole, every page's checksum verified."""

    endings = (".parquet",)
    magic = b"PAR1"

    def records(self, data: bytes, log: FileLog) -> Iterator[Record]:
        import pyarrow as pa  # costs a third of a second, and few recipes need it
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            size = sum(group.total_byte_size for group in groups)
            if size > max(2**27, 100 * len(data)) or file.metadata.num_rows > max(10**7, 100 * len(data)):
                found = f"{file.metadata.num_rows} rows of {size} bytes in a file of {len(data)}"
                log.whole("Parquet bomb", found, "a hundredth of that at most", "write it again, if it is right")
                return
            table = file.read()
            table.validate(full=True)
            yield from table_records(table, log)
        except (pa.ArrowException, OSError, ValueError) as error:
            log.whole(
                "broken Parquet", visible(str(error), 200), "a whole Parquet file", "copy, download or write it again"
            )
