"""The language of a run's scores: told once for each domain, kept with the run, and used again by `evaluate`."""

from __future__ import annotations

import json

import pytest

import keeltune as kt
from keeltune import recipe
from keeltune.runs.opened_model import tasks_of
from keeltune.training.preparation import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers.sentences import SENTENCES
from tests.helpers.writers import spec

QUIET = Display(quiet=True)


def rows(*codes: str) -> str:
    return "".join(json.dumps({"source": "a b", "target": SENTENCES[code]}) + "\n" for code in codes * 4)


def german_and_thai(folder):
    """A recipe that translates into German, and whose old domain is Thai."""
    given = spec(folder, "translation", "marian", "fine-tuning")
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text(rows("de", "de", "de"), encoding="utf-8")
    (folder / "thai.jsonl").write_text(rows("th", "th"), encoding="utf-8")
    given["data"] |= {"source": {"test": "thai.jsonl"}}
    given["training"] |= {"epochs": None, "max_steps": 1}
    return given


def test_each_domain_has_its_own_language_and_a_run_keeps_it(tmp_path, capsys):
    given = german_and_thai(tmp_path)
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    target, source = run.result["scoring"]["target"], run.result["scoring"]["source"]
    assert (target["language"], target["by"]) == ("de", "detected")
    assert (source["language"], source["by"]) == ("th", "detected")
    assert "tok:13a" in target["signatures"]["bleu"] and "tok:char" in source["signatures"]["bleu"]
    tasks = tasks_of(run.folder)
    assert [tasks[domain].settings.language.code for domain in ("target", "source")] == ["de", "th"]
    # the run's language, whatever the rows are in: here it does not fit, and that is said
    (tmp_path / "other.jsonl").write_text(rows("th"), encoding="utf-8")
    kt.evaluate(run.folder, tmp_path / "other.jsonl", display=Display())
    said = capsys.readouterr()
    assert "BLEU by 13a takes a sentence without spaces for one word" in " ".join((said.out + said.err).split())


def test_domains_are_named_where_there_are_two(tmp_path):
    given = german_and_thai(tmp_path)
    two = prepare.prepare(recipe.from_dict(given, tmp_path)).notices
    assert any(notice.startswith("the target domain's answers are scored in de") for notice in two)
    one = prepare.prepare(recipe.from_dict({**given, "data": {**given["data"], "source": {}}}, tmp_path)).notices
    assert any(notice.startswith("answers are scored in de") for notice in one)


def test_a_named_language_rules_and_a_wrong_name_is_refused(tmp_path):
    given = german_and_thai(tmp_path)
    given["evaluation"] = {**given.get("evaluation", {}), "language": "Dutch", "bleu_tokenizer": "intl"}
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["scoring"]["target"]["language"] == "nl" and run.result["scoring"]["target"]["by"] == "named"
    assert "tok:intl" in run.result["scoring"]["target"]["signatures"]["bleu"]
    given["evaluation"] = {"language": "the tongue of men", "bleu_tokenizer": "13b"}
    with pytest.raises(UserError) as refused:
        kt.train(recipe.from_dict({**given, "output": "other"}, tmp_path), display=QUIET)
    assert {p.field for p in refused.value.problems} == {"evaluation.language", "evaluation.bleu_tokenizer"}


def test_a_row_without_its_text_is_refused_as_such(tmp_path):
    given = german_and_thai(tmp_path)
    file = tmp_path / given["data"]["train"]
    file.write_text("{}\n" + file.read_text("utf-8"), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert {p.field for p in refused.value.problems} == {"source", "target"}
