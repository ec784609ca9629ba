from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from keeltune.data.file_formats.file_format import FileFormat, FileLog, Record, text_lines
from keeltune.utils.errors import shown

ASIDE = ("#", "-DOCSTART-")
"""How a line begins that is no word: a comment, unless it is a word like any other, and a document's beginning."""


class Conll(FileFormat):
    """A word a line with its columns, a blank line after each sentence; the last columns are tags.

    Three forms: tags (CoNLL-2003: word … tag), which give `tokens` and `tags`, and `predicate_index` where a tag is
    B-V; the brackets of CoNLL-2005 and 2012 (`(A0*`, `*`, `*)`), one column a predicate, which give a row for each; and
    the ten columns of Universal Dependencies, whose `tags` are the universal parts of speech.
    """

    endings = (".conll", ".conllu", ".bio", ".iob")

    def records(self, data: bytes, log: FileLog) -> Iterator[Record]:
        sentence: list[list[str]] = []
        begins, sound = 0, True
        lines = [*text_lines(data, log), (0, "", True)]
        width = next((len(cells) for _, text, _ in lines if (cells := _cells(text)) and not text.startswith(ASIDE)), 0)
        for line, text, is_text in lines:
            cells = _cells(text)
            if text.isspace() or not text:
                if sentence and sound and _cells_fit(sentence, begins, log):
                    yield from ((begins + number, row) for number, row in enumerate(_rows(sentence)))
                sentence, sound = [], True
            elif not text.startswith(ASIDE) or _is_word(text, cells, width):
                begins = begins if sentence else line
                sentence.append([cell.strip() for cell in cells])
                sound = sound and is_text


def _cells(text: str) -> list[str]:
    return text.strip("\r\n").split("\t") if "\t" in text.strip() else text.split()


def _is_word(text: str, cells: Sequence[str], width: int) -> bool:
    """Whether a line that begins with # is a word, such as a hashtag: it has all columns, and tabs or a tag at its end
    say that these are no words of a comment."""
    is_tagged = "\t" in text or re.fullmatch(r"O|[BIESLU]-\S+|\S*\*\S*", cells[-1]) is not None
    return text.startswith("#") and len(cells) == width and is_tagged


def _cells_fit(sentence: Sequence[Sequence[str]], begins: int, log: FileLog) -> bool:
    """Whether all words of a sentence have as many columns, two at least; otherwise the log says where not."""
    width = len(sentence[0])
    number = next((n for n, cells in enumerate(sentence) if len(cells) != width or width < 2), None)
    if number is None:
        return True
    expected = f"{width} columns, as in line {begins}" if width > 1 else "a word and its tag"
    log.row(begins + number, "missing column", f"{len(sentence[number])} columns: {shown(sentence[number])}", expected,
            "correct the line, or put a blank line between the sentences")  # fmt: skip
    return False


UNIVERSAL = 10
"""Columns of a word in Universal Dependencies: ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC."""

_BRACKETS = re.compile(r"(\([^()*\s]+)*\*([^()*\s]*\))*")


def _rows(sentence: Sequence[Sequence[str]]) -> list[dict[str, object]]:
    """The rows of a sentence; no more than it has words, as its lines number them."""
    if len(sentence[0]) == UNIVERSAL and sentence[0][0].partition("-")[0] == "1":
        tokens = [cells for cells in sentence if cells[0].isdecimal()]  # 1-2 is two words in one, 1.1 an empty one
        return [{"tokens": [cells[1] for cells in tokens], "tags": [cells[3] for cells in tokens]}]
    columns = [list(column) for column in zip(*sentence, strict=True)]
    words = columns[_words_column(columns)]
    brackets = [_bio(column) for column in columns[1:] if all(map(_BRACKETS.fullmatch, column))]
    if brackets:
        rows = [(tags, tags.index("B-V")) for tags in brackets if "B-V" in tags]
        return [{"tokens": words, "predicate_index": index, "tags": tags} for tags, index in rows][: len(words)]
    tags = columns[-1]
    return [{"tokens": words, "tags": tags} | ({"predicate_index": tags.index("B-V")} if "B-V" in tags else {})]


def _words_column(columns: Sequence[Sequence[str]]) -> int:
    """The one behind the words' numbers, where there are any; else the first."""
    for number, column in enumerate(columns[:3]):
        counted = [[str(n) for n in range(base, base + len(column))] for base in (0, 1)]
        if list(column) in counted and number + 2 < len(columns):
            return number + 1
    return 0


def _bio(cells: Sequence[str]) -> list[str]:
    """Brackets as BIO: (A0* *) -> B-A0 I-A0."""
    tags, inside = [], ""
    for cell in cells:
        opened = re.findall(r"\(([^()*\s]+)", cell)
        if opened:
            inside = opened[0]
            tags.append(f"B-{inside}")
        else:
            tags.append(f"I-{inside}" if inside else "O")
        if ")" in cell:
            inside = ""
    return tags
