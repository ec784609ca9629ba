"""Labels that look alike: what is never meant is taken off once, and the rest is warned of with its rows and column."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import BertConfig

from keeltune.data.clusters import numbers_of
from keeltune.data.columns import Column
from keeltune.data.labels import names_of_data
from keeltune.data.look_alikes import look_alikes
from keeltune.data.reading import read
from keeltune.data.row_labels import apply_label_map, row_labels
from keeltune.data.sources import DataSource
from keeltune.models.configuration import head_names
from keeltune.tasks.semantic_role_labeling import SemanticRoleLabeling
from keeltune.utils.names import look, plain_name

COLUMNS = [Column("text"), Column("label", "label", label=True)]

NEVER_MEANT = ["café ", "café\u00a0", "\ufeffcafé", "ca\u200bfé", unicodedata.normalize("NFD", "café"), "\u3000café\t",
               "café\u2060", "c\u00adafé", "\u200ecafé\u200f"]  # fmt: skip


def rows_with(folder: Path, labels: list[object]):
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps({"text": f"t{i}", "label": one}) + "\n" for i, one in enumerate(labels)))
    rows, problems = read(DataSource(str(file)), COLUMNS, {})
    assert not problems
    return rows


@pytest.mark.parametrize("label", NEVER_MEANT)
def test_what_is_never_meant_makes_no_class(label: str, tmp_path: Path):
    """In the data, in a list or a map of the recipe, in the model's head, and in groups."""
    rows = rows_with(tmp_path, ["café", label, "thé", "thé"])
    assert names_of_data(rows, listed=None, head=None, multi_label=False) == (["café", "thé"], [], [])
    assert rows[0].key != rows[1].key  # of their texts alone
    assert names_of_data(rows, listed=[label, "thé"], head=None, multi_label=False)[0] == ["café", "thé"]
    mapped, problems = apply_label_map(rows, {label: "A", "thé": f"B{label[-1]}" if label[-1].isspace() else "B"})
    assert not problems and [row.fields["label"] for row in mapped] == ["A", "A", "B", "B"]
    head = head_names(BertConfig(id2label={0: "thé", 1: label}))
    assert names_of_data(rows, listed=None, head=head, multi_label=False) == (["thé", "café"], [], [])
    grouped = [
        replace(row, fields={"group": name}) for row, name in zip(rows, ["café", label, "thé", "thé"], strict=True)
    ]
    groups = numbers_of(grouped, "group")
    assert groups is not None and groups.tolist() == [0, 0, 1, 1]


def test_joiners_of_persian_and_of_emoji_stay():
    assert plain_name("می\u200cخواهم") == "می\u200cخواهم" and plain_name("👩\u200d🔬") == "👩\u200d🔬"
    assert plain_name("po\u200cs") == "pos"


@pytest.mark.parametrize(
    ("odd", "usual"),
    [("Pos", "pos"), ("ｐｏｓ", "pos"), ("роs", "pos"), ("very_good", "very good"), ("1.0", "1"), ("01", "1"),
     ("True", "true"), ("ﬁne", "fine"), ("straße", "STRASSE"), ("①", "1"), ("heart\ufe0f", "heart")],
)  # fmt: skip
def test_the_rest_is_warned_of_with_rows_and_column(odd: str, usual: str, tmp_path: Path):
    other = "0" if usual == "1" else "another"
    rows = rows_with(tmp_path, [usual, other] * 20 + [odd])
    names, warnings, _ = names_of_data(rows, listed=None, head=None, multi_label=False)
    assert len(names) == 3, "they stay classes of their own: only the user knows"
    (warning,) = [w for w in warnings if w.kind == "labels that look alike"]
    assert warning.field == "label" and warning.where.endswith("train.jsonl:41") and "in 20 rows" in warning.found
    listed = names_of_data(rows, listed=names, head=None, multi_label=False)
    assert listed[:2] == (names, []), "who lists them has decided"


@pytest.mark.parametrize(("labels", "odd"), [(["0", "1"], "pos"), (["pos", "neg"], "1"), ([0, 1], "n/a")])
def test_one_word_among_numbers_is_warned_of(labels: list[object], odd: str, tmp_path: Path):
    rows = rows_with(tmp_path, labels * 20 + [odd])
    _, (warning,), _ = names_of_data(rows, listed=None, head=None, multi_label=False)
    assert warning.kind == "labels of two kinds" and f'"{odd}"' in warning.found and warning.where.endswith(":41")


@pytest.mark.parametrize("labels", [["B", "C", "D"], ["c", "c++", "c#"], ["1", "2", "10"], ["positive", "negative"],
                                    ["I-PER", "B-PER", "O"], ["否", "是"], ["resume", "résumé"]])  # fmt: skip
def test_labels_that_differ_are_not_warned_of(labels: list[str], tmp_path: Path):
    rows = rows_with(tmp_path, labels * 10)
    assert names_of_data(rows, listed=None, head=None, multi_label=False)[1] == []


def test_tags_and_lists_of_labels(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    rows = [{"tokens": ["he", "ran"], "predicate_index": 1, "tags": ["B-A0\u00a0", "B-V"]}] * 20
    rows += [{"tokens": ["he", "ran"], "predicate_index": 1, "tags": ["B-a0", "B-V"]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read_rows, _ = read(DataSource(str(file)), SemanticRoleLabeling.columns, {})
    counts = Counter(tag for row in read_rows for tag in row.fields["tags"])
    assert counts == {"B-A0": 20, "B-V": 21, "B-a0": 1}
    (warning,), _ = look_alikes(read_rows, counts, lambda row: row.fields["tags"], "tags")
    assert warning.field == "tags" and warning.where.endswith("a.jsonl:21")
    file.write_text('{"text": "x", "label": ["news ", "sport"]}\n{"text": "y", "label": ["news", "news\u200b"]}\n')
    several, (problem,) = read(DataSource(str(file)), [COLUMNS[0], Column("label", "labels", label=True)], {})
    assert row_labels(several[0]) == ["news", "sport"] and problem.kind == "label given twice"


@pytest.mark.parametrize("header", ["text, label", "\ufefftext,label\u00a0", "text,la\u200bbel", "text,label "])
def test_columns_are_compared_alike(header: str, tmp_path: Path):
    file = tmp_path / "a.csv"
    file.write_text(f"{header}\nfine,pos\n")
    rows, problems = read(DataSource(str(file)), COLUMNS, {})
    assert not problems and [row.fields for row in rows] == [{"text": "fine", "label": "pos"}]


def test_what_looks_alike_is_symmetric_and_what_is_plain_stays():
    for name in [*NEVER_MEANT, "Pos", "роs", "1.0", "٣", "9" * 5000, "-1", "", "\U0001f44d\U0001f3fd"]:
        assert plain_name(plain_name(name)) == plain_name(name) and look(look(name)) == look(name)
