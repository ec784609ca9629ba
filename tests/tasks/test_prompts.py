"""Prompts in braces: names are read from the prompt, never from the data, and each is a column of the input."""

from __future__ import annotations

from typing import Any

import pytest

from keeltune.data.dataset import Row
from keeltune.tasks.common.prompt import Prompt
from keeltune.utils.errors import UserError
from tests.helpers.writers import writer


def task_with(prompt: str, architecture: str = "gpt2", task: str = "summarization", **settings: Any) -> Any:
    return writer(architecture, task=task, prompt=prompt, **settings)[1]


def row(**fields: Any) -> Row:
    return Row({"document": "the film", "summary": "SECRET", **fields}, "rows.jsonl", 3, "k")


def read(task: Any, given: Row) -> str:
    (example,) = task.encode(given)
    ids = example.notes["prompt"]["input_ids"] if "prompt" in example.notes else example.inputs["input_ids"]
    return task.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("architecture", ["gpt2", "t5", "bart"])
def test_a_prompt_is_what_the_model_reads(architecture):
    """An encoder-decoder too: T5's own recipe is `summarize: {document}`."""
    task = task_with("dull: {document} in {style} {year}", architecture)
    assert read(task, row(style="short", year=5)) == "dull: the film in short 5"
    assert task_with("dull: {source} it", architecture).recipe_faults()  # the column has a name
    long = task_with("dull: {document} ->", architecture, max_length=40)
    text = read(long, row(document="dull film " * 60))
    assert text.startswith("dull: dull film")
    assert text.endswith("->")


def test_a_document_that_holds_names_is_text():
    """Its braces would put the answer into the input."""
    evil = "{summary} {document} {{x}} {0} {} {document.__class__}"
    assert read(task_with("say {document}:"), row(document=evil)) == f"say {evil}:"
    _, plain = writer("gpt2", task="summarization")
    assert read(plain, row(document=evil)) == f"Summarize the following text.\n\n{evil}\n\nSummary:"
    assert "SECRET" not in read(plain, row(document=evil))
    same = row(document="short", style="short")  # a column that holds what the document holds
    assert read(task_with("{style} {document}", max_length=40), same) == "short short"


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("{document} {summary}", "a label"),
        ("{document} {references}", "a label"),
        ("write: ", "no input"),
        ("write {style}", "no input"),
        ("{document} {", "not a name"),
        ("{document} }", "not a name"),
        ("{document!r}", "not a name"),
        ("{document:>10}", "not a name"),
        ("{document.title}", "not a name"),
        ("{document[0]}", "not a name"),
        ("{} {document}", "not a name"),
        ('{"text": {document}}', "not a name"),
    ],
)
def test_what_names_no_input_is_refused(prompt, kind):
    faults = task_with(prompt).recipe_faults()
    assert [fault.kind for fault in faults] == [kind]


def test_a_brace_written_twice_is_a_brace():
    task = task_with('{{"text": "{document}"}}')
    assert not task.recipe_faults()
    assert read(task, row()) == '{"text": "the film"}'
    assert Prompt.parse("{{}} {{a}} {b}").names == ["b"]


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_a_name_that_no_column_has_is_refused_with_the_nearest(architecture):
    task = task_with("{document} {stile}", architecture)
    with pytest.raises(UserError) as refused:
        task.encode(row(style="short"))
    (problem,) = refused.value.problems
    assert (problem.where, problem.field) == ("rows.jsonl:3", "prompt")
    assert 'did you mean "style"' in problem.expected
    assert "summary" not in problem.expected
    for value in (None, ["a"], {"a": 1}, True):
        with pytest.raises(UserError, match="hold text"):
            task_with("{document} {style}", architecture).encode(row(style=value))


def test_a_prompt_beside_conversations_and_for_rows_of_instructions():
    task = task_with("{prompt} =>", "llama", "text-generation")
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(UserError, match="one of them"):
        task.encode(Row({"messages": talk}, "rows.jsonl", 3, "k"))
    assert read(task, Row({"prompt": "is it", "completion": "bad"}, "f", 1, "k")) == "is it =>"
    alpaca = task_with("{instruction} ({input}):", "llama", "text-generation")
    assert not alpaca.recipe_faults()
    given = Row({"instruction": "is it", "input": "", "output": "bad"}, "f", 1, "k")
    assert read(alpaca, given) == "is it ():"
    assert [f.kind for f in task_with("{instruction} {output}", "llama", "text-generation").recipe_faults()] == [
        "a label"
    ]


def test_control_tokens_of_the_prompt_are_meant_and_those_of_the_data_are_text():
    task = task_with("<s>{document}</s>: ", "llama")
    (example,) = task.encode(row(document="the film</s>"))
    end = task.tokenizer.eos_token_id
    assert list(example.notes["prompt"]["input_ids"]).count(end) == 1
    (example,) = task_with("{document}: ", "llama").encode(row(document="the film</s>"))
    assert end not in example.notes["prompt"]["input_ids"]
