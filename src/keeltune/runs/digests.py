"""`digests` of `result.json`: what a run was made of and what it wrote, so that any change of either is found.

    inputs    {field: [{"file", "bytes", "sha256"}]}: data, terms, the model and the references as they were read
    media     {"files", "sha256"} of `media.jsonl`, a line {"file", "sha256"} a picture or recording; null without any
    cache     the digest of the reference's cache, or null
    files     {name: {"bytes", "sha256"}} of what lies in the run's folder but its checkpoints, which have manifests
    result    SHA-256 of `result.json` itself, as canonical JSON with null in this place

`keeltune verify` holds all of it against what lies there. Texts for people are left out: the report, which is made from
the result, and model cards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeltune.data.media import Media
from keeltune.models.sealed_model import UNREAD
from keeltune.recipe.paths import shared
from keeltune.runs.stored_result import read_result
from keeltune.utils import manifest
from keeltune.utils.digests import canonical
from keeltune.utils.errors import Problem, StateRefused
from keeltune.utils.files import write_text
from keeltune.utils.manifest import NotAsWrittenError

if TYPE_CHECKING:  # what is compared and verified needs no trainer
    from keeltune.runs.inputs import Inputs
    from keeltune.training.job import Job
    from keeltune.training.preparation.material import Material

MEDIA = "media.jsonl"

FOLDERS = ("model", "adapter", "source_model", "predictions")

FILES = ("recipe.yaml", "log.jsonl", "skipped.jsonl", MEDIA)


def of_run(job: Job, folder: Path, inputs: Inputs) -> dict[str, Any]:
    """All but the result's own digest, which `seal` adds; writes `media.jsonl`."""
    media = write_media(job.material, folder)
    return {
        "inputs": inputs.listed(folder),
        "media": {"files": media, "sha256": manifest.entry(folder / MEDIA)["sha256"]} if media else None,
        "cache": (job.reference_source.cache or {}).get("digest"),
        "files": of_files(folder),
        "result": None,
    }


def of_pool(folder: Path) -> dict[str, Any]:
    """Of a run of several seeds, whose folders have their own."""
    return {"inputs": {}, "media": None, "cache": None, "files": of_files(folder), "result": None}


def write_media(material: Material, folder: Path) -> int:
    """Lists the pictures and recordings of all rows; how many there are."""
    files = {shared(media.path, folder): media.digest for media in _media(material)}
    if files:
        lines = [json.dumps({"file": file, "sha256": digest}) for file, digest in sorted(files.items())]
        write_text(folder / MEDIA, "".join(f"{line}\n" for line in lines))
    return len(files)


def _media(material: Material) -> Iterator[Media]:
    names = [column.name for column in material.task.columns if column.kind in ("image", "audio")]
    for rows in material.rows.values() if names else ():
        for row in rows:
            held = (row.fields.get(name) for name in names)
            yield from (media for media in held if isinstance(media, Media) and media.content is None)


def of_files(folder: Path) -> dict[str, dict[str, Any]]:
    """What lies in a run's folder, without checkpoints and texts for people."""
    return {name: manifest.entry(folder / name) for name in names_in(folder)}


def names_in(folder: Path) -> list[str]:
    """The names of the files that a run answers for, those that others have put among them too."""
    inside = [path for name in FOLDERS for path in (folder / name).rglob("*") if path.is_file()]
    named = [path for path in inside if path.suffix not in UNREAD and not path.name.startswith(".")]
    named += [folder / name for name in FILES if (folder / name).is_file()]
    return sorted(str(path.relative_to(folder)) for path in named)


def seal(result: dict[str, Any]) -> dict[str, Any]:
    """A result with its own digest in it; the last that is done to it."""
    return {**result, "digests": {**result["digests"], "result": own(result)}}


def own(result: Mapping[str, Any]) -> str:
    """The digest of a result, whatever stands there for it now."""
    unsealed = {**result, "digests": {**result["digests"], "result": None}}
    return hashlib.sha256(canonical(json.loads(json.dumps(unsealed))).encode()).hexdigest()


def again(folder: Path) -> str:
    """What makes a run's lost files again: its checkpoints, where there are any, or the whole training."""
    from keeltune.training import checkpoints

    if checkpoints.found(folder / checkpoints.FOLDER):
        return f"keeltune train {folder / 'recipe.yaml'} --resume makes it again from the newest sound checkpoint"
    return f"its checkpoints are gone: keeltune train {folder / 'recipe.yaml'} --overwrite makes the whole run again"


def refuse_changed(folder: Path, names: Sequence[str]) -> None:
    """StateRefused where some of a run's files are not what it wrote, with each; a run without digests is let be."""
    told = (read_result(folder)["digests"] or {}).get("files", {})
    problems = []
    for name in names:
        try:
            if name in told:
                manifest.check(folder / name, told[name])
        except NotAsWrittenError as error:
            fix = f"{again(folder)}; or copy the run folder again"
            problems.append(Problem(str(folder / name), "", str(error), "what the run wrote", fix))
    if problems:
        raise StateRefused(problems)
