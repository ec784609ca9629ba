"""What goes wrong between us and the hub, said so that it can be mended; the token is nowhere in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keeltune.utils.errors import KeeltuneError, Problem, UserError, brief
from keeltune.utils.sanitization import HIDDEN

LOGIN = "log in: hf auth login (or set HF_TOKEN) with a token that may write: https://huggingface.co/settings/tokens"

AGAIN = "the same command goes on: what the hub has already is not sent again"


def token() -> str:
    """The hub client's own token; UserError where it has none, or is told to stay offline."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        expected = "a way to the hub"
        raise UserError(Problem("the hub", "", "offline (HF_HUB_OFFLINE)", expected, "unset HF_HUB_OFFLINE"))
    found = get_token()
    if not found:
        raise UserError(Problem("the hub", "", "no token", "a token of the hub that may write", LOGIN))
    return found


def passes(error: Exception) -> bool:
    """Whether an error may be gone the next moment: the hub's own, too many requests, a connection that broke."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    kinds = {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}
    return bool(kinds & _NETWORK) and "OfflineModeIsEnabled" not in kinds


_NETWORK = frozenset({"ConnectionError", "TimeoutError", "TransportError", "NetworkError", "ConnectError"})
"""What the HTTP clients of the hub's versions call a network that fails."""


@contextmanager
def said(repository: str) -> Iterator[None]:
    """Within: whatever the hub's client raises is a UserError."""
    try:
        yield
    except KeeltuneError:
        raise
    except Exception as error:
        raise UserError(_problem(error, repository)) from None


def _problem(error: Exception, repository: str) -> Problem:
    kinds = {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}
    status, words = status_of(error), _words(error)

    def problem(found: str, expected: str, fix: str) -> Problem:
        return Problem("the hub", "", f"{found}{': ' * bool(words)}{words}", expected, fix)

    if "OfflineModeIsEnabled" in kinds:
        return problem("offline", "a way to the hub", "unset HF_HUB_OFFLINE")
    if "GatedRepoError" in kinds:
        fix = f"ask for access to it on its page, {repository}"
        return problem(f"{repository} is gated, and your account has no access", "access to it", fix)
    if status == 401:
        return problem("the hub does not know the token (401)", "a token that is valid", LOGIN)
    if status == 403:
        expected = f"the right to write to {repository}"
        fix = "take a token that may write, or a name of your own account or of an organisation that you may write for"
        return problem("the token may not do that (403)", expected, fix)
    if status == 404:
        expected = "an account or organisation of that name, and a token that may see it"
        return problem(f"{repository} is not there (404)", expected, "correct the name, or log in as who owns it")
    if status in (409, 412):
        return problem(f"{repository} has just been changed by others ({status})", "a repository at rest", AGAIN)
    if status is not None and (status >= 500 or status in (408, 429)):
        return problem(f"the hub failed ({status})", "a hub that answers", AGAIN)
    if status is not None:
        return problem(f"the hub refuses it ({status})", "a repository that may be written to", "mend what it names")
    if kinds & _NETWORK:
        return problem(f"no connection ({type(error).__name__})", "a way to the hub", AGAIN)
    fix = "mend what it names; if there is nothing to mend, please report it"
    return problem(type(error).__name__, "an upload that succeeds", fix)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came of."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def status_of(error: Exception) -> int | None:
    """The status that the hub answered with, where it did."""
    for one in _chain(error):
        response: Any = getattr(one, "response", None)
        if isinstance(status := getattr(response, "status_code", None), int):
            return status
    return None


def _words(error: Exception) -> str:
    """What the hub said, in one line, without the token."""
    from huggingface_hub import get_token

    said = next((str(m) for one in _chain(error) if (m := getattr(one, "server_message", None))), "")
    if not said and status_of(error) is None:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if (own := get_token()) and len(own) >= 4:
        said = said.replace(own, HIDDEN)
    return brief(said, 200)
