"""Bad rows at the end of a training file: refused together, each in its place, or left out together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from keeltune import recipe
from keeltune.training.preparation import prepare
from keeltune.training.preparation.material import Material
from keeltune.utils.errors import UserError


def refused_or_skipped(
    given: Mapping[str, Any], folder: Path, column: str, file: str, bad: Mapping[str, tuple[Any, str]], first: int
) -> Material:
    """What is prepared where bad rows are skipped; where they are not, each is refused by file, row and field.

    `bad`: the kinds in the order of their rows of `train.jsonl`, from line `first`, each with what its message holds;
    `file` is the name of the nth one's file, with {} for n.
    """
    with pytest.raises(UserError) as caught:
        prepare.prepare(recipe.from_dict(dict(given), folder))
    problems = {problem.where: problem for problem in caught.value.problems}
    assert len(caught.value.problems) == len(problems) == len(bad)
    for number, (kind, (_, message)) in enumerate(bad.items()):
        problem = problems[f"{folder / 'train.jsonl'}:{first + number}"]
        assert problem.field == column
        assert file.format(number) in problem.found
        assert re.search(message, f"{problem.kind} {problem}"), kind
    skipped = prepare.prepare(recipe.from_dict({**given, "data": {**given["data"], "bad_rows": "skip"}}, folder))
    assert len(skipped.skipped) == len(bad)
    return skipped
