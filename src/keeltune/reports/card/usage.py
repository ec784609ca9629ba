"""How a trained model is used without keeltune: a program of a few lines for its very task, for the model card.

    templates/usage/NAME.py.jinja      NAME: the file of the task, or of the family that it derives from
    templates/onnx/NAME.py.jinja       the same for an exported graph, with onnxruntime in the place of torch

A program reads `folder` (a model's folder, or its name on the hub) and `row` (the columns of one input), and ends with
`answer`, what keeltune predicts of that row. The row is made up: no data of anybody's stands in a card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from keeltune.data.dataset import Row
from keeltune.models.whisper import is_whisper
from keeltune.reports.templating import code
from keeltune.tasks.common import instruction_rows, own_generation
from keeltune.tasks.common.chat_forms import Conversation
from keeltune.tasks.common.continuation import opened
from keeltune.tasks.common.generated_answers import NO_ANSWER, GeneratedAnswers
from keeltune.tasks.common.picture_chat import PictureTask, special_tokens
from keeltune.tasks.common.prompt import Prompt, texts_of
from keeltune.tasks.common.word_pieces import special_token
from keeltune.tasks.families.span_extraction import LONGEST, OVERLAP
from keeltune.tasks.families.text_generation import TextGeneration
from keeltune.tasks.task import Task

PLACE = 'folder = "."'
"""The line of a program that names the model; where the card is uploaded, the model's name stands there."""

EXAMPLES: dict[str, Any] = {
    "text": "The staff were friendly and the train was on time.",
    "sentence": ["Ada", "Lovelace", "was", "born", "in", "London", "."],
    "words": ["The", "cat", "saw", "a", "small", "fish"],
    "index": 2,
    "image": "picture.jpg",
    "audio": "recording.wav",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "question": "Who wrote the report?",
    "context": "The report was written by Ada in 1843.",
}
"""What stands for a column, by its own name, else by its kind."""


def program(
    task: Task, rows: Sequence[Row], *, adapter: bool = False, half: bool = False, onnx: bool = False
) -> str | None:
    """The program; None for a task of another package of whose family there is none.

    Args: `rows`: some that it was trained on, which say which of its columns are used. adapter: the folder holds an
        adapter alone. half: the weights are stored in half precision, and are to be computed with in float32. onnx:
        it holds a graph, `model.onnx`, in the place of weights.
    """
    name = _template(task)
    if name is None:
        return None
    values: dict[str, Any] = {"row": written(_example(task, rows)), "messages": None}
    if isinstance(task, PictureTask):
        values |= _of_picture(task)
    elif isinstance(task, TextGeneration) and task.reads == "text":
        values |= _of_text(task, rows)
    if task.answer == "tags":
        values |= {"tags": _of_tags(task), "unknown": _unknown(task)}
    values |= {"whisper": is_whisper(task.tokenizer)} if task.reads == "sound" else {}
    values |= {"overlap": OVERLAP, "longest": LONGEST, "unanswerable": NO_ANSWER}
    dtype = ', dtype="float32"' if half else ""
    rendered = (
        code()
        .get_template(f"{'onnx' if onnx else 'usage'}/{name}.py.jinja")
        .render(
            task=task,
            onnx=onnx,
            adapter=adapter,
            place=f"{PLACE}  # where this card lies; elsewhere its path, or the model's name on the hub",
            dtype=dtype,
            loading=_loading(task, adapter, dtype),
            imports=lambda *names: _imports(task, adapter, names),
            generated=isinstance(task, GeneratedAnswers),
            **values,
        )
    )
    return re.sub(r"\n{3,}", "\n\n", rendered).strip() + "\n"


def written(value: Any) -> str:
    """A value of JSON as a program has it, in one line in which nothing hides."""
    text = json.dumps(value, ensure_ascii=False)
    text = text if not re.search(r"\b(true|false|null|NaN|Infinity)\b", text) else repr(value)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def _template(task: Task) -> str | None:
    """The file of the task, or of the nearest class that it derives from, which has a program."""
    folder = resources.files("keeltune.reports") / "templates" / "usage"
    names = (parent.__module__.rpartition(".")[2] for parent in type(task).__mro__)
    return next((name for name in names if (folder / f"{name}.py.jinja").is_file()), None)


