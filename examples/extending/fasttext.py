"""A file format of your own: one final class in a module of your own package.

data: {train: train.txt, test: test.txt, format: "my_package.fasttext:FastText"}
"""

from collections.abc import Iterator

from keeltune.data.file_formats.file_format import FileFormat, FileLog, Record, text_lines

MARK = "__label__"


class FastText(FileFormat):
    """A row a line: `__label__positive A warm and clever film.`"""

    endings = (".ft", ".txt")
    cells_are_text = True

    def records(self, data: bytes, log: FileLog) -> Iterator[Record]:
        log.header = ["label", "text"]
        for line, text, sound in text_lines(data, log):  # what is not UTF-8 is noted there
            if not sound or text.isspace():
                continue
            label, _, rest = text.strip().partition(" ")
            if label.startswith(MARK) and rest:
                yield line, {"label": label.removeprefix(MARK), "text": rest.strip()}
            else:
                expected, fix = f"{MARK}NAME and a text behind it", "write the label at the line's beginning"
                log.row(line, "no label", f"a line that begins with {label[:40]!r}", expected, fix)
