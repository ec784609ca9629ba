"""Rows of each of the nine tasks: what every file may hold, and what a column of that task may not."""

from __future__ import annotations

import json

from tests.bad_inputs.case import Case, bad, good
from tests.bad_inputs.rows import (
    ROWS,
    TASKS,
    TEXT_FIELD,
    beside,
    changed,
    json_lines,
    packed,
    parquet,
    table,
    with_line,
)

GIVEN = ("label", "answers", "summary", "target", "tags", "captions", "completion")


def every_task() -> list[Case]:
    """The same fault in the rows of each task, and rows that look like it."""
    cases = []
    for task in TASKS:
        field, rows = TEXT_FIELD[task], ROWS[task]
        name, near = json.dumps(field), f"{field}s" if not field.endswith("s") else field[:-1]
        value = rows[1][field]
        wrong = json.dumps({**rows[1], field: value, near: value}).replace(
            f"{name}: ", f"{json.dumps(near + 'x')}: ", 1
        )
        cases += [
            bad("D1", "a quotation mark missing", "train.jsonl:2", task=task, train=with_line(task, b'{"a: 1}')),
            bad("D2", "the file ends within a row", "train.jsonl:3", "ends within this row", task=task,
                train=json_lines(rows[:2]) + json.dumps(rows[2]).encode()[:-4]),
            bad("D3", "Latin-1", "train.jsonl:2", "0xe9", "UTF-8", task=task, train=with_line(task, b'{"a": "caf\xe9"}')),
            bad("D4", "a lone surrogate", "train.jsonl:2", field, "surrogate", task=task,
                train=changed(task, **{field: [*value, "\ud83d"] if isinstance(value, list) else "x\ud83d"})),
            bad("D4", "a lone surrogate in a column of the user's own", "train.jsonl:2", "surrogate", task=task,
                train=changed(task, note="x\udc00")),
            bad("D5", "a field missing", "train.jsonl:2", field, task=task, train=changed(task, **{field: ...})),
            bad("D5", "a field misspelt", "train.jsonl:2", field, task=task, train=with_line(task, wrong.encode())),
            bad("D6", "nothing", "train.jsonl:2", f"{field}\n", "nothing", task=task, train=changed(task, **{field: None})),
            bad("D6", "a number", "train.jsonl:2", f"{field}\n", "12 (a whole number)", task=task, train=changed(task, **{field: 12})),
            bad("D6", "a mapping", "train.jsonl:2", f"{field}\n", "(a mapping)", task=task, train=changed(task, **{field: {"a": "x"}})),
            bad("D6", "blank text", "train.jsonl:2", field, "blank" if field not in ("tokens",) else "empty", task=task,
                train=changed(task, **{field: [""] if isinstance(value, list) else " \n"})),
            bad("D7", "a list", "train.jsonl:2", "an object", "(a list)", task=task, train=with_line(task, b'["x", "y"]')),
            bad("D8", "a key twice", "train.jsonl:2", "more than once", task=task,
                train=with_line(task, json.dumps(rows[1]).replace("{", f"{{{name}: 1, ", 1).encode())),
            bad("D9", "an empty file", "train.jsonl", "0 bytes", task=task, train=b""),
            bad("D12", "a field mapped to none", "data.columns", field, "ours", task=task, overrides=(f"data.columns={{{field}: ours}}",)),
            good("D1", "JSON with blanks and escapes", task=task,
                 train=json_lines(rows).replace(b": ", b" :\t").replace(b"film", rb"fil\u006d")),
            good("D4", "letters beyond 16 bits, and escapes of whole ones", task=task, train=[{**row, "note": "\U0001f600 é"} for row in rows]),
            good("D8", "one key in a row and inside one of its values", task=task, train=[{**row, "src": {field: "x"}} for row in rows]),
            good("D5", "columns of the user's own", task=task, train=[{**row, "id": n, "src": {"x": [None]}} for n, row in enumerate(rows)]),
            good("D5", "a column under another name", task=task, overrides=(f"data.columns={{{field}: ours}}",),
                 train=[{("ours" if name == field else name): v for name, v in row.items()} for row in rows]),
            good("D9", "CRLF, a BOM and blank lines", task=task, train=b"\xef\xbb\xbf\r\n" + json_lines(rows).replace(b"\n", b"\r\n\r\n")),
            good("D18", "gzip of whole rows", task=task, files={"train.jsonl.gz": packed(json_lines(rows))}, overrides=("data.train=train.jsonl.gz",)),
            good("D10", "a table whose lists are JSON", task=task, files={"train.csv": table(rows)}, overrides=("data.train=train.csv",)),
            good("D13", "Parquet of whole rows", task=task, overrides=("data.train=t.parquet",),
                 files={"t.parquet": parquet({name: [row[name] for row in rows] for name in rows[0]})}),
        ]  # fmt: skip
    return cases


