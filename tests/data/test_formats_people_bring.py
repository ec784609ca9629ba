"""Forms in which people have their data: read right, or refused with the mend."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest

from keeltune.data import audio, images
from keeltune.data.columns import Column
from keeltune.data.media import Media
from keeltune.data.reading import read
from keeltune.data.sources import DataSource
from keeltune.tasks.image_captioning import ImageCaptioning
from keeltune.tasks.question_answering import QuestionAnswering
from keeltune.tasks.semantic_role_labeling import SemanticRoleLabeling
from keeltune.tasks.speech_recognition import SpeechRecognition
from keeltune.tasks.token_classification import TokenClassification
from keeltune.tasks.translation import Translation

COLUMNS = [Column("text"), Column("label", "label", label=True)]
PAIRS = [("fine, really", "pos"), ("dull; slow", "neg")]


def read_file(path: Path, columns: Any = COLUMNS, split: str = "train", **mapping: str):
    rows, problems = read(DataSource(str(path), split=split), columns, mapping)
    return rows, [p for p in problems if p.severity == "error"], [p for p in problems if p.severity == "warning"]


def pairs(rows: Any) -> list[tuple[str, str]]:
    return [(row.fields["text"], row.fields["label"]) for row in rows]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_with_another_delimiter_or_line_end_are_read_and_said(
    name: str, delimiter: str, end: str, tmp_path: Path
):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows([("text", "label"), *PAIRS])
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    rows, errors, warnings = read_file(tmp_path / name)
    assert not errors and pairs(rows) == PAIRS and [row.line for row in rows] == [2, 3]
    own = "," if name == "a.csv" else "\t"
    assert [w.kind for w in warnings] == ([] if delimiter == own else ["other delimiter"])


@pytest.mark.parametrize("content", ["text;label\nfine;pos;x\n", "text|more;label\nfine\n", "text\nfine; really\n"])
def test_what_is_not_certainly_another_delimiter_is_none(content: str, tmp_path: Path):
    (tmp_path / "a.csv").write_text(content)
    rows, errors, warnings = read_file(tmp_path / "a.csv", [Column("text")])
    assert not warnings and bool(errors) == (content[4] != "\n") and len(rows) == (content[4] == "\n")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
def test_other_encodings_are_refused_with_the_mend(encoding: str, tmp_path: Path):
    (tmp_path / "a.csv").write_bytes("text,label\nzäh,pos\nöde,neg\n".encode(encoding))
    _, errors, _ = read_file(tmp_path / "a.csv")
    assert errors and all("UTF-8" in f"{p.expected}{p.fix}" for p in errors[:1])


QUESTIONS = [{"id": "1", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}], "is_impossible": False},
             {"id": "2", "question": "Why?", "answers": [], "is_impossible": True,
              "plausible_answers": [{"text": "ran", "answer_start": 4}]}]  # fmt: skip


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("version", ["1.1", "v2.0"])
def test_the_official_squad_file(indent: int | None, version: str, tmp_path: Path):
    questions = [dict(q) for q in QUESTIONS]
    if version == "1.1":
        questions = [{n: v for n, v in q.items() if n in ("id", "question", "answers")} for q in questions[:1]]
    articles = [{"title": "T", "paragraphs": [{"context": "Ann ran.", "qas": questions}]}]
    (tmp_path / "a.json").write_text(json.dumps({"version": version, "data": articles}, indent=indent))
    rows, errors, _ = read_file(tmp_path / "a.json", QuestionAnswering.columns)
    assert not errors and len(rows) == len(questions)
    assert rows[0].fields["answers"] == {"text": ["Ann"], "answer_start": [0]}
    assert rows[0].fields["context"] == "Ann ran." and rows[0].fields["title"] == "T"
    assert not any(list(QuestionAnswering.faults(row)) for row in rows)
    if version != "1.1":
        assert rows[1].fields["answers"] == {"text": [], "answer_start": []}


def test_one_object_with_the_rows_inside(tmp_path: Path):
    rows = [{"text": text, "label": label} for text, label in PAIRS]
    for value in ({"data": rows}, {"version": 1, "about": "reviews", "rows": rows}):
        (tmp_path / "a.json").write_text(json.dumps(value))
        found, errors, _ = read_file(tmp_path / "a.json")
        assert not errors and pairs(found) == PAIRS
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "x", "label": "pos", "more": rows}))
    assert pairs(read_file(tmp_path / "b.jsonl")[0]) == [("x", "pos")], "a row may hold a list of objects"


def test_dotted_names_open_what_is_nested(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"translation": {"en": "a dog", "de": "ein Hund"}}\n')
    (row,), errors, _ = read_file(
        tmp_path / "a.jsonl", Translation.columns, source="translation.en", target="translation.de"
    )
    assert not errors and (row.fields["source"], row.fields["target"]) == ("a dog", "ein Hund")
    _, errors, _ = read_file(
        tmp_path / "a.jsonl", Translation.columns, source="translation.fr", target="translation.de"
    )
    assert [e.field for e in errors] == ["source"] and "translation.en" in str(errors[0])
    _, errors, _ = read_file(tmp_path / "a.jsonl", Translation.columns)
    assert "translation.en" in errors[0].fix and "translation.de" in errors[1].fix


CONLL_BIO = "-DOCSTART- -X- O O\n\nAnn NNP B-NP B-A0\nran VBD B-VP B-V\n\nIt PRP B-NP O\nrained VBD B-VP B-V\n"
CONLL_2005 = "Ann\tNNP\t-\t(A0*)\t*\nsaw\tVBD\tsee\t(V*)\t*\nBob\tNNP\t-\t(A1*\t(A0*)\nrun\tVB\trun\t*)\t(V*)\n\n"
CONLL_2012 = (
    "#begin document (x)\nx 0 0 Ann NNP (S(NP*) - - - - * (ARG0*) -\nx 0 1 ran VBD (VP*)) run 01 1 - * (V*) -\n\n"
)


def test_conll_files(tmp_path: Path):
    for content, expected in {
        CONLL_BIO: [(["Ann", "ran"], 1, ["B-A0", "B-V"]), (["It", "rained"], 1, ["O", "B-V"])],
        CONLL_2005: [(["Ann", "saw", "Bob", "run"], 1, ["B-A0", "B-V", "B-A1", "I-A1"]),
                     (["Ann", "saw", "Bob", "run"], 3, ["O", "O", "B-A0", "B-V"])],
        CONLL_2012: [(["Ann", "ran"], 1, ["B-ARG0", "B-V"])],
    }.items():  # fmt: skip
        (tmp_path / "a.conll").write_text(content)
        rows, errors, _ = read_file(tmp_path / "a.conll", SemanticRoleLabeling.columns)
        assert not errors
        assert [(r.fields["tokens"], r.fields["predicate_index"], r.fields["tags"]) for r in rows] == expected
        assert not any(list(SemanticRoleLabeling.faults(row)) for row in rows)
    (tmp_path / "a.conll").write_text("Ann B-A0\nran\n\nIt O\nrained B-V\n")
    rows, errors, _ = read_file(tmp_path / "a.conll", SemanticRoleLabeling.columns)
    assert len(rows) == 1 and errors[0].where.endswith("a.conll:2")


@pytest.mark.parametrize("gap", [" ", "\t"])
def test_a_hashtag_is_a_word_and_no_comment(tmp_path: Path, gap: str):
    lines = [
        "# id 7 domain=en",
        "#fail O",
        "Ann B-PER",
        "is O",
        "# O",
        "1 O",
        "",
        "Go O",
        "#Oslo B-LOC",
        "",
        "# newpar",
    ]
    lines = [line if line.startswith(("# id", "# new")) else line.replace(" ", gap) for line in lines]
    (tmp_path / "tweets.conll").write_text("\n".join(lines) + "\n")
    rows, errors, _ = read_file(tmp_path / "tweets.conll", TokenClassification.columns)
    assert not errors
    assert [row.fields["tokens"] for row in rows] == [["#fail", "Ann", "is", "#", "1"], ["Go", "#Oslo"]]
    assert [row.fields["tags"] for row in rows] == [["O", "B-PER", "O", "O", "O"], ["O", "B-LOC"]]


def test_universal_dependencies_give_parts_of_speech(tmp_path: Path):
    lines = ["# text = vámonos al mar", "1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_"]
    lines += [f"{n}\t{word}\t_\t{tag}\tX\t_\t0\tdep\t_\tSpaceAfter=No"
              for n, word, tag in ((1, "vamos", "VERB"), (2, "nos", "PRON"), (3, "a", "ADP"))]  # fmt: skip
    lines += ["3.1\tel\t_\tDET\t_\t_\t_\t_\t_\t_"]
    (tmp_path / "a.conllu").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows, errors, _ = read_file(tmp_path / "a.conllu", TokenClassification.columns)
    assert not errors
    assert rows[0].fields == {"tokens": ["vamos", "nos", "a"], "tags": ["VERB", "PRON", "ADP"]}


FEATURES = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_dict({"text": ["fine", "dull"], "label": [1, 0]}, features=FEATURES)
    table.save_to_disk(folder / "one", num_shards=2)
    datasets.DatasetDict({"train": table, "validation": table.select([0])}).save_to_disk(folder / "several")
    table.to_parquet(folder / "a.parquet")
    return folder


@pytest.mark.parametrize("name", ["one", "several", "several/train", "a.parquet", "one/data-00000-of-00002.arrow"])
def test_what_datasets_saves_with_the_names_of_its_classes(name: str, saved: Path):
    rows, errors, _ = read_file(saved / name)
    assert not errors and pairs(rows) == [("fine", "pos"), ("dull", "neg")][: len(rows)]
    assert len(rows) == (1 if "00002" in name else 2)


def test_splits_of_what_datasets_saves(saved: Path):
    assert pairs(read_file(saved / "several", split="validation")[0]) == [("fine", "pos")]
    _, (problem,), _ = read_file(saved / "several", split="test")
    assert '"validation"' in problem.found and "several/train" in problem.fix


def test_a_folder_with_the_files_of_several_splits(tmp_path: Path):
    """As the hub lays them out: of each split its own files; where it cannot be told, none."""
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001", "dev"):
        (tmp_path / "data" / f"{name}.jsonl").write_text(f'{{"text": "{name}", "label": "pos"}}\n')
    rows = {split: read_file(tmp_path / "data", split=split)[0] for split in ("train", "validation", "test")}
    assert [row.fields["text"] for row in rows["train"]] == ["train-00000-of-00002", "train-00001-of-00002"]
    assert [len(rows["validation"]), len(rows["test"])] == [1, 1]
    (tmp_path / "data" / "dev.jsonl").unlink()
    assert read_file(tmp_path / "data", split="validation")[1][0].kind == "splits in one folder"
    (tmp_path / "data" / "more.jsonl").write_text('{"text": "x", "label": "pos"}\n')
    assert read_file(tmp_path / "data")[1][0].kind == "splits in one folder"
    assert read_file(tmp_path)[1][0].fix.endswith("/data")


def picture() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(file, "PNG")
    return file.getvalue()


def recording(wave: np.ndarray, kind: str = "WAV", coding: str | None = None, rate: int = 16_000) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=coding)
    return file.getvalue()


WAVE = (0.3 * np.sin(np.arange(16_000) / 20)).astype(np.float32)


@pytest.mark.parametrize("form", ["struct", "bytes"])
def test_pictures_and_sound_inside_parquet(form: str, tmp_path: Path):
    import pyarrow.parquet as pq

    def held(content: bytes, name: str) -> Any:
        return {"bytes": content, "path": name} if form == "struct" else content

    pq.write_table(
        pa.Table.from_pylist([{"image": held(picture(), "a.png"), "captions": ["grey"]}]), tmp_path / "a.parquet"
    )
    (row,), errors, _ = read_file(tmp_path / "a.parquet", ImageCaptioning.columns)
    assert not errors and images.read(row.fields["image"]).size == (8, 8)
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "a.jsonl").write_text('{"image": "a.png", "captions": ["grey"]}\n')
    (other,), _, _ = read_file(tmp_path / "a.jsonl", ImageCaptioning.columns)
    assert row.key == other.key, "the same picture and captions are the same row, wherever they lie"
    sounds = [{"audio": held(recording(WAVE), "a.wav"), "text": "a"}, {"audio": held(b"", "b.wav"), "text": "b"}]
    pq.write_table(pa.Table.from_pylist(sounds), tmp_path / "b.parquet")
    (row,), (problem,), _ = read_file(tmp_path / "b.parquet", SpeechRecognition.columns)
    assert np.allclose(audio.read(row.fields["audio"]).wave, WAVE, atol=1e-4)
    assert problem.kind == "empty file" and "b.parquet:2" in problem.where


def test_a_data_set_of_the_hub_with_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    features = datasets.Features({"image": datasets.Image(), "captions": datasets.Sequence(datasets.Value("string"))})
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": picture(), "path": None}], "captions": [["grey"]]}, features
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: table)
    rows, problems = read(DataSource("hub:someone/pictures"), ImageCaptioning.columns, {})
    assert not problems and images.read(rows[0].fields["image"]).size == (8, 8)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x7FFFF024, 0xFFFFFFFF])
@pytest.mark.parametrize("coding", ["PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW", "GSM610"])
def test_sound_written_into_a_pipe_of_any_coding(size: int, coding: str, tmp_path: Path):
    content = recording(WAVE[:8000], "WAV", coding, 8000)
    whole = content if not size % 2 else None
    at = content.find(b"data") + 4
    piped = content[:4] + size.to_bytes(4, "little") + content[8:at] + size.to_bytes(4, "little") + content[at + 4 :]
    for number, one in enumerate(filter(None, (piped, whole))):
        (tmp_path / f"{number}.wav").write_bytes(one)
        heard = audio.read(tmp_path / f"{number}.wav").wave[: len(WAVE[:8000])]
        assert np.corrcoef(heard, WAVE[: len(heard)])[0, 1] > 0.98 and len(heard) >= 7840


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64"])
def test_sound_in_other_containers(kind: str, tmp_path: Path):
    (tmp_path / "a").write_bytes(recording(WAVE, kind))
    assert np.corrcoef(audio.read(tmp_path / "a").wave[:16_000], WAVE)[0, 1] > 0.98


@pytest.mark.parametrize(("at", "value"), [(24, 0), (24, 2**32 - 1), (22, 0), (34, 0), (20, 0), (16, 2**32 - 1)])
def test_a_wav_header_that_lies_is_refused(at: int, value: int, tmp_path: Path):
    content = bytearray(recording(WAVE))
    width = 4 if at in (16, 24) else 2
    content[at : at + width] = (value & 2 ** (8 * width) - 1).to_bytes(width, "little")
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(audio.Unreadable):
        audio.read(tmp_path / "a.wav")


def test_paths_of_media(tmp_path: Path):
    """An absolute path that lies below the data file's folder is one; a pipe, and a link that leads out, are none."""
    inside, outside = tmp_path / "data", tmp_path / "other.png"
    inside.mkdir()
    (inside / "a.png").write_bytes(picture())
    outside.write_bytes(picture())
    (inside / "link.png").symlink_to(outside)
    (inside / "inner.png").symlink_to("a.png")
    os.mkfifo(inside / "pipe.png")
    names = [str(inside / "a.png"), "inner.png", "link.png", str(outside), "../other.png", "pipe.png", ".", "\0.png"]
    lines = [json.dumps({"image": name, "captions": ["grey"]}) + "\n" for name in names]
    (inside / "a.jsonl").write_text("".join(lines))
    rows, errors, _ = read_file(inside / "a.jsonl", ImageCaptioning.columns)
    assert [row.line for row in rows] == [1, 2] and sorted({p.where[-1] for p in errors}) == list("345678")
    assert any("named pipe" in str(p) for p in errors) and isinstance(rows[0].fields["image"], Media)
    (inside / "a.png").unlink()
    (inside / "a.png").symlink_to(outside)  # swapped after it was checked
    with pytest.raises(images.Unreadable, match=r"leads out|symbolic"):
        images.read(rows[0].fields["image"])


