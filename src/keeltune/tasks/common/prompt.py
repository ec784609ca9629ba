"""A recipe's prompt: text around the columns of a row, named in braces.

    Say it shortly: {document}                          the row's document
    {{"text": "{document}"}}                            a brace that is meant as one is written twice
    [{"role": "user", "content": "… {document}"}]       messages of such texts

Names are read from the prompt alone, once: a text of the data that holds braces is text. Columns of labels are no
names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.tasks.common.fault import Fault
from keeltune.utils.errors import Problem, name_list, nearest, shown

Template = str | Sequence[Mapping[str, str]]
"""A prompt as recipes have it: a text, or messages {role, content}."""

TAUGHT = "keeltune_prompt"
"""The entry of a model's configuration that holds the task and the prompt that it was taught with."""


@dataclass(frozen=True)
class Prompt:
    """Pieces of text, each with the name of the column that follows it; the last with none."""

    pieces: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Prompt:
        """The prompt in `text`. Raises: ValueError for braces that are no plain name."""
        pieces: list[tuple[str, str | None]] = []
        for literal, name, spec, conversion in Formatter().parse(text):
            if name is not None and (spec or conversion or not name.strip() or set(name) & set(".[]")):
                rest = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise ValueError(f"{{{name}{rest}}}")
            pieces.append((literal, name))
        return cls(tuple(pieces))

    @property
    def names(self) -> list[str]:
        """The columns that it names, in order."""
        return [name for _, name in self.pieces if name is not None]

    def filled(self, value: Callable[[str], str]) -> str:
        """The prompt with `value(name)` in the place of each name."""
        return "".join(literal + ("" if name is None else value(name)) for literal, name in self.pieces)


def prompt_or_none(text: str) -> Prompt:
    """The prompt in `text`; an empty one where its braces are no names, which the faults below say."""
    try:
        return Prompt.parse(text)
    except ValueError:
        return Prompt(())


def escaped(text: str) -> str:
    """A text as a prompt that reads it letter by letter."""
    return text.replace("{", "{{").replace("}", "}}")


def texts_of(prompt: Template) -> list[str]:
    """The texts of a prompt: its messages', or itself."""
    return [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]


def taught_prompt(config: Any, task: str) -> Template | None:
    """The prompt that a model was taught a task with, as its configuration keeps it; None where there is none."""
    kept = getattr(config, TAUGHT, None)
    prompt = kept.get("prompt") if isinstance(kept, dict) and kept.get("task") == task else None
    if isinstance(prompt, list):
        sound = all(isinstance(m, dict) and isinstance(m.get("content"), str) and "role" in m for m in prompt)
        return prompt if prompt and sound else None
    return prompt if isinstance(prompt, str) else None


def prompt_faults(text: Template | None, columns: Sequence[Column], inputs: Sequence[str]) -> list[Fault]:
    """What is wrong with a recipe's prompt, whatever the rows: its braces, a label, no input (one of `inputs`)."""
    if text is None:
        return []
    try:
        names = [name for part in texts_of(text) for name in Prompt.parse(part).names]
    except ValueError as error:
        found = f"{error}, which names no column"
        expected, fix = (
            "names of columns in braces, as in {document}",
            "write a brace that is meant as one twice: {{ }}",
        )
        return [Fault("prompt", "not a name", found, expected, fix)]
    wanted = " or ".join(f"{{{name}}}" for name in inputs)
    faults = [
        Fault("prompt", "a label", f"{{{column.name}}}, the answer itself", f"columns of the input, as in {wanted}",
              "leave it out")
        for column in columns if column.label and column.name in names
    ]  # fmt: skip
    if not set(names) & set(inputs):
        found = f"no name of the input among {', '.join(f'{{{name}}}' for name in names) or 'its names: it has none'}"
        expected = f"{wanted}: without it the model never sees what it is to answer"
        faults.append(Fault("prompt", "no input", found, expected, f"put {wanted} where the text belongs"))
    return faults


def place_faults(text: Template | None, place: str, blind: str) -> list[Fault]:
    """What is wrong with a prompt that names the place of a picture alone. `blind`: a kind of model that reads none."""
    if text is None:
        return []
    expected = f"{{{place}}}, the place of the {place}"
    try:
        unknown = [name for part in texts_of(text) for name in Prompt.parse(part).names if name != place]
    except ValueError as error:
        fix = "write a brace that is meant as one twice: {{ }}"
        return [Fault("prompt", "not a name", f"{error}, which is no name", expected, fix)]
    if unknown:
        return [Fault("prompt", "unknown name", f"{{{unknown[0]}}}", expected, "leave it out")]
    if blind:
        found = f"{blind}, which reads the {place} alone"
        return [Fault("prompt", "prompt not read", found, "a model that reads a prompt", "leave it out")]
    return []


def no_such_column(row: Row, name: str, labels: Sequence[str]) -> Problem:
    """A name in the prompt that the row has no text or number for."""
    known = [n for n, value in row.fields.items() if n not in labels and isinstance(value, str | int | float)]
    found = f"{{{name}}}" if name not in row.fields else f"{{{name}}}, which holds {shown(row.fields[name])}"
    expected = f"columns of the row that hold text: {name_list(known)}{nearest(name, known)}"
    fix = "correct the name in the recipe's prompt, or write its braces twice: {{ }}"
    return Problem(f"{row.file}:{row.line}", "prompt", found, expected, fix, "unknown name in the prompt")
