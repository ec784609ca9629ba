"""Run: pytest tests/data/test_dataset.py"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import time
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeltune.data import sources
from keeltune.data.columns import Column
from keeltune.data.dataset import Row, fingerprint, row_key, split_share
from keeltune.data.reading import read
from keeltune.data.row_problems import RowProblem
from keeltune.data.sources import DataSource
from keeltune.utils.errors import UserError
from tests.bad_inputs.data_files import BAD, GOOD, MANY_LABELS, OTHER, PAIR, SOUND, Bad
from tests.bad_inputs.rows import parquet

TEXT, PAIRED = Column("text"), Column("text_pair", required=False)
LABEL, LABELS = Column("label", "label", label=True), Column("label", "labels", label=True)
COLUMNS = [TEXT, PAIRED, LABEL]


def load(path: Path | str, columns=COLUMNS, mapping=None, labelled=True, **options):
    return read(DataSource(str(path), **options), columns, mapping or {}, labelled=labelled)


def pairs(rows: list[Row]) -> list[tuple]:
    return [(row.fields["text"], row.fields["label"]) for row in rows]


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


# ------------------------------------------------------------------------------------------------------------ bad data


@pytest.mark.parametrize("case", BAD + MANY_LABELS, ids=lambda case: case.name)
def test_bad_file_is_reported_where_it_is_bad(case: Bad, tmp_path: Path):
    columns = [TEXT, PAIRED, LABELS if case in MANY_LABELS else LABEL]
    rows, problems = load(written(tmp_path, case.file, case.data), columns)
    first = next(p for p in problems if (p.line if isinstance(p, RowProblem) else None) == case.line)
    for needle in case.needles:
        assert needle in str(first), str(first)
    assert first.where.startswith(str(tmp_path / case.file))
    assert first.severity == "error" and first.kind and first.fix
    assert case.line not in [row.line for row in rows]
    if case.line is None:
        assert not any(isinstance(p, RowProblem) for p in problems)


@pytest.mark.parametrize(
    "case", [c for c in BAD if c.data.startswith(GOOD) and c.data.endswith(OTHER)], ids=lambda c: c.name
)
def test_rows_round_a_bad_line_are_read(case: Bad, tmp_path: Path):
    rows, problems = load(written(tmp_path, case.file, case.data))
    assert pairs(rows) == PAIR and [row.line for row in rows] == [1, 3]
    assert {p.line for p in problems} == {2}


@pytest.mark.parametrize("name", SOUND)
def test_unusual_but_valid_passes(name: str, tmp_path: Path):
    rows, problems = load(written(tmp_path, *SOUND[name][1:]))
    assert problems == []
    assert pairs(rows) == PAIR
    assert "text_pair" not in rows[0].fields


def test_every_problem_of_a_file_is_reported(tmp_path: Path):
    data = b'{"text": 1, "label": true}\n{bad\n' + GOOD + b'{"text": "", "label": -3}\n\xff\n'
    rows, problems = load(written(tmp_path, "a.jsonl", data))
    assert [row.line for row in rows] == [3]
    assert sorted((p.line, p.field) for p in problems) == [
        (1, "label"), (1, "text"), (2, ""), (4, "label"), (4, "text"), (5, "")
    ]  # fmt: skip


def test_no_row_is_lost_to_an_unclosed_quote(tmp_path: Path):
    records = [f"row {i},pos" for i in range(2, 40)]
    records[10] = '"open,pos'
    records[20] = '"fine, really",pos'
    rows, problems = load(written(tmp_path, "a.csv", "\n".join(["text,label", *records]).encode()))
    assert [p.line for p in problems] == [12]
    assert sorted({row.line for row in rows} | {12}) == list(range(2, 40))
    assert "fine, really" in [row.fields["text"] for row in rows]


# ------------------------------------------------------------------------------------------------------------- formats


def test_physical_lines_are_counted(tmp_path: Path):
    rows, problems = load(written(tmp_path, "a.jsonl", b"\r\n" + GOOD + b"\n\n" + OTHER))
    assert [row.line for row in rows] == [2, 5] and not problems
    rows, problems = load(written(tmp_path, "a.csv", b'text,label\n"two\nlines",pos\nx,neg\n'))
    assert pairs(rows) == [("two\nlines", "pos"), ("x", "neg")]
    assert [row.line for row in rows] == [2, 4] and not problems
    rows, _ = load(written(tmp_path, "a.json", b"[\n\n" + GOOD + b",\n" + OTHER + b"]"))
    assert [row.line for row in rows] == [1, 2]


def test_line_separators_of_unicode_are_text(tmp_path: Path):
    text = "a\u2028b\u0085c\x1cd"
    rows, problems = load(
        written(tmp_path, "a.jsonl", json.dumps({"text": text, "label": "x"}, ensure_ascii=False).encode())
    )
    assert problems == [] and rows[0].fields["text"] == text


@pytest.mark.parametrize("text", ['"Good" film', 'she said "no', '"', 'a "b" c'])
def test_tsv_without_quoting(text: str, tmp_path: Path):
    rows, problems = load(written(tmp_path, "a.tsv", f"text\tlabel\n{text}\tpos\nx\tneg\n".encode()))
    assert problems == [] and pairs(rows) == [(text, "pos"), ("x", "neg")]


def test_tsv_that_swallows_no_rows(tmp_path: Path):
    """Read with quoting, the two marks would make one record of three lines."""
    rows, problems = load(written(tmp_path, "a.tsv", b'text\tlabel\n"open\tpos\nx\tneg\nend"\tpos\n'))
    assert problems == [] and len(rows) == 3


@pytest.mark.parametrize(("ending", "dialect"), [("csv", "excel"), ("tsv", "excel-tab")])
def test_written_by_the_csv_module(ending: str, dialect: str, tmp_path: Path):
    texts = ["a, b", 'say ""', '"quoted"', "two\nlines", "tab\there", " edge ", "é漢🙂", "semi;colon"]
    sink = io.StringIO()
    csv.writer(sink, dialect=dialect).writerows([["text", "label"], *([text, "1"] for text in texts)])
    rows, problems = load(written(tmp_path, f"a.{ending}", sink.getvalue().encode()))
    assert problems == [] and [row.fields["text"] for row in rows] == texts


def test_one_absurdly_long_line_is_a_row(tmp_path: Path):
    long = "word " * 4_000_000
    started = time.process_time()
    for name, data in [
        ("a.jsonl", json.dumps({"text": long, "label": "x"}) + "\n" + GOOD.decode()),
        ("a.csv", f"text,label\n{long},x\nfine film,pos\n"),
        ("b.jsonl", '{"text": "' + long),
    ]:
        rows, problems = load(written(tmp_path, name, data.encode()))
        assert [len(row.fields["text"]) for row in rows] == ([] if name == "b.jsonl" else [len(long), 9])
        assert all(len(str(p)) < 1000 for p in problems) and len(problems) == (name == "b.jsonl")
    assert time.process_time() - started < 8


def test_same_rows_and_keys_from_every_format(tmp_path: Path):
    read_rows = [load(written(tmp_path, *SOUND[name][1:]))[0] for name in SOUND]
    assert {tuple(row.key for row in rows) for rows in read_rows} == {tuple(row.key for row in read_rows[0])}
    assert len({fingerprint(rows) for rows in read_rows}) == 1


# -------------------------------------------------------------------------------------------------------------- sources


def test_folder_is_one_data_set_by_name(tmp_path: Path):
    written(tmp_path, "part-1.jsonl.gz", gzip.compress(OTHER))
    written(tmp_path, "part-0.jsonl", GOOD)
    written(tmp_path, "README.md", b"no data")
    written(tmp_path, ".hidden.jsonl", b"{bad")
    (tmp_path / "more").mkdir()
    written(tmp_path / "more", "part-2.jsonl", b"{bad")
    rows, problems = load(tmp_path)
    assert problems == [] and pairs(rows) == PAIR
    assert [(Path(row.file).name, row.line) for row in rows] == [("part-0.jsonl", 1), ("part-1.jsonl.gz", 1)]


def test_shards_with_different_columns(tmp_path: Path):
    written(tmp_path, "0.csv", b"text,label\nx,a\n")
    written(tmp_path, "1.csv", b"label,text\nb,y\n")
    assert load(tmp_path)[1] == []
    written(tmp_path, "2.parquet", parquet({"text": ["z"], "label": ["a"], "id": [1]}))
    _, (problem,) = load(tmp_path)
    assert problem.where.endswith("2.parquet") and '"id"' in problem.found and "0.csv" in problem.expected
    assert not isinstance(problem, RowProblem)


def test_folder_of_splits_without_the_wanted_one_is_refused(tmp_path: Path):
    for name in ("dev.jsonl", "test.jsonl"):
        written(tmp_path, name, GOOD)
    rows, (problem,) = load(tmp_path)
    assert rows == [] and "splits" in str(problem) and "dev.jsonl" in problem.fix
    (tmp_path / "dev.jsonl").rename(tmp_path / "train.jsonl")
    rows, problems = load(tmp_path)
    assert problems == [] and {Path(row.file).name for row in rows} == {"train.jsonl"}
    (tmp_path / "test.jsonl").rename(tmp_path / "train-2.jsonl")
    assert load(tmp_path)[1] == []


def test_sources_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written(tmp_path, "train.jsonl", GOOD)
    _, (problem,) = load(tmp_path / "trian.jsonl", where="recipe.yaml:4")
    assert problem.where == "recipe.yaml:4"
    assert str(tmp_path / "trian.jsonl") in problem.found and 'did you mean "train.jsonl"' in problem.found
    _, (problem,) = load(tmp_path / "nowhere" / "a.jsonl")
    assert f"no folder {tmp_path / 'nowhere'}" in problem.found
    (tmp_path / "empty").mkdir()
    _, (problem,) = load(tmp_path / "empty")
    assert "no data file" in problem.found and ".parquet" in problem.expected
    _, (problem,) = load(written(tmp_path, "a.xlsx", b"x"))
    assert (
        "a.xlsx" in problem.found and ".jsonl .json .csv .tsv .arrow .parquet (each also with .gz)" in problem.expected
    )
    _, (problem,) = load(str(tmp_path / "a\0.jsonl"))
    assert "a\\x00.jsonl" in problem.found

    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources, "open_regular", denied)
    _, (problem,) = load(tmp_path / "train.jsonl")
    assert "Permission denied" in problem.found


PIPED = """
from keeltune.data.file_formats.file_format import FileFormat, text_lines

