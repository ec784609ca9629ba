"""`keeltune schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from keeltune.recipe.fields import json_schema
from keeltune.utils.files import refuse_other_file, write_text


def schema(output: Annotated[Path | None, typer.Option("--output", help="A file; stdout without it.")] = None) -> None:
    """The recipe's JSON Schema, with which editors complete and check recipes."""
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        print(text, end="")
    else:
        refuse_other_file(output, b"{")
        write_text(output, text)
