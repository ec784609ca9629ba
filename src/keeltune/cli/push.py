"""`keeltune push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keeltune.utils.collection import paused_collection
from keeltune.utils.progress import Display


def push(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", show_default=False)],
    repository: Annotated[str, typer.Argument(help="ORG/NAME on the Hugging Face Hub.", show_default=False)],
    public: Annotated[
        bool, typer.Option("--public", help="Everybody may read it; without it nobody else may.")
    ] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="The branch; main if it is left out.")] = None,
    message: Annotated[str | None, typer.Option("--message", help="Of the commit.")] = None,
) -> None:
    """Upload a finished run's model and its card to the Hugging Face Hub, privately unless you say otherwise."""
    with paused_collection():  # seconds of imports, for which a shell that completes does not wait
        from keeltune.runs import publishing

    print(publishing.push(run, repository, public=public, revision=revision, message=message, display=Display()))
