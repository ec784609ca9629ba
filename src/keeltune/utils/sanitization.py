"""Text that may be shown: what would drive a terminal, turn a line round or hide is made visible, and secrets are not
there. Everything that keeltune prints, logs or puts on a page goes through `shown_text` or `printable`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

HIDDEN = "***"
"""What stands where a secret was."""

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's categories of what is no letter, mark, number, sign or blank: controls (ESC, newline), formats (the
bidirectional U+202E, the zero-width U+200B), lone surrogates, and the separators of lines."""

_SECRET_WORDS = frozenset({"password", "passwd", "passphrase", "secret", "secrets", "apikey", "authorization",
                           "bearer", "credential", "credentials"})  # fmt: skip

_ORDINARY = {
    "token": frozenset({"pad", "eos", "bos", "mask", "sep", "cls", "unk", "start", "end", "image", "audio", "special"}),
    "key": frozenset({"row", "primary", "foreign", "sort", "group", "label", "cluster", "cache"}),
}
"""Words before `token` and `key` with which a name is that of a vocabulary's token, or of a row's key."""

_SHAPES = re.compile(
    r"\b(?:hf_\w{10,}|sk-[\w-]{20,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}|pypi-[\w-]{16,}|npm_\w{20,}|eyJ[\w-]{8,}\.eyJ[\w.-]{8,})"
)
"""Tokens that are known by how they begin: of the hub, of model servers, of code hosts and clouds; JSON web tokens."""

_USERINFO = re.compile(r"""(\b[a-zA-Z][\w+.-]*:/{1,2})(?:[^\s/@"'<>]*:[^\s"'<>]*|[^\s/@"'<>]+)@""")
"""What stands before the host of an address; one slash is left where the address was taken for a path."""

_BEARER = re.compile(r"\b(bearer)\s+[\w.~+/=-]{6,}", re.IGNORECASE)

_ASSIGNED = re.compile(
    r"""(?P<name>[A-Za-z_][\w.-]*)(?P<sign>["']?(?:\s*=\s*|:\s+|:(?=["'])))(?P<value>"[^"]*"|'[^']*'|[^\s,;&}\])"']+)"""
)


def printable(text: str, keep: str = "") -> str:
    """The text with what is invisible in it spelt out, as \\x1b, \\n or \\u202e; characters of `keep` stay."""
    if text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _INVISIBLE else _spelt(c) for c in text)


def _spelt(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def shown_text(text: str, keep: str = "") -> str:
    """`printable`, without secrets."""
    return printable(redacted(text), keep)


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether a field or variable of this name holds a secret: `hub_token`, `reference.api_key`, `HF_TOKEN`."""
    last = re.split(r"[.\s]", name.strip())[-1]
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", last).lower())
    if _SECRET_WORDS & set(words) or (words[-1:] == ["pwd"] and len(words) > 1):  # PWD is the working folder
        return True
    if not words or words[-1] not in _ORDINARY:
        return False
    before = words[-2] if len(words) > 1 else ""
    return before not in _ORDINARY[words[-1]] and (words[-1] == "token" or bool(before))


def redacted(text: str) -> str:
    """The text without secrets: values of fields named as one, user names and passwords in addresses, tokens of known
    shapes, and what the environment holds as one.

    In prose ("a token: what ...") nothing is taken away: a colon counts after a quoted or a joined name alone.
    """
    for secret in _of_environment():
        text = text.replace(secret, HIDDEN)
    if "@" in text:
        text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", _SHAPES.sub(HIDDEN, text))
    return _ASSIGNED.sub(_without_value, text) if "=" in text or ":" in text else text


def holds_secret(text: str) -> bool:
    """Whether a text is or holds what can only be a secret, by its shape, its place or the environment."""
    own = any(secret in text for secret in _of_environment())
    return own or bool(_SHAPES.search(text)) or bool(_USERINFO.search(text))


def _without_value(found: re.Match[str]) -> str:
    name, sign = found["name"], found["sign"]
    before = found.string[: found.start()].rstrip()[-1:]
    named = "=" in sign or sign[0] in "\"'" or re.search(r"[_.-]", name) or before in ("", "{", ",", "(")
    return f"{name}{sign}{HIDDEN}" if named and is_secret(name) else found[0]


def _of_environment() -> Iterable[str]:
    """Values of variables named as secrets; a short one is a switch."""
    names = getattr(os.environ, "_data", os.environ)  # as they are stored: for each printed text they need no decoding
    values = (os.environ.get(name, "") for name in _secret_variables(frozenset(names)))
    return [value for value in values if len(value) >= 8]


@lru_cache(maxsize=4)
def _secret_variables(names: frozenset[str | bytes]) -> list[str]:
    """Those named as secrets among the names of the environment, which seldom change."""
    return [name for name in map(os.fsdecode, names) if is_secret(name)]
