"""Folders that `datasets` saves (`save_to_disk`): which Arrow files are the rows, and of which split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keeltune.utils.errors import Problem, UserError, name_list, shown
from keeltune.utils.json import read_json

DICT, STATE = "dataset_dict.json", "state.json"

SPLITS = {"train": "train", "training": "train", "test": "test"}
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
"""What a part of a data set may be called, and what it then is."""


def is_saved(folder: Path) -> bool:
    """Whether the folder is one that `datasets` saved, of one data set or of several splits."""
    return (folder / DICT).is_file() or ((folder / STATE).is_file() and (folder / "dataset_info.json").is_file())


def saved_files(folder: Path, split: str, where: str) -> list[Path]:
    """The Arrow files of a saved folder, of `split` where it holds several. Raises `UserError`."""
    if (folder / DICT).is_file():
        names = _listed(read_json(folder / DICT, kind=dict).get("splits"))
        chosen = [name for name in names if SPLITS.get(name, name) == split]
        if len(chosen) != 1:
            found = f"the splits {name_list(names)} in {folder}"
            fix = f"name one of them: {folder.name}/{(names or ['train'])[0]}"
            raise UserError(Problem(where, "", found, f"one split that is {split}", fix, "splits in one folder"))
        return saved_files(folder / chosen[0], split, where)
    entries = read_json(folder / STATE, kind=dict).get("_data_files")
    files = _listed([e.get("filename") for e in entries if isinstance(e, dict)] if isinstance(entries, list) else None)
    if not files or any(Path(name).name != name for name in files):
        found, fix = f"{shown(entries)} as the files of {folder / STATE}", "save the data set again"
        raise UserError(Problem(where, "_data_files", found, "names of files in the folder", fix, "saved data set"))
    return [folder / name for name in files]


def _listed(value: Any) -> Sequence[str]:
    """A list of names; nothing where it is anything else."""
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
