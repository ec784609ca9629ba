"""Every file format that the shelf holds keeps the contract, whatever the bytes of a file are."""

from __future__ import annotations

import random

import pytest

from keeltune.data.file_formats.file_format import FileFormat, FileLog
from keeltune.data.row_problems import is_row_problem
from keeltune.data.sources import formats_by_ending
from keeltune.utils import registry

NAMES = registry.names("file_formats")
TEXT = 'text,label\ta|b\n"a film",1\n{"text": "a", "label": [1, 2]}\n[{"text": null}, 3]\n\n"open\nx\ty\tz\n'


@pytest.fixture(params=NAMES)
def file_format(request) -> FileFormat:
    return registry.find("file_formats", request.param)()


def damaged(magic: bytes) -> list[bytes]:
    """Texts and bytes that are no whole file of any format, half of them with the format's own beginning."""
    draw = random.Random(0)
    files = [b"x", b"\xef\xbb\xbf", b"\xff\xfe\x00", b"[" * 5000, TEXT.encode(), TEXT.encode("utf-16")]
    files += [bytes(draw.choices(TEXT.encode() + b"\xff\x00", k=60)) for _ in range(200)]
    return [*files, *(magic + file for file in files)]


def test_each_ending_belongs_to_one_format(file_format):
    assert file_format.endings
    for ending in file_format.endings:
        assert ending.startswith(".") and ending == ending.lower() and not ending.endswith(".gz")
        assert type(formats_by_ending()[ending]) is type(file_format)
    assert sum(len(registry.find("file_formats", name).endings) for name in NAMES) == len(formats_by_ending())


def test_what_is_no_file_of_the_format_is_noted_and_never_raises(file_format):
    for data in damaged(file_format.magic):
        log = FileLog("rows", file_format.cells_are_text)
        records = list(file_format.records(data, log))
        lines = [line for line, _ in records]
        assert lines == sorted(set(lines)) and min(lines, default=1) >= 1
        for _, record in records:
            assert all(isinstance(name, str) for name in record)
            assert not file_format.cells_are_text or all(isinstance(cell, str) for cell in record.values())
        assert all(p.where and p.found and p.expected and p.fix and p.kind for p in log.problems)
        noted = {problem.line for problem in log.problems if is_row_problem(problem)}
        assert not noted & set(lines), "a line is a row or a fault, not both"
