"""`keeltune init`: what rows are for is told from them, and the recipe that is written passes check as it stands."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from keeltune import recipe
from keeltune.cli import first_recipe
from keeltune.cli import init as verb
from keeltune.data.recognition import Recognised, recognised
from keeltune.tasks.common.language import Language
from keeltune.utils import registry
from tests.helpers.command import keeltune
from tests.helpers.families import FAMILIES
from tests.helpers.runs import make_data, write_rows

TALK = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At noon."}]
LONG = "The board met on Monday and discussed the budget of the coming year in every detail, until late at night."


def rows(*made: dict[str, Any], times: int = 6) -> list[dict[str, Any]]:
    """The rows, over and over, each text another one."""
    every = []
    for number in range(times):
        for row in made:
            every.append({k: f"{v} {number}" if isinstance(v, str) and len(v) > 12 else v for k, v in row.items()})
    return every


PEOPLE = {
    "billing or not": (
        rows({"ticket": "I was charged twice", "queue": "billing"}, {"ticket": "It does not start", "queue": "tech"}),
        "text-classification", {"text": "ticket", "label": "queue"},
    ),
    "stars": (
        rows({"review_body": "Came broken by post", "stars": 1}, {"review_body": "All as it should be", "stars": 5}),
        "text-classification", {"text": "review_body", "label": "stars"},
    ),
    "feelings": (
        rows({"text": "Lost my bag once more", "airline_sentiment": "negative"},
             {"text": "They were early today", "airline_sentiment": "positive"}),
        "sentiment-analysis", {"text": "text", "label": "airline_sentiment"},
    ),
    "intents of few rows each": (
        [{"utterance": f"please do number {n}", "label": f"intent {n}"} for n in range(30)],
        "text-classification", {"text": "utterance", "label": "label"},
    ),
    "numbers": (
        [{"text": f"house number {n}", "label": n * 37 % 101} for n in range(90)], "regression",
        {"text": "text", "target": "label"},
    ),
    "means under a name of their own": (
        [{"review": f"film number {n} is long", "stars_mean": f"{1 + n * 37 % 101 / 26:.2f}"} for n in range(60)],
        "regression", {"text": "review", "target": "stars_mean"},
    ),
    "fractions beside classes": (
        [{"remark": f"they lost bag {n}", "kind": ("complaint", "praise")[n % 2], "certainty": 0.5 + n / 99}
         for n in range(40)],
        "text-classification", {"text": "remark", "label": "kind"},
    ),
    "similarities": (
        [{"genre": "news", "sentence1": f"a man sings number {n}", "sentence2": f"a man is singing {n}",
          "score": n % 11 / 2} for n in range(40)],
        "regression", {"text": "sentence1", "text_pair": "sentence2", "target": "score"},
    ),
    "feelings with a confidence": (
        [{"text": f"they lost bag {n}", "label": ("negative", "positive")[n % 2], "score": 0.5 + n / 99}
         for n in range(40)],
        "sentiment-analysis", {"text": "text", "label": "label"},
    ),
    "pairs of a hub's translation": (
        rows({"id": 1, "translation": {"en": "A dog runs over the lawn.", "de": "Ein Hund rennt über den Rasen."}}),
        "translation", {"source": "translation.en", "target": "translation.de"},
    ),
    "pairs with a key called as Indonesian is": (
        [{"id": f"{n:024x}", "translation": {"en": f"A dog runs over {n} lawns.", "de": f"Ein Hund rennt über {n}."}}
         for n in range(9)],
        "translation", {"source": "translation.en", "target": "translation.de"},
    ),
    "pairs beside a key in columns of their own": (
        [{"id": f"{n:024x}", "en": f"A dog runs over {n} lawns.", "de": f"Ein Hund rennt über {n}."} for n in range(9)],
        "translation", {"source": "en", "target": "de"},
    ),
    "keys longer than the texts": (
        [{"uuid": f"{n:032x}", "says": f"play song {n}", "wants": ("music", "news")[n % 2]} for n in range(20)],
        "text-classification", {"text": "says", "label": "wants"},
    ),
    "alpaca": (
        rows({"instruction": "Name a large river.", "input": "", "output": "The Amazon, in Brazil."}),
        "text-generation", {"instruction": "instruction", "output": "output"},
    ),
    "openai": (rows({"messages": TALK}), "text-generation", {"messages": "messages"}),
    "sharegpt": (
        rows({"conversations": [{"from": "human", "value": "When?"}]}), "text-generation",
        {"conversations": "conversations"},
    ),
    "news": (
        rows({"article": LONG, "highlights": "Budget discussed"}), "summarization",
        {"document": "article", "summary": "highlights"},
    ),
    "squad": (
        rows({"id": "a", "question": "Who met on Monday?", "context": LONG,
              "answers": {"text": ["The board"], "answer_start": [0]}}),
        "question-answering", {"question": "question", "context": "context", "answers": "answers"},
    ),
    "roles": (
        rows({"words": ["I", "run"], "predicate": 1, "tags": ["B-A0", "B-V"]}), "semantic-role-labeling",
        {"tokens": "words", "tags": "tags", "predicate_index": "predicate"},
    ),
    "entities": (
        rows({"id": "1", "tokens": ["In", "Oslo"], "pos_tags": [3, 2], "ner_tags": [0, 5]}), "token-classification",
        {"tokens": "tokens", "tags": "ner_tags"},
    ),
    "parts of speech": (
        rows({"words": ["In", "Oslo"], "upos": ["ADP", "PROPN"]}), "token-classification",
        {"tokens": "words", "tags": "upos"},
    ),
    "voices": (
        rows({"path": "clips/a.mp3", "sentence": "Good morning to you"}), "speech-recognition",
        {"audio": "path", "text": "sentence"},
    ),
    "photos": (
        rows({"file_name": "a.jpg", "caption": "A dog on a lawn in the sun"}), "image-captioning",
        {"image": "file_name", "captions": "caption"},
    ),
    "photos with classes": (rows({"file_name": "a.jpg", "species": 3}), None, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", PEOPLE)
def test_what_people_have_is_recognised(name):
    given, task, columns = PEOPLE[name]
    (best, *_) = recognised(given)
    assert (best.task, dict(best.columns)) == (task, columns)


@pytest.mark.parametrize("task", FAMILIES)
def test_rows_as_the_tasks_have_them_are_theirs(task, tmp_path):
    FAMILIES[task].write(tmp_path / "rows.jsonl")
    given = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    found = next(one for one in recognised(given) if one.task is not None)
    assert found.task == ("sentiment-analysis" if task == "text-classification" else task)
    assert found.renamed == {}
    required = {column.name for column in registry.find("tasks", task).columns if column.required}
    assert required <= set(found.columns)


def test_a_recipe_that_passes_check(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(make_data(tmp_path))
    assert keeltune(monkeypatch, "init", "train.jsonl", "--model", tiny("bert"), "--yes") == 0
    assert "next: keeltune check recipe.yaml" in capsys.readouterr().out
    written = recipe.load("recipe.yaml")
    assert (written.task, written.method) == ("sentiment-analysis", "fine-tuning")
    assert (written.data.validation, written.data.test) == ("validation.jsonl", "test.jsonl")
    assert (tmp_path / "keeltune.schema.json").is_file()
    assert keeltune(monkeypatch, "check", "recipe.yaml") == 0
    capsys.readouterr()
    assert keeltune(monkeypatch, "init", "train.jsonl", "--yes") == 2  # never over a recipe that is there
    assert "a file that is there" in capsys.readouterr().err


def test_one_file_alone_gives_a_share_and_what_it_calls_its_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = ["body;queue", *(f'"It is number {n}; again";{"tech" if n % 2 else "billing"}' for n in range(40))]
    Path("tickets.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert keeltune(monkeypatch, "init", "tickets.csv", "--yes") == 0
    written = recipe.load("recipe.yaml")
    assert (written.data.train, written.data.validation, written.data.test) == ("tickets.csv", 0.1, None)
    assert written.data.columns == {"text": "body", "label": "queue"}
    assert keeltune(monkeypatch, "init", "tickets.csv", "--task", "sentiment-analisys", "--output", "b.yaml") == 2
    assert 'did you mean "sentiment-analysis"' in capsys.readouterr().err


def test_a_name_from_elsewhere_is_understood(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("people.conll").write_text("Ann I-PER\nLee I-PER\nran O\n\nin O\nOslo I-LOC\n", encoding="utf-8")
    assert keeltune(monkeypatch, "init", "people.conll", "--task", "NER", "--yes") == 0
    assert capsys.readouterr().out.startswith("token-classification: tags has a tag for each word")
    assert recipe.load("recipe.yaml").task == "token-classification"
    assert keeltune(monkeypatch, "init", "people.conll", "--task", "dpo", "--output", "b.yaml") == 2
    assert "nearest: text-generation" in capsys.readouterr().err


def test_numbers_of_tags_ask_for_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "ner.jsonl", PEOPLE["entities"][0])
    assert keeltune(monkeypatch, "init", "ner.jsonl", "--yes") == 0
    assert "# labels: [O, B-PER, I-PER]" in Path("recipe.yaml").read_text(encoding="utf-8")


NAMES = {"two lines, as a spreadsheet's header has them": "Kind\nof it", "a word of YAML": "true", "a negation": "no"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_whatever_a_column_is_called_what_is_written_is_a_recipe(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [{"ticket": f"please do number {n} again", name: ("bug", "wish")[n % 2]} for n in range(20)]
    write_rows(tmp_path / "rows.jsonl", made)
    assert keeltune(monkeypatch, "init", "rows.jsonl", "--yes") == 0
    assert recipe.load("recipe.yaml").data.columns == {"text": "ticket", "label": name}


def test_languages_are_named_where_both_are_known_and_the_task_has_any(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "films.jsonl", PEOPLE["feelings"][0])
    assert keeltune(monkeypatch, "init", "films.jsonl", "--yes", "--model", "runs/nllb-films") == 0
    write_rows(tmp_path / "pairs.jsonl", [{"left_side": "Where is it?", "right_side": "Wo ist es?"}] * 6)
    called = ("init", "pairs.jsonl", "--yes", "--task", "translation")
    assert keeltune(monkeypatch, *called, "--output", "none.yaml") == 0
    named = ("--column", "source=left_side", "--column", "target=right_side", "--model", "facebook/nllb-200")
    assert keeltune(monkeypatch, *called, *named, "--output", "both.yaml") == 0
    found = [recipe.load(file).languages for file in ("recipe.yaml", "none.yaml", "both.yaml")]
    assert [one and (one.source, one.target) for one in found] == [None, None, ("en", "de")]


def test_a_column_of_dates_is_one_like_any_other(tmp_path):
    made = [{"text": f"it rained on {day}", "day": datetime.date(2026, 1, day)} for day in range(1, 9)]
    found = Recognised("text-classification", "as the call says", {"text": "text", "label": "day"})
    assert "columns: {label: day}" in first_recipe.text(found, {"train": "rows.parquet"}, made, folder=tmp_path)


def test_rows_of_no_task_are_answered_with_what_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "photos.jsonl", PEOPLE["photos with classes"][0])
    assert keeltune(monkeypatch, "init", "photos.jsonl", "--yes") == 2
    said = capsys.readouterr().err
    assert "pictures are not classified" in said
    assert "species" in said
    assert not Path("recipe.yaml").exists()


def test_on_a_terminal_the_guess_is_asked(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(make_data(tmp_path))
    answers = iter(["nonsense", "text-classification", "text", "label"])
    monkeypatch.setattr(verb.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(verb.typer, "prompt", lambda *_, **__: next(answers))
    assert keeltune(monkeypatch, "init", "train.jsonl") == 0
    assert recipe.load("recipe.yaml").task == "text-classification"


def test_what_the_guess_found_besides_is_kept_by_who_presses_enter(tmp_path, monkeypatch):
    """A second text is asked for by no question, and the recipe has it all the same."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "pairs.jsonl", PEOPLE["similarities"][0])
    monkeypatch.setattr(verb.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(verb.typer, "prompt", lambda *_, default: default)
    assert keeltune(monkeypatch, "init", "pairs.jsonl") == 0
    assert recipe.load("recipe.yaml").data.columns == {"text": "sentence1", "text_pair": "sentence2", "target": "score"}


def test_a_first_value_is_shown_as_its_file_has_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "roles.jsonl", PEOPLE["roles"][0])
    assert keeltune(monkeypatch, "init", "roles.jsonl", "--yes") == 0
    said = capsys.readouterr().out
    assert '["I", "run"]' in said and "['I'" not in said


