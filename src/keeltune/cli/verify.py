"""`keeltune verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from keeltune.cli import completion
from keeltune.utils.collection import paused_collection
from keeltune.utils.errors import StateRefused
from keeltune.utils.terminal import Terminal


def verify(
    path: Annotated[
        Path,
        typer.Argument(help="A run folder, a model or a cache.", show_default=False, autocompletion=completion.models),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Only the findings, as JSON, on stdout.")] = False,
) -> None:
    """Hold a run, a model or a cache against the digests it was written with: status 0, or 3 where anything differs."""
    with paused_collection():  # seconds of imports, for which a shell that completes does not wait
        from keeltune.runs import verification

    findings = verification.verify(path)
    broken = [finding for finding in findings if not finding.is_sound]
    if as_json:
        things = [asdict(finding) for finding in findings]
        print(json.dumps({"path": str(path), "sound": not broken, "findings": things}, ensure_ascii=False))
        raise typer.Exit(StateRefused.exit_status if broken else 0)
    console = Terminal()
    for finding in findings:
        console.print(f"{finding.state:<8} {finding.name}" + (f": {finding.found}" if finding.found else ""))
    for fix in dict.fromkeys(finding.fix for finding in broken):
        console.print(f"fix: {fix}")
    what = f"{len(broken)} of {len(findings)} things are not what was written" if broken else "all as written"
    console.print(f"{path}: {what if broken else f'{len(findings)} things, {what}'}")
    raise typer.Exit(StateRefused.exit_status if broken else 0)
