"""Texts on a page: those of the very rows that were scored, escaped, cut and bounded, or a word why there are none."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import pytest

from keeltune import recipe
from keeltune.data.dataset import Row
from keeltune.data.media import Media
from keeltune.reports import run_page
from keeltune.reports.differences import Piece
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.row_view import ASKED, PICTURE, SIDE, Viewer
from keeltune.reports.sections.confusions import pairs
from keeltune.reports.sections.outputs import from_worst_to_best
from keeltune.runs import run, run_folder
from keeltune.tasks.image_captioning import ImageCaptioning
from keeltune.tasks.question_answering import QuestionAnswering
from keeltune.tasks.semantic_role_labeling import SemanticRoleLabeling
from keeltune.tasks.sentiment_analysis import SentimentAnalysis
from keeltune.tasks.speech_recognition import SpeechRecognition
from keeltune.tasks.summarization import Summarization
from keeltune.tasks.text_generation import TextGeneration
from tests.helpers.pages import Page, check_page
from tests.helpers.runs import QUIET, lines, make_data, spec_of, write_rows

HOSTILE = ["<script>alert(1)</script>", '" onload="x', "\u202etxt.exe", "a\x1b[31mb", "{{ 7*7 }}", "hf_" + "a" * 30]


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> run_folder.Run:
    """A run whose texts would do harm, tested against a model that was there before."""
    folder = make_data(tmp_path_factory.mktemp("texts"))
    for name in ("train", "validation", "test"):
        rows = lines(folder / f"{name}.jsonl")
        write_rows(
            folder / f"{name}.jsonl",
            [{**row, "text": f"{row['text']} {HOSTILE[i % len(HOSTILE)]} {i}"} for i, row in enumerate(rows)],
        )
    return run.train(recipe.from_dict(spec_of("fine-tuning", tiny("bert")), folder), display=QUIET)


def page_of(finished: run_folder.Run, folder: Path | None = None) -> str:
    return run_page.page(folder or finished.folder, finished.result)


def copied(finished: run_folder.Run, folder: Path) -> run_folder.Run:
    """The run with its data, in a folder of its own."""
    shutil.copytree(finished.folder.parent, folder, ignore=shutil.ignore_patterns("model", "checkpoints", ".cache"))
    return run_folder.Run(folder / finished.folder.name, finished.result)


def test_the_surest_mistakes_are_shown_with_their_texts_first_the_surest(finished):
    wrong = [line for line in lines(finished.folder / "predictions" / "test.jsonl") if line["score"] < 1]
    wrong.sort(key=lambda line: -max(line["probabilities"].values()))
    texts = {i: row["text"] for i, row in enumerate(lines(finished.folder.parent / "test.jsonl"), 1)}
    assert wrong
    html = page_of(finished)
    page = check_page(html)
    part = page.text[page.text.index("Surest mistakes") :]
    words = {row: " ".join(text.split(" ")[:2]) for row, text in texts.items()}
    found = [part.index(words[line["row"]]) for line in wrong]
    for line in wrong:
        assert f"predicted {max(line['probabilities'].values()):.3f}" in part
        assert f"row {line['row']}" in part
    assert len(found) == len(wrong)


def test_hostile_texts_stay_text(finished):
    html = page_of(finished)
    page = check_page(html)
    assert "<script" not in html
    assert not {"\u202e", "\x1b"} & set(html)
    assert "hf_" + "a" * 30 not in html
    shown = page.text
    assert (
        sum(word in shown for word in ("<script>alert(1)</script>", '" onload="x', "\\u202etxt.exe", "{{ 7*7 }}")) >= 2
    )


def test_texts_that_the_recipe_leaves_out_are_not_there(finished, tmp_path):
    other = copied(finished, tmp_path / "a")
    file = other.folder / "recipe.yaml"
    assert "texts: true" in file.read_text()
    file.write_text(file.read_text().replace("texts: true", "texts: false"))
    page = check_page(page_of(other))
    assert "The texts are not shown: the recipe leaves them out (report.texts: false)." in page.text
    for row in lines(other.folder.parent / "test.jsonl"):
        assert row["text"][:12] not in page.text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda file: file.write_text(file.read_text() + '{"text": "new", "label": "positive"}\n'), "is not the file"),
        (lambda file: file.write_text(file.read_text().replace("negative", "nogative")), "is not the file"),
        (lambda file: file.unlink(), "not there any more"),
    ],
)
def test_files_that_are_others_by_now_are_not_read(finished, tmp_path, change, why):
    other = copied(finished, tmp_path / "a")
    assert FinishedRun(other.folder, other.result).rows("test").missing is None
    change(other.folder.parent / "test.jsonl")
    html = page_of(other)
    assert why in check_page(html).text
    assert "nogative" not in html


def test_a_row_is_known_by_its_key(finished):
    rows = FinishedRun(finished.folder, finished.result).rows("test")
    first, second = lines(finished.folder / "predictions" / "test.jsonl")[:2]
    assert rows.row(first).fields["text"] == lines(finished.folder.parent / "test.jsonl")[0]["text"]
    assert rows.row({**first, "key": second["key"]}) is None
    assert rows.row({**first, "row": 10_000}) is None


def test_a_share_of_the_training_rows_is_found_among_them(tiny, tmp_path):
    folder = make_data(tmp_path)
    spec = spec_of("fine-tuning", tiny("bert"))
    spec["data"] = {"train": "train.jsonl", "validation": 0.5}
    done = run.train(recipe.from_dict(spec, folder), display=QUIET)
    finished_run = FinishedRun(done.folder, done.result)
    assert finished_run.scored_split == "validation"
    scored = lines(done.folder / "predictions" / "validation.jsonl")
    texts = [row["text"] for row in lines(folder / "train.jsonl")]
    for line in scored:
        assert finished_run.rows("validation").row(line).fields["text"] == texts[line["row"] - 1]


def test_rows_lost_and_won_are_shown_with_both_answers(tiny, tmp_path):
    folder = make_data(tmp_path)
    spec = spec_of("fine-tuning", tiny("bert"))
    spec["data"] |= {"source": {"test": "old.jsonl"}}
    done = run.train(recipe.from_dict(spec, folder), display=QUIET)
    other = {"positive": "negative", "negative": "positive"}
    for split in ("source", "test"):  # a model that answered every third row otherwise
        file = done.folder / "predictions" / "before" / f"{split}.jsonl"
        after = lines(done.folder / "predictions" / f"{split}.jsonl")
        turned = [{**line, "prediction": other[line["prediction"]], "score": 1 - line["score"]} for line in after]
        write_rows(file, [turned[i] if i % 3 == 0 else line for i, line in enumerate(after)])
    page = check_page(run_page.page(done.folder, done.result))
    for split, file, name in (("source", "old.jsonl", "source domain"), ("test", "test.jsonl", "test")):
        before, after = (lines(done.folder / "predictions" / part / f"{split}.jsonl") for part in ("before", ""))
        texts = [row["text"] for row in lines(folder / file)]
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old["score"] != new["score"]]
        assert changed, split
        lost = [new for old, new in changed if old["score"] > new["score"]]
        won = [new for old, new in changed if old["score"] < new["score"]]
        for many, said in ((lost, "answered well before and badly now"), (won, "answered badly before and well now")):
            if many:
                assert f"{name}: {said} ({min(5, len(many))} of {len(many)} rows)" in page.text
        assert sum(texts[new["row"] - 1] in page.text for _, new in changed) >= min(5, len(changed))


# One row


def row(**fields) -> Row:
    return Row(fields, "f.jsonl", 1, "k")


def line(**values) -> dict:
    return {"row": 1, "key": "k", "score": 0.0} | values


def texts(pieces: list[Piece], *kinds: str) -> list[str]:
    return [piece.text for piece in pieces if piece.kind in kinds]


def test_answers_are_marked_in_their_passage_and_a_long_one_is_cut_around_them():
    context = "x " * 2000 + "the cat sat on the mat in 1990 and slept " + "y " * 2000
    start = context.index("1990")
    asked = row(question="When?", context=context, answers={"text": ["1990"], "answer_start": [start]})
    view = Viewer(QuestionAnswering).view(line(gold=["1990"], prediction="in 1990 and"), asked)
    question, passage = view.asked
    assert question == [Piece("When?")]
    assert texts(passage, "right answer") == ["1990"]
    assert texts(passage, "answer") == ["in ", " and"]
    assert passage[0].text == passage[-1].text == "… "
    assert sum(len(piece.text) for piece in passage) <= ASKED
    again = Viewer(QuestionAnswering).view(line(gold=[], prediction=""), row(question="q", context="c", answers={}))
    assert [piece.text for piece in again.answer] == ["–"]


def test_a_right_answer_is_marked_where_it_is_and_not_where_it_is_first():
    context = "1990 was long ago; it was born in 1990."
    told = {"text": ["1990"], "answer_start": [context.rindex("1990")]}
    view = Viewer(QuestionAnswering).view(
        line(gold=["1990"], prediction="1990"), row(question="q", context=context, answers=told)
    )
    assert [(piece.text, piece.kind) for piece in view.asked[1]] == [
        ("1990 was long ago; it was born in ", ""), ("1990", "right answer"), (".", ""),
    ]  # fmt: skip


def test_spans_are_shown_with_their_roles_and_errors():
    words = ["We", "lived", "here", "for", "2", "years"]
    gold = ["B-ARG0", "B-V", "B-LOC", "B-TMP", "I-TMP", "I-TMP"]
    found = ["B-ARG0", "B-V", "O", "B-TMP", "I-TMP", "O"]
    view = Viewer(SemanticRoleLabeling).view(
        line(gold=gold, prediction=found), row(tokens=words, predicate_index=1, tags=gold)
    )
    assert [(p.text, p.kind, p.label) for p in view.right if p.label] == [
        ("We", "found", "ARG0"), ("lived", "found", "V"), ("here", "missing", "LOC"), ("for 2 years", "missing", "TMP"),
    ]  # fmt: skip
    assert [(p.text, p.kind, p.label) for p in view.answer if p.label] == [
        ("We", "found", "ARG0"), ("lived", "found", "V"), ("for 2", "added", "TMP"),
    ]  # fmt: skip
    for pieces in (view.right, view.answer):
        assert "".join(piece.text for piece in pieces) == " ".join(words)


def test_a_transcript_is_aligned_as_wer_compares_it():
    view = Viewer(SpeechRecognition, "en").view(
        line(gold="The cat, sat.", prediction="the bat sat down"), row(audio="a")
    )
    assert view.errors == (1, 0, 1)
    assert [(p.text.strip(), p.kind) for p in view.both] == [
        ("the", ""), ("cat", "missing"), ("bat", "added"), ("sat", ""), ("down", "added"),
    ]  # fmt: skip
    chinese = Viewer(SpeechRecognition, "zh").view(line(gold="我喜欢猫", prediction="我喜欢狗"), None)
    assert chinese.errors == (1, 0, 0)


def test_a_written_text_is_held_against_the_nearest_of_its_references():
    document = row(document="a long text", summary="one")
    view = Viewer(Summarization).view(line(gold=["dogs bark", "the cat sat"], prediction="the cat sits"), document)
    assert "".join(p.text for p in view.right) == "the cat sat"
    assert texts(view.right, "missing") == ["sat"]
    assert texts(view.answer, "added") == ["sits"]
    assert view.references == 2
    assert view.asked == [[Piece("a long text")]]


def test_a_conversation_is_shown_up_to_its_last_answer():
    said = [{"role": "user", "content": "hello?"}, {"role": "assistant", "content": "the answer"}]
    view = Viewer(TextGeneration).view(line(gold="the answer", prediction="an answer"), row(messages=said))
    assert view.asked == [[Piece("user: hello?")]]


def test_several_labels_and_numbers_are_named():
    viewer = Viewer(SentimentAnalysis)
    several = viewer.view(line(gold=["a", "b"], prediction=[], probabilities={"a": 0.2, "b": 0.1}), row(text="t"))
    assert ([p.text for p in several.right], [p.text for p in several.answer]) == (["a, b"], ["–"])
    assert several.confidence == 0.2
    assert [p.text for p in viewer.view(line(gold=1.23456, prediction=2.0), row(text="t")).right] == ["1.235"]


def test_a_picture_is_small_and_carries_nothing_else(tmp_path):
    image = pytest.importorskip("PIL.Image")
    picture = image.effect_noise((2000, 1000), 100).convert("RGB")
    exif = image.Exif()
    exif[0x010E] = "SECRET PLACE"
    picture.save(tmp_path / "a.jpg", exif=exif)
    media = Media("a.jpg")
    media.path = tmp_path / "a.jpg"
    viewer = Viewer(ImageCaptioning)
    view = viewer.view(line(gold=["a b", "c"], prediction="a"), row(image=media, captions=["a b", "c"]))
    assert view.picture.startswith("data:image/jpeg;base64,")
    content = base64.b64decode(view.picture.split(",")[1])
    assert len(content) <= PICTURE
    assert b"SECRET" not in content
    with image.open(io.BytesIO(content)) as small:
        assert max(small.size) <= SIDE
        assert small.size[0] == 2 * small.size[1]
    (tmp_path / "a.jpg").write_text("<svg onload=alert(1)>")
    assert viewer.view(line(gold=["a"], prediction="a"), row(image=media)).picture is None


# Which rows


def test_pairs_of_labels_are_counted_and_their_surest_row_is_the_example():
    def answered(gold: str, predicted: str, p: float, n: int) -> dict:
        return {"row": n, "gold": gold, "prediction": predicted, "probabilities": {predicted: p}}

    rows = [
        answered("a", "b", 0.5, 1),
        answered("b", "a", 0.9, 2),
        answered("a", "b", 0.8, 3),
        answered("a", "a", 1.0, 4),
    ]
    assert [(count, example["row"]) for count, example in pairs(rows)] == [(2, 3), (1, 2)]


def test_rows_are_chosen_from_the_worst_to_the_best():
    rows = [{"score": n / 100, "loss": 1.0, "predictions": 1.0} for n in range(101)]
    assert [row["score"] for row in from_worst_to_best(rows[::-1], 11)] == pytest.approx([n / 10 for n in range(11)])
    tied = [{"score": 0.0, "loss": float(n), "predictions": 2.0} for n in range(3)]
    assert [row["loss"] for row in from_worst_to_best(tied, 10)] == [2.0, 1.0, 0.0]


# The whole page


def test_a_page_is_bounded_however_large_its_parts_are(finished, tmp_path):
    other = copied(finished, tmp_path / "a")
    long = "<&\u202e" * 400_000
    rows = [{**one, "text": f"{long} {i}"} for i, one in enumerate(lines(other.folder.parent / "test.jsonl"))]
    write_rows(other.folder.parent / "test.jsonl", rows)
    result = json.loads(json.dumps(other.result))
    for split in ("train", "validation"):
        result["audit"]["splits"][split]["labels"] = {f"{long[:1000]} {n}": n + 1 for n in range(15)}
    result["metrics"]["test"]["by_label"] = {
        f"{'x' * 500} {n}": {"precision": 0, "recall": 0, "f1": 0, "rows": 1} for n in range(20_000)
    }
    html = run_page.page(other.folder, result)
    assert len(html.encode()) < (run_page.MOST + 0.1) * 2**20
    assert "The section Labels is left out: the page would be larger than 4 MiB." in check_page(html).text


def test_no_text_is_without_its_end_mark(finished):
    assert Page(page_of(finished)).open == []