LONG = "a good film " * 2_000_000
TALK = [{"role": "user", "content": "is it good?"}, {"role": "assistant", "content": "it is"}]


def talks(*messages: dict) -> bytes:
    """A conversation as the second row of three."""
    return json_lines([{"messages": TALK}, {"messages": list(messages)}, {"messages": TALK}])


def says(role: str, content: object = "it is") -> dict:
    return {"role": role, "content": content}


FILES = [
    bad("D2", "an array that ends within a row", "train.json", task="translation", files={"train.json": json.dumps(ROWS["translation"]).encode()[:-20]},
        overrides=("data.train=train.json",)),
    bad("D9", "a table of a header alone", "train.csv", "no row", task="summarization", files={"train.csv": b"document,summary\n"},
        overrides=("data.train=train.csv",)),
    bad("D10", "a row with a cell too many", "train.csv:3", "3 columns", task="translation", overrides=("data.train=train.csv",),
        files={"train.csv": b"source,target\na,b\nc,d,e\nf,g\n"}),
    bad("D10", "a list that is no JSON", "train.csv:2", "tags", task="semantic-role-labeling", overrides=("data.train=train.csv",),
        files={"train.csv": b'tokens,predicate_index,tags\n"[""Mary"", ""ran""]",1,B-ARG0 B-V\n'}),
    bad("D11", "a quotation mark that stays open", "train.csv:3", "not closed", task="summarization", overrides=("data.train=train.csv",),
        files={"train.csv": b'document,summary\na,b\n"c,d\ne,f\n'}),
    good("D11", "a text with marks, commas and lines", task="translation", overrides=("data.train=train.csv",),
         files={"train.csv": b'source,target\n"he said ""no"", twice",nein\n"two\nlines",b\n'}),
    good("D11", "a mark in the middle of a cell", task="summarization", overrides=("data.train=train.tsv",),
         files={"train.tsv": b'document\tsummary\n12" of rain\twet\n"b"\tc\n'}),
    bad("D13", "a web page", "t.parquet", "HTML", task="question-answering", overrides=("data.train=t.parquet",),
        files={"t.parquet": b"<!DOCTYPE html><html>404</html>"}),
    bad("D14", "another column", "parts/b.jsonl", task="translation", overrides=("data.train=parts",),
        files={"parts/a.jsonl": json_lines(ROWS["translation"]), "parts/b.jsonl": b'{"source": "a", "traget": "b"}\n'}),
    bad("D14", "another header", "b.csv", '"note"', overrides=("data.train=parts",),
        files={"parts/a.csv": b"text,label\na,x\nb,y\n", "parts/b.csv": b"text,label,note\nc,x,z\n"}),
    good("D14", "the columns in another order", overrides=("data.train=parts",),
         files={"parts/a.csv": b"text,label\na film,x\nb,y\n", "parts/b.csv": b"label,text\nx,c\n"}),
    good("D14", "other endings, a page beside them", task="translation", overrides=("data.train=parts",),
         files={"parts/a.jsonl": json_lines(ROWS["translation"]), "parts/b.jsonl.gz": packed(json_lines(ROWS["translation"])), "parts/README.md": b"#"}),
    bad("D18", "gzip that ends early", "train.jsonl.gz", "gzip", task="translation", overrides=("data.train=train.jsonl.gz",),
        files={"train.jsonl.gz": packed(json_lines(ROWS["translation"] * 9))[:-9]}),
    bad("D19", "24 MB that end within a text", "train.jsonl:1", "ends within this row", train=b'{"text": "' + LONG.encode()),
    bad("D19", "24 MB without an end of its number", "train.jsonl:1", train=b'{"text": "x", "label": ' + b"9" * 24_000_000 + b"}"),
    good("D19", "a text of a megabyte", train=[{"text": LONG[:1_000_000], "label": "positive"}, *ROWS["sentiment-analysis"]]),
    good("D19", "a megabyte in a column of the user's own", train=[{**row, "note": LONG[:1_000_000]} for row in ROWS["sentiment-analysis"]]),
]  # fmt: skip

QUOTED = [
    good("D6", "a number in quotes", task=task, train=changed(task, **{TEXT_FIELD[task]: "12"}))
    for task in ("sentiment-analysis", "summarization", "translation", "text-generation")
]