class Piped(FileFormat):
    endings = (".piped",)
    cells_are_text = True

    def records(self, data, log):
        for line, text, sound in text_lines(data, log):
            cells = text.rstrip().split("|")
            if len(cells) != 2:
                log.row(line, "wrong width", f"{len(cells)} cells", "two cells", "correct the line")
            elif sound:
                yield line, {"text": cells[0], "label": cells[1]}
"""


def test_a_format_of_ones_own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written(tmp_path, "own_formats.py", PIPED.encode())
    monkeypatch.syspath_prepend(str(tmp_path))
    file = written(tmp_path, "rows.piped", b"a film|good\nno label\nno film|bad\n")
    _, (problem,) = load(file)
    assert problem.kind == "unknown ending"  # its own ending is known where the recipe names the format
    rows, (problem,) = load(file, file_format="own_formats:Piped")
    assert pairs(rows) == [("a film", "good"), ("no film", "bad")] and [row.line for row in rows] == [1, 3]
    assert isinstance(problem, RowProblem) and problem.where == f"{file}:2" and problem.found == "1 cells"
    written(tmp_path, "rows.txt", b"a film|good\n")  # named, it reads a file of any ending, and of a folder its own
    assert pairs(load(tmp_path / "rows.txt", file_format="own_formats:Piped")[0]) == [("a film", "good")]
    assert pairs(load(tmp_path, file_format="own_formats:Piped")[0]) == pairs(rows)
    written(tmp_path, "rows.gz", gzip.compress(b"a film|good\n"))
    assert pairs(load(tmp_path / "rows.gz", file_format="own_formats:Piped")[0]) == [("a film", "good")]
    written(tmp_path, "table.txt", b"text,label\nx,pos\n")
    assert pairs(load(tmp_path / "table.txt", file_format="csv")[0]) == [("x", "pos")]


def _hub(monkeypatch: pytest.MonkeyPatch, answer):
    calls = []

    def load_dataset(*args, **options):
        calls.append((args, options))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hub:imdb", ("imdb", None, None, "test")),
        ("hub:owner/name@v1.0", ("owner/name", None, "v1.0", "test")),
        ("hub:owner/name@refs/pr/1:config", ("owner/name", "config", "refs/pr/1", "test")),
        ("hub:owner/name:mnli/validation_matched", ("owner/name", "mnli", None, "validation_matched")),
        ("hub:owner/name:/dev", ("owner/name", None, None, "dev")),
    ],
)
def test_hub_names(source: str, expected: tuple, monkeypatch: pytest.MonkeyPatch):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    columns = {"text": ["fine film", "dull plot", "?"], "label": [1, 0, -1]}
    table = datasets.Dataset.from_dict(columns, features=features)
    calls = _hub(monkeypatch, table)
    rows, (problem,) = load(source, split="test")
    name, config, revision, split = expected
    assert calls == [((name, config), {"split": split, "revision": revision})]
    assert pairs(rows) == PAIR and rows[1].file == source and rows[1].line == 2
    assert problem.line == 3 and "-1" in problem.found


def test_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    _hub(monkeypatch, ConnectionError("Couldn't reach the hub\nlong story"))
    rows, (problem,) = load("hub:owner/name")
    assert rows == []
    for needle in ("load_dataset('owner/name', None, split='train'", "ConnectionError", "network", "give their path"):
        assert needle in str(problem)
    _, (problem,) = load("hub:")
    assert "hub:NAME" in problem.expected


# -------------------------------------------------------------------------------------------------------------- columns


def test_mapping_renames_once_and_wins(tmp_path: Path):
    path = written(tmp_path, "a.jsonl", b'{"text": "a title", "body": "fine film", "stars": 5, "id": 7}\n')
    (row,), problems = load(path, mapping={"text": "body", "label": "stars"})
    assert problems == []
    assert row.fields == {"text": "fine film", "label": "5", "id": 7}
    swapped = written(tmp_path, "b.jsonl", b'{"text": "pos", "label": "fine film"}\n')
    (row,), problems = load(swapped, mapping={"text": "label", "label": "text"})
    assert problems == [] and pairs([row]) == [("fine film", "pos")]


def test_mapping_that_fits_nothing(tmp_path: Path):
    path = written(tmp_path, "a.jsonl", b'{"body": "x", "label": "pos"}\n')
    _, problems = load(path, mapping={"text": "bdy", "txt": "body", "text_pair": "second"}, where="recipe.yaml:9")
    by_field = {(p.field, p.kind): p for p in problems}
    assert 'did you mean "body"' in by_field["text", "missing column"].found
    assert "{text: bdy}" in by_field["text", "missing column"].fix
    assert "text_pair" in {p.field for p in problems}  # optional, but the recipe names it
    unknown = by_field["data.columns", "unknown column name"]
    assert unknown.where == "recipe.yaml:9" and 'did you mean "text"' in unknown.found


def test_unlabelled_rows_have_no_label(tmp_path: Path):
    bare, labelled = (
        written(tmp_path, "a.jsonl", b'{"text": "x"}\n'),
        written(tmp_path, "b.jsonl", b'{"text": "x", "label": null}\n'),
    )
    rows = [load(path, labelled=False, mapping={"label": "stars"}) for path in (bare, labelled)]
    assert [problems for _, problems in rows] == [[], []]
    assert [row.fields for found, _ in rows for row in found] == [{"text": "x"}, {"text": "x"}]
    assert rows[0][0][0].key == rows[1][0][0].key == row_key({"text": "x"}, ["text"])


def test_labels_as_text(tmp_path: Path):
    path = written(
        tmp_path, "a.jsonl", b'{"text": "x", "label": 3}\n{"text": "x", "label": "3"}\n{"text": "y", "label": 0}\n'
    )
    rows, problems = load(path)
    assert problems == [] and [row.fields["label"] for row in rows] == ["3", "3", "0"]
    assert rows[0].key == rows[1].key


def test_several_labels(tmp_path: Path):
    path = written(
        tmp_path,
        "a.jsonl",
        b'{"text": "x", "label": ["b", "a"]}\n{"text": "y", "label": []}\n{"text": "z", "label": [2]}\n',
    )
    rows, problems = load(path, [TEXT, LABELS])
    assert problems == [] and [row.fields["label"] for row in rows] == [["b", "a"], [], ["2"]]
    table = written(tmp_path, "a.csv", b'text,label\nx,"[""b"", ""a""]"\ny,[]\nz,[2]\n')
    assert [row.key for row in load(table, [TEXT, LABELS])[0]] == [row.key for row in rows]


# ------------------------------------------------------------------------------------------------------------- identity


def test_key_is_the_digest_of_canonical_json():
    expected = hashlib.sha256('{"label":"pos","text":"Käse 漢"}'.encode()).hexdigest()
    assert row_key({"text": "Käse 漢", "label": "pos", "id": 3}, ["text", "text_pair", "label"]) == expected


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers() | st.text(st.characters(codec="utf-8"))),
    st.text(st.characters(codec="utf-8")),
    st.randoms(),
)
def test_key_depends_on_the_columns_alone(extra: dict, text: str, random):
    fields = {"text": text, "label": "a"}
    mixed = [*({k: v for k, v in extra.items() if k not in fields} | fields).items()]
    random.shuffle(mixed)
    assert row_key(dict(mixed), ["label", "text"]) == row_key(fields, ["text", "label"])
    assert row_key(fields | {"text": text + "!"}, ["text", "label"]) != row_key(fields, ["text", "label"])


def test_key_is_free_of_file_and_order(tmp_path: Path):
    one = load(written(tmp_path, "a.jsonl", GOOD + OTHER))[0]
    two = load(written(tmp_path, "b.jsonl", b'{"id": 4, "label": "neg", "text": "dull plot"}\n\n' + GOOD))[0]
    assert [row.key for row in one] == [row.key for row in two][::-1]
    assert fingerprint(one) == fingerprint(two[::-1]) != fingerprint(two)


def rows_of(texts: list[str]) -> list[Row]:
    return [Row({"text": t}, "f", i, row_key({"text": t}, ["text"])) for i, t in enumerate(texts, 1)]


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(1000, 0.1, 100), (1000, 0.25, 250), (7, 0.01, 1), (3, 0.99, 2), (2, 0.1, 1)]
)
def test_split_is_exact(count: int, share: float, expected: int):
    rows = rows_of([f"text {i}" for i in range(count)])
    train, validation = split_share(rows, share, seed=1)
    assert (len(train), len(validation)) == (count - expected, expected)
    assert sorted(train + validation, key=lambda row: row.line) == rows
    assert [r.line for r in train] == sorted(r.line for r in train)


def test_split_hangs_on_the_rows_and_the_seed_alone():
    rows = rows_of([f"text {i}" for i in range(300)])
    one, other = split_share(rows, 0.2, 3)[1], split_share(rows[::-1], 0.2, 3)[1]
    assert {r.key for r in one} == {r.key for r in other}
    assert {r.key for r in one} != {r.key for r in split_share(rows, 0.2, 4)[1]}


def test_split_keeps_equal_rows_together():
    train, validation = split_share(rows_of([f"text {i % 40}" for i in range(200)]), 0.2, 0)
    assert not {r.key for r in train} & {r.key for r in validation}
    assert len(validation) == 40


@pytest.mark.parametrize(
    ("texts", "share"), [([], 0.1), (["a"], 0.5), (["a", "a", "a"], 0.5), (["a", "b"], 0.0), (["a", "b"], 1.5)]
)
def test_split_that_cannot_be(texts: list[str], share: float):
    with pytest.raises(UserError, match="leaves a row on each side"):
        split_share(rows_of(texts), share, 0)


# ------------------------------------------------------------------------------------------------------------ real data

COUNTS = {
    "sentiment-airline": (2000, 400, 1200),
    "sentiment-amazon": (472, 100, 350),
    "sentiment-imdb": (499, 100, 350),
    "sentiment-sst2": (6209, 872, 1821),
    "sentiment-zh-chnsenticorp": (6889, 1139, 1178),
    "topic-agnews": (8977, 1000, 2000),
    "intent-clinc150": (13596, 3100, 5499),
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", COUNTS)
def test_real_data_is_read_whole(name: str, real_data: Path):
    for split, expected in zip(("train", "validation", "test"), COUNTS[name], strict=True):
        path = next(
            p for p in (real_data / name / f"{split}.jsonl", real_data / name / f"{split}.jsonl.gz") if p.exists()
        )
        rows, problems = load(path)
        assert problems == []
        assert len(rows) == expected
        assert len({row.key for row in rows}) == expected  # the sets were freed of repeats


@pytest.mark.parametrize(("wanted", "found"), [(("source", "target"), None), (("source",), "Wo ist es?")])
def test_our_own_name_is_no_second_name_of_another_column(tmp_path, wanted, found):
    """A run that reads `target` as its source and `source` as its target; then rows of `source` alone, which may be
    its input and never its target too."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"source": "Wo ist es?"}\n', encoding="utf-8")
    swapped = {name: other for name, other in (("source", "target"), ("target", "source")) if name in wanted}
    rows, problems = read(DataSource(str(file)), [Column(name) for name in wanted], swapped, or_ours=swapped.keys())
    assert [row.fields["source"] for row in rows] == ([found] if found else [])
    assert bool(problems) == (found is None)
