"""Whether a run can be written where its recipe says, found out before anything is read; nothing of a run is needed."""

from __future__ import annotations

import os
from pathlib import Path

from keeltune.recipe.fields import Recipe
from keeltune.recipe.paths import absolute
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.files import try_writing
from keeltune.utils.system_faults import DISK_FAULTS, reason

FOLDERS = ("model", "source_model", "adapter", "checkpoints", "predictions", "predictions/before",
           "predictions/abilities", "predictions/before/abilities")  # fmt: skip
"""What a run makes in its folder."""

EXPORTS = "export"
"""Where a run's exports lie in its folder, made of a model that a new training replaces."""

PROGRESS = ".progress.json"
"""Where a run says how far it is (`progress_file.py`)."""


def refuse_unwritable(folder: Path) -> None:
    """UserError where no run can be written to a folder, or to one that an earlier start made in it: tried with a file,
    of which nothing stays."""
    for part in (folder, *(folder / name for name in FOLDERS if (folder / name).is_dir())):
        _refuse_unwritable(part)


def _refuse_unwritable(folder: Path) -> None:
    fix = "name another folder in `output`"
    try:
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        if not existing.is_dir():
            found = f"{existing}, which is a file"
        elif not os.access(existing, os.W_OK):
            read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
            found = f"a read-only file system at {existing}" if read_only else f"no permission to write to {existing}"
            fix = "name a folder that you may write to"
        else:
            try_writing(folder)
            return
    except OSError as error:
        if error.errno in DISK_FAULTS:  # whose message is another one
            raise
        found = f"{reason(error)}, on trying to write there"
    raise UserError(Problem(str(folder), "output", found, "an empty or a new folder", fix))


def refuse_among_inputs(recipe: Recipe) -> None:
    """UserError where `output` lies in a folder that the run reads, or holds one: a run never writes over what it is
    made of."""
    output = absolute(recipe.path(recipe.output))
    problems = []
    for field, value in recipe.inputs():
        path = absolute(recipe.path(value))
        if (path.is_dir() and output.is_relative_to(path)) or (path.exists() and path.is_relative_to(output)):
            found, expected = f"{output}, while {field} is {path}", f"a folder apart from {field}"
            problems.append(recipe.problem("output", found=found, expected=expected, fix="name another folder"))
    if problems:
        raise UserError(problems)
