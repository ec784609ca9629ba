"""Transcripts as WER compares them: by our own rules, and by Whisper's own normaliser."""

from __future__ import annotations

import json

import pytest
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

import keeltune as kt
from keeltune import recipe
from keeltune.tasks.common.language import Language
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.common.spoken_text import SpokenText
from keeltune.tasks.metrics.character_error_rate import CharacterErrorRate
from keeltune.tasks.metrics.word_error_rate import WordErrorRate
from keeltune.training.preparation import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import speakers, whispers, writers

TABLE = {"colour": "color", "grey": "gray"}
SAID = "Mister Smith paid twenty-two pounds for the grey one; he's, um, won't say which colour."
WRITTEN = "Mr. Smith paid £22 for the gray one. He's won't say which color!"


def settings(language: str = "en", **others: object) -> Settings:
    return Settings(normalizer="whisper", language=Language(language), **others)  # type: ignore[arg-type]


def wer(chosen: Settings, value: str, gold: str) -> float:
    metric = WordErrorRate(chosen)
    return float(metric.scores(metric.statistics([value], [gold])[0])["wer"])


@pytest.mark.parametrize("table", [TABLE, None])
def test_english_is_what_whispers_own_normaliser_leaves(table):
    normalise, own = SpokenText(settings(spellings=table)), EnglishTextNormalizer(table or {})
    for text in (SAID, WRITTEN, "", "[laughter] Forty-three per cent, 1,000 Dr. Who"):
        assert normalise(text, "en") == own(text).strip()
    assert ("no normalizer.json" in normalise.name(Language("en"))) == (table is None)


def test_numbers_and_spellings_are_no_errors_where_the_recipe_says_so():
    assert wer(settings(spellings=TABLE), WRITTEN, SAID) == 0
    assert wer(settings(), WRITTEN, SAID) == pytest.approx(2 / 14, abs=0.05)  # grey and colour alone
    assert wer(Settings(language=Language("en")), WRITTEN, SAID) > 0.3


@pytest.mark.parametrize(
    ("language", "text"),
    [("de", "Zwanzig Äpfel, [Lachen] größer – als drei!"), ("fr", "L’été, déjà…"), ("hi", "नमस्ते, दुनिया!")],
)  # fmt: skip
def test_other_languages_are_what_the_basic_one_leaves(language, text):
    normalise = SpokenText(settings(language, spellings=TABLE))
    assert normalise(text, language) == " ".join(BasicTextNormalizer()(text).split())
    assert "other languages" in normalise.name(Language(language))


def test_scripts_without_spaces_have_a_character_for_a_word():
    assert wer(settings("zh"), "我认为好", "我認为，好。") == 1 / 4


def test_result_and_signature_name_it():
    for metric in (WordErrorRate(settings(spellings=TABLE)), CharacterErrorRate(settings(spellings=TABLE))):
        assert "Whisper's English" in metric.signature
        assert "Whisper's English" in metric.details(metric.statistics([WRITTEN], [SAID])[0])["normaliser"]


def test_a_run_says_which_and_its_model_keeps_the_table(tmp_path):
    whispers.save(tmp_path / "student")
    (tmp_path / "student" / "normalizer.json").write_text(json.dumps(TABLE))
    speakers.write(tmp_path, "rows.jsonl", range(4))
    spec = {"task": "speech-recognition", "method": "fine-tuning", "model": "student", "output": "out",
            "data": {"train": "rows.jsonl", "test": "rows.jsonl"}, "training": {"max_steps": 1},
            "evaluation": {"normalizer": "whisper"}, "generation": {"max_new_tokens": 4}}  # fmt: skip
    run = kt.train(recipe.from_dict(spec, tmp_path), display=Display(quiet=True))
    assert "Whisper's English" in run.result["metrics"]["test"]["normaliser"]
    assert "no normalizer.json" not in run.result["metrics"]["test"]["normaliser"]
    assert "normalised: Whisper&#39;s English" in (run.folder / "report.html").read_text()
    assert json.loads((run.model / "normalizer.json").read_text()) == TABLE


def test_it_is_refused_where_nothing_is_transcribed(tmp_path):
    given = writers.spec(tmp_path, "translation", "marian", "fine-tuning") | {"evaluation": {"normalizer": "whisper"}}
    with pytest.raises(UserError, match="neither WER nor CER"):
        prepare.prepare(recipe.from_dict(given, tmp_path))
