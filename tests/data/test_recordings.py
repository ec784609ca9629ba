"""A folder of recordings is a data set as people keep it: texts beside them, or LJ Speech's list."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from keeltune import recipe
from keeltune.data import reading
from keeltune.data.sources import DataSource
from keeltune.tasks.speech_recognition import SpeechRecognition
from tests.helpers.command import keeltune


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """Three recordings, as they lie in a folder of their own."""
    (tmp_path / "voice").mkdir()
    for number, name in enumerate(("a", "b.1", "c")):
        with wave.open(str(tmp_path / "voice" / f"{name}.wav"), "wb") as sound:
            sound.setparams((1, 2, 16000, 0, "NONE", ""))
            sound.writeframes(bytes([number, 0]) * 1600)
    return tmp_path / "voice"


def read(path: Path, *, labelled: bool = True) -> tuple[list[tuple[str, str | None]], list[str]]:
    rows, problems = reading.read(DataSource(str(path)), SpeechRecognition.columns, {}, labelled=labelled)
    return [(str(row.fields["audio"]), row.fields.get("text")) for row in rows], [p.kind for p in problems]


def test_texts_beside_recordings_are_theirs(voice):
    (voice / "a.txt").write_text("\ufeffGood morning.\n", encoding="utf-8")
    (voice / "b.1.lab").write_text("Good evening.", encoding="utf-8")
    (voice / "c.txt").write_bytes(b"gr\xfcezi")
    assert read(voice) == ([("a.wav", "Good morning."), ("b.1.wav", "Good evening.")], ["not UTF-8"])
    assert [path.name for path in DataSource(str(voice)).files()] == ["a.txt", "b.1.lab", "c.txt"]


def test_recordings_without_texts_can_be_predicted_and_not_learnt(voice):
    assert [audio for audio, _ in read(voice, labelled=False)[0]] == ["a.wav", "b.1.wav", "c.wav"]
    assert [audio for audio, _ in read(voice / "b.1.wav", labelled=False)[0]] == ["b.1.wav"]
    rows, problems = read(voice)
    assert not rows and problems


@pytest.mark.parametrize("inside", ["wavs", "."])
@pytest.mark.parametrize("named", ["metadata.csv", "."])
def test_a_list_of_lj_speech_names_them(voice, inside, named):
    lines = ["a|It cost $5, he said.|It cost five dollars, he said.", "", 'b.1|"No," she said.|"No," she said.']
    (voice / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if inside != ".":
        (voice / inside).mkdir()
        for path in voice.glob("*.wav"):
            path.rename(voice / inside / path.name)
    beside = "" if inside == "." else f"{inside}/"
    expected = [(f"{beside}a.wav", "It cost $5, he said."), (f"{beside}b.1.wav", '"No," she said.')]
    assert read(voice / named) == (expected, [])


def test_a_table_with_a_header_rules_where_there_is_one(voice):
    (voice / "a.txt").write_text("not this", encoding="utf-8")
    (voice / "list.jsonl").write_text('{"audio": "a.wav", "text": "this"}\n', encoding="utf-8")
    assert read(voice) == ([("a.wav", "this")], [])


def test_init_knows_them(voice, monkeypatch, capsys):
    monkeypatch.chdir(voice.parent)
    assert keeltune(monkeypatch, "init", "voice", "--yes") == 2
    assert "no column says what is said in them" in capsys.readouterr().err
    for path in voice.glob("*.wav"):
        path.with_suffix(".txt").write_text("Good morning to you all.", encoding="utf-8")
    assert keeltune(monkeypatch, "init", "voice", "--yes") == 0
    assert recipe.load("recipe.yaml").task == "speech-recognition"