def _example(task: Task, rows: Sequence[Row]) -> dict[str, Any]:
    """A row to try the model on: the columns that it needs, and those that a prompt names or that trained rows have."""
    used = [column for column in task.columns if not column.label and column.kind in EXAMPLES]
    if isinstance(task, TextGeneration) and not any(column.required for column in task.columns):
        return _instruction(task, rows)
    present = {name for row in rows for name in row.fields}
    wanted = [column for column in used if column.required or column.name in present]
    row = {column.name: EXAMPLES.get(column.name, EXAMPLES[column.kind]) for column in wanted}
    return row | {name: EXAMPLES["text"] for name in _named(task) if name not in row}


def _named(task: Task) -> list[str]:
    """The columns that the prompt names; of a picture's prompt none, as its place is no column."""
    asked = None if isinstance(task, PictureTask) else task.asked_with
    return [] if asked is None else [name for text in texts_of(asked) for name in Prompt.parse(text).names]


def _instruction(task: TextGeneration, rows: Sequence[Row]) -> dict[str, Any]:
    """A question in the form that the trained rows have it."""
    first = next(iter(rows), None)
    asked = EXAMPLES["messages"][0]["content"]
    if first is not None and (column := instruction_rows.messages_column(first)):
        return {column: EXAMPLES["messages"]}
    row = {"prompt" if first is None else instruction_rows.question_column(first): asked}
    if first is not None and "instruction" in row and str(first.fields.get("input") or "").strip():
        row["input"] = EXAMPLES["text"]
    return row | {name: EXAMPLES["text"] for name in _named(task) if name not in row}


# Of tasks that tag


def _of_tags(task: Any) -> dict[str, Any]:
    """Which tags may stand before one that goes on with a span, and which ones cannot be its last.

    `free`: any may stand behind any (IOB1).
    """
    parts = {name: (_LETTERS.get(m[1], m[1]), m[2]) for name in task.names if (m := _MARKED.fullmatch(name))}
    follows = {
        name: [other for other, (before, same) in parts.items() if before in ("B", "I") and same == kind]
        for name, (letter, kind) in parts.items()
        if letter in ("I", "E")
    }
    ended = {kind for letter, kind in parts.values() if letter == "E"}
    unfinished = [name for name, (letter, kind) in parts.items() if letter in ("B", "I") and kind in ended]
    return {"free": getattr(task, "free", False), "follows": written(follows), "unfinished": unfinished}


_MARKED, _LETTERS = re.compile(r"([BIESLUM])[-_](.+)", re.DOTALL), {"L": "E", "U": "S", "M": "I"}
"""A tag that marks a span, and letters of other schemes."""


def _unknown(task: Any) -> int:
    """What stands for a word of which the tokenizer makes nothing."""
    unknown = task.tokenizer.unk_token_id
    return special_token(task.tokenizer) if unknown is None else int(unknown)


# Of tasks that write


def _of_text(task: TextGeneration, rows: Sequence[Row]) -> dict[str, Any]:
    """How a row is asked: as messages, as a text, or as it is."""
    example = Row(fields=_example(task, rows), key="", file="", line=0)
    values: dict[str, Any] = {"ends_prompts": _ends_texts(task)}
    if not task.architecture.reads_prompt:
        source = getattr(task.tokenizer, "src_lang", None)
        prompt = task.prompt_of(example) if task.reads_within else f"{{{task.source_column(example)}}}"
        return values | {"source_language": source, "prompt": _filled(str(prompt))}
    if (said := _said_in(task, example)) is not None:
        return values | {"messages": said}
    template = task.prompt_of(example)
    if not isinstance(template, str):
        turns = [_message(m["role"], f"{_filled(m['content'])}.strip()") for m in template]
        return values | {"messages": f"[{', '.join(turns)}]"}
    verbatim = task.verbatim and template.endswith("}")
    filled = _filled(template if verbatim else opened(template))
    return values | {"prompt": filled if verbatim or not template.endswith("}") else f'{filled}.rstrip(" ")'}


