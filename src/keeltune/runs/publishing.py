"""`kt.push`: a finished run's model, with its card, in a repository of the Hugging Face Hub.

verified   the result and the model are held against the digests that the run wrote them with
chosen     what lies in `model/`: weights, settings, tokenizer, manifest, card; never checkpoints, data or logs
searched   no secret and no path of this machine stands in what is sent (`published_files`)
sent       one commit; files that the hub has already are not sent again, so that a push that broke off goes on

The repository is private unless `public` is said. The token is the hub client's own (`hf auth login`, HF_TOKEN).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from keeltune.models import sealed_model
from keeltune.runs import digests, hub_faults, run_folder
from keeltune.runs.published_files import Published, published
from keeltune.runs.run_folder import Run
from keeltune.utils.errors import Problem, StateRefused, UserError, shown
from keeltune.utils.progress import Display
from keeltune.utils.version import __version__

T = TypeVar("T")

READ = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Endings of what transformers reads beside a model: of an earlier push nothing of that kind stays."""

TRIES, WAIT = 4, 1.0
"""How often a request is made that the hub fails at; seconds before the second one, doubled each time."""

OURS = (sealed_model.MANIFEST, ".gitattributes", "README.md")
"""By what a repository is known as one that keeltune filled, and what anybody's may have beside."""


def push(
    run: str | Path | Run,
    repository: str,
    *,
    public: bool = False,
    revision: str | None = None,
    message: str | None = None,
    display: Display | None = None,
) -> str:
    """Uploads the model of a finished run and its card; the address of what is there now.

    Args:
        run: its folder; of several seeds the best one's model is sent.
        repository: ORG/NAME; it is made where it is not there yet.
        public: whether everybody may read it. A public repository is not filled without it.
        revision: the branch; it is made from `main` where it is not there yet. None: `main`.
        message: of the commit.
    Raises: UserError: no finished run, something that must not be published, or what the hub refuses (no token, no
        right, a repository of others' content, no network); StateRefused: a model that is not what the run wrote.
    """
    display = display or Display()
    folder, found = run_folder.required(run)
    _verify(found)
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository) is None or re.search(r"--|\.\.|\.git$", repository):
        expected = "ORG/NAME, in letters, digits, - _ and ."
        raise UserError(Problem("the call", "repository", shown(repository), expected, "write it so, as in me/tweets"))
    files = published(found.model, repository)
    total = sum(file.size for file in files)
    display.say(f"{repository} ({'public' if public else 'private'}), {revision or 'main'}: these files, and no others")
    for file in files:
        display.say(f"  {file.name}  {_size(file.size)}")
    display.say(f"{len(files)} files, {_size(total)} in all")
    url = _send(files, repository, public, revision, message or _message(found), display)
    display.say(f"{folder} is at {url}")
    return url


def _verify(run: Run) -> None:
    """StateRefused where the result or the model is not what the run wrote."""
    told = run.result.get("digests")
    again = f"make it again: keeltune train {run.folder / 'recipe.yaml'} --resume; or copy the run folder again"
    expected = "what the run wrote"
    if not told:
        raise StateRefused(Problem(str(run.folder), "", "a result without digests", expected, "train again"))
    if told["result"] != digests.own(run.result):
        raise StateRefused(Problem(str(run.folder / "result.json"), "", "another digest than its own", expected, again))
    digests.refuse_changed(run.folder, [name for name in told["files"] if name.startswith("model/")])
    sealed_model.refuse_changed(str(run.model), str(run.model), "")
    if not (run.model / sealed_model.MANIFEST).is_file():
        found = f"no {sealed_model.MANIFEST}: nothing says what was written"
        raise StateRefused(Problem(str(run.model), "", found, expected, again))


def _size(size: int) -> str:
    """A size for people, in powers of ten as the hub shows it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def _message(run: Run) -> str:
    return f"{run.result['task']}, {run.result['method']}, by keeltune {run.result['keeltune']}"


def _send(
    files: Sequence[Published], repository: str, public: bool, revision: str | None, message: str, display: Display
) -> str:
    """One commit with the files, and without what an earlier push of ours has left; its branch's address."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    with hub_faults.said(repository):
        token = hub_faults.token()
        api = HfApi(token=token, library_name="keeltune", library_version=__version__)
        _tried(api.whoami, display)
        is_new = _made(api, repository, public, display)
        if not is_new:
            _refuse_public(_tried(lambda: api.model_info(repository), display), repository, public)
        if revision is not None and revision != "main":
            _tried(lambda: api.create_branch(repository, branch=revision, exist_ok=True), display)
        there = [] if is_new else _tried(lambda: api.list_repo_files(repository, revision=revision), display)
        _refuse_others(there, repository)
        sent = {file.name for file in files}
        stale = [name for name in there if name not in sent and name.endswith(READ) and "/" not in name]

        def commit() -> Any:
            operations: list[Any] = [CommitOperationAdd(file.name, file.content) for file in files]
            operations += [CommitOperationDelete(name) for name in stale]
            return api.create_commit(repository, operations, commit_message=message, revision=revision)

        _tried(commit, display)
        tree = "" if revision in (None, "main") else f"/tree/{revision}"
        return f"{api.endpoint}/{repository}{tree}"


def _made(api: Any, repository: str, public: bool, display: Display) -> bool:
    """Whether the repository is new; False where it was there already, whoever may make one."""
    try:
        _tried(lambda: api.create_repo(repository, private=not public), display)
        return True
    except Exception as error:
        if hub_faults.status_of(error) == 409:
            return False
        if hub_faults.status_of(error) == 403 and _tried(lambda: api.repo_exists(repository), display):
            return False  # who may not make repositories may be allowed to write to this one
        raise


def _refuse_public(info: Any, repository: str, public: bool) -> None:
    if not public and info.private is False:
        found = f"{repository} is there, and everybody may read it"
        fix = "say --public, or name another repository"
        raise UserError(Problem("the hub", "repository", found, "a private repository", fix))


def _refuse_others(there: Sequence[str], repository: str) -> None:
    """UserError where a repository holds what keeltune did not put there."""
    if sealed_model.MANIFEST not in there and (others := [name for name in there if name not in OURS]):
        found = f"{repository} is there and holds {len(others)} files of others, such as {shown(others[0])}"
        expected = "a new repository, an empty one, or one that keeltune filled"
        raise UserError(Problem("the hub", "repository", found, expected, "name another repository"))


def _tried(request: Callable[[], T], display: Display) -> T:
    """What a request answers, made again where the hub or the network fails for a moment."""
    for number in range(1, TRIES):
        try:
            return request()
        except Exception as error:
            if not hub_faults.passes(error):
                raise
            display.say(f"the hub did not answer ({type(error).__name__}); tried again, {number} of {TRIES - 1}")
            time.sleep(WAIT * 2 ** (number - 1))
    return request()