def test_the_language_is_that_of_the_texts_and_said_of_a_model_that_was_suggested(tmp_path, monkeypatch):
    """Of recordings not that of their names; of a model that the call names nothing is known."""
    monkeypatch.chdir(tmp_path)
    said = "你好，今天天气很好，我们一起去吧"
    voices = [{"path": f"clips/the good morning of a man {n}.mp3", "sentence": f"{said} {n}"} for n in range(9)]
    write_rows(tmp_path / "voices.jsonl", voices)
    assert keeltune(monkeypatch, "init", "voices.jsonl", "--yes") == 0
    assert "model: openai/whisper-base   # for zh; any model" in Path("recipe.yaml").read_text(encoding="utf-8")
    assert keeltune(monkeypatch, "init", "voices.jsonl", "--yes", "--model", "mine", "--output", "b.yaml") == 0
    assert "model: mine   # any model" in Path("b.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("task", "languages", "model"),
    [
        ("text-classification", {"text": "en"}, "distilbert/distilroberta-base"),
        ("question-answering", {"question": "zh-Hant"}, "google-bert/bert-base-chinese"),
        ("sentiment-analysis", {"text": "pl"}, "FacebookAI/xlm-roberta-base"),
        ("translation", {"source": "en", "target": "de"}, "Helsinki-NLP/opus-mt-en-de"),
        ("translation", {"source": "en", "target": "sw"}, "facebook/nllb-200-distilled-600M"),
        ("speech-recognition", {"audio": "en", "text": "de"}, "openai/whisper-base"),
        ("summarization", {"document": "en"}, "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_a_model_for_the_task_and_its_language(task, languages, model):
    assert first_recipe.suggested(task, {name: Language(code) for name, code in languages.items()}) == model