def _said_in(task: TextGeneration, example: Row) -> str | None:
    """The messages that an example of instruction tuning is read as; None for one that is read as a text, and for
    another task."""
    if any(column.required for column in task.columns) or task.given_prompt is not None:
        return None
    if (column := instruction_rows.messages_column(example)) is not None:
        return f"row[{written(column)}]"
    return f"[{_message('user', _column(task, example))}]" if task.reads_chat else None


def _column(task: TextGeneration, row: Row) -> str:
    return f"row[{written(task.source_column(row))}]"


def _filled(template: str) -> str:
    """A template with the row's columns in it, as a program writes it."""
    if (name := re.fullmatch(r"\{([^{}]+)\}", template)) is not None:
        return f"row[{written(name[1])}]"
    return f"{written(template)}.format_map(row)"


def _message(role: str, content: str) -> str:
    return f'{{"role": {written(role)}, "content": {content}}}'


def _ends_texts(task: TextGeneration) -> bool:
    """Whether the tokenizer puts the end of text behind a prompt, which the answer stands behind."""
    ids = list(task.tokenizer("a")["input_ids"])
    return len(ids) > 1 and ids[-1:] == task.architecture.end


def _of_picture(task: Any) -> dict[str, Any]:
    """How a picture is shown."""
    config, tokens, mark = task.settings.config, task.probes[0].tokens, task.mark
    decodes = not config.is_encoder_decoder
    values: dict[str, Any] = {"given": None, "ends_prompts": False, "settings": "", "behind": "1"}
    own = config.model_type in own_generation.KINDS
    if own:
        kept = task.architecture.generation_config(task.settings.stored).to_diff_dict()
        values["settings"] = ", " + ", ".join(
            f"{name}={written(value)}" for name, value in kept.items() if name not in own_generation.UNSAID
        )
    if decodes:
        values["behind"] = 'inputs["input_ids"].shape[1]'
    if mark is None:
        ids = tokens.get("input_ids")
        return values | ({"given": ids} if decodes and config.model_type != "blip" else {"behind": "1"})
    if task.reads_chat:
        begun = special_tokens(task.tokenizer, task.chat.asked(Conversation(task.shown)))
        return values | {"messages": written(task.shown), "beginning": ", add_special_tokens=False" if begun else ""}
    given = task.given_prompt if isinstance(task.given_prompt, str) else "{image}" + "\n" * decodes
    prompt = Prompt.parse(given)
    plain, marked = prompt.filled(lambda name: ""), prompt.filled(lambda name: mark)
    text = plain if task.marks_itself else marked if "image" in prompt.names else mark + plain
    return values | {"text": written(text), "ends_prompts": decodes and _ends_texts(task)}


# Loading


def _auto(task: Task) -> str:
    """The class of transformers that loads the model."""
    return task.settings.auto_model or task.auto_models[0]


def _imports(task: Task, adapter: bool, more: Sequence[str]) -> str:
    """The lines that import what loads the model."""
    writes = isinstance(task, TextGeneration) and not task.architecture.framewise
    names = {_auto(task), "AutoTokenizer", *more}
    if adapter:
        names |= {"AutoConfig", *(["GenerationConfig"] if writes else [])}
    first = ["from peft import PeftConfig, PeftModel"] if adapter else []
    return "\n".join([*first, f"from transformers import {', '.join(sorted(names))}"])


def _loading(task: Task, adapter: bool, dtype: str) -> str:
    """The lines that load model and tokenizer from `folder`."""
    auto, tokenizer = _auto(task), "tokenizer = AutoTokenizer.from_pretrained(folder)"
    if not adapter:
        return f"{tokenizer}\nmodel = {auto}.from_pretrained(folder{dtype})"
    lines = [
        tokenizer,
        "base = PeftConfig.from_pretrained(folder).base_model_name_or_path",
        f'model = {auto}.from_pretrained(base, config=AutoConfig.from_pretrained(folder), dtype="float32")',
        "model = PeftModel.from_pretrained(model, folder).merge_and_unload().eval()",
    ]
    if isinstance(task, TextGeneration) and not task.architecture.framewise:
        lines.append("model.generation_config = GenerationConfig.from_pretrained(folder)")
    return "\n".join(lines)