@pytest.mark.parametrize(
    ("rows", "columns", "hints"),
    [
        ([{"id": str(i), "review": f"a film {i}", "rating": str(i % 2)} for i in range(6)], COLUMNS,
         {"text": "{text: review}", "label": "{label: rating}"}),
        ([{"id": i, "words_of_it": f"a long film {i}", "good": i % 2} for i in range(6)], COLUMNS,
         {"text": "{text: words_of_it}", "label": "{label: good}"}),
        ([{"id": f"{i}", "article": "x y", "highlights": "x"} for i in range(3)],
         [Column("document"), Column("summary", label=True)],
         {"document": "{document: article}", "summary": "{summary: highlights}"}),
        ([{"number": 7}] * 3, [Column("text")], {"text": "{text: NAME}"}),
        ([{"sentence_id": "s1", "tokens": ["a"], "ner_tags": ["O"]}] * 3,
         [Column("tokens", "words"), Column("tags", "tags", label=True)], {"tags": "{tags: ner_tags}"}),
    ],
)  # fmt: skip
def test_a_missing_column_is_looked_for_by_name_and_by_what_it_holds(rows, columns, hints: dict, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, errors, _ = read_file(tmp_path / "a.jsonl", columns)
    assert {error.field: error.fix[error.fix.index("{") :] for error in errors} == hints