SPLITS = [  # warned of, and well
    good("D15", "the training rows as test rows", overrides=("data.test=train.jsonl",)),
    good("D15", "one row in both", task="translation", overrides=("data.test=t.jsonl",), files={"t.jsonl": json_lines(ROWS["translation"][:1])}),
    bad("D15", "test rows that are none", "t.jsonl", overrides=("data.test=t.jsonl",), files={"t.jsonl": b"{}\n"}),
    bad("D15", "no class left for training", "one class only", overrides=("data.validation=0.99",)),
    good("D16", "a text longer than max_length", overrides=("max_length=8",), train=[{**row, "text": "a film " * 90} | {"text": f"{n} " + "a film " * 90} for n, row in enumerate(ROWS["sentiment-analysis"])]),
    good("D16", "a summary longer than target_max_length", task="summarization", overrides=("target_max_length=4",)),
    bad("D16", "a target that is wholly cut", "target_max_length", "at least 2", task="translation", overrides=("target_max_length=1",)),
    bad("D16", "a document that is wholly cut", "max_length", "at least 2", task="summarization", overrides=("max_length=1",)),
    bad("D16", "a review that is wholly cut", "max_length", "at least 3", overrides=("max_length=1",)),
    bad("D16", "a sentence that is wholly cut", "max_length", "at least 7", task="semantic-role-labeling", overrides=("max_length=3",)),
    bad("D16", "targets longer than the decoder writes", "target_max_length", "at most 64", task="translation", overrides=("target_max_length=100000",)),
    bad("D16", "no room for a word beside the question", "max_length", task="question-answering", overrides=("max_length=6",)),
]  # fmt: skip

OUTSIDE = [
    case
    for task, field in (("image-captioning", "image"), ("speech-recognition", "audio"))
    for case in (
        bad("D17", "above the data", "train.jsonl:2", "below", task=task, train=changed(task, **{field: "../x"})),
        bad("D17", "from the root", "train.jsonl:2", "below", task=task, train=changed(task, **{field: "/etc/passwd"})),
        bad("D17", "through a folder and out", "train.jsonl:2", "below", task=task, train=changed(task, **{field: "a/../../x"})),
        bad("D17", "a NUL", "train.jsonl:2", "a\\x00b", task=task, train=changed(task, **{field: "a\0b"})),
        bad("D17", "4,096 letters", "train.jsonl:2", task=task, train=changed(task, **{field: "a" * 4096})),
        bad("D17", "a folder", "train.jsonl:2", "a folder", task=task, train=changed(task, **{field: "."})),
        good("D17", "in a folder below, with dots", task=task, train=changed(task, **{field: "./a/../a/b x.bin"}),
             files={"a/b x.bin": next(iter(beside(task).values()))}),
        good("D17", "a name with letters of other scripts", task=task, train=changed(task, **{field: "文 é.bin"}),
             files={"文 é.bin": next(iter(beside(task).values()))}),
    )
]  # fmt: skip

TALKS = [
    bad("D20", "unknown role", "train.jsonl:2", "messages", 'did you mean "assistant"', task="text-generation",
        train=talks(says("user"), says("asistant"))),
    bad("D20", "no answer", "train.jsonl:2", "answer", task="text-generation", train=talks(says("user"))),
    bad("D20", "two questions in a row", "train.jsonl:2", task="text-generation", train=talks(says("assistant"), says("user"))),
    bad("D20", "system in the middle", "train.jsonl:2", "system first", task="text-generation",
        train=talks(says("user"), says("system"), says("assistant"))),
    bad("D20", "no content", "train.jsonl:2", "messages", task="text-generation", train=talks({"role": "user"}, says("assistant"))),
    bad("D20", "a content that is a number", "train.jsonl:2", "messages", task="text-generation", train=talks(says("user", 3), says("assistant"))),
    bad("D20", "a message that is text", "train.jsonl:2", "messages", task="text-generation", train=json_lines([{"messages": TALK}, {"messages": ["hello"]}])),
    bad("D20", "no messages", "train.jsonl:2", "messages", task="text-generation", train=talks()),
    good("D20", "a system's word first", task="text-generation", train=talks(says("system"), says("user"), says("assistant"))),
    good("D20", "several turns", task="text-generation", train=talks(*TALK, says("user", "and now?"), says("assistant", "still"))),
    bad("D20", "neither messages nor a prompt", "train.jsonl:2", task="text-generation", train=json_lines([{"messages": TALK}, {"id": 3}])),
]  # fmt: skip

CASES = [*every_task(), *QUOTED, *FILES, *SPLITS, *OUTSIDE, *TALKS]
