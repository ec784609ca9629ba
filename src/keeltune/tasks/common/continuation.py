"""Where an answer begins behind a prompt that is text: with the blank that a model would write there, or without.

    "… Summary:"    then "Dull film."   the tokens of " Dull film.", as in "Summary: Dull film."
    "… Summary: "   then "Dull film."   the same: the blank is the answer's; as a token of its own no model saw it there
    "… Summary:\\n"  then "Dull film."   the tokens of "Dull film."

A decoder's tokens hold the blank before them: "Dull" and " Dull" are two, and behind a colon the first has probability
0. No blank stands before a script that has none between words, nor behind a control token that the prompt writes.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from keeltune.tasks.common.control_tokens import control_names, encode_text
from keeltune.utils.text import UNSPACED


def opened(prompt: str) -> str:
    """A prompt without blanks at its end."""
    return prompt.rstrip(" ") or prompt


def continued(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    """The tokens of an answer as they stand behind `opened(prompt)`, without an end."""
    read = opened(prompt)
    if not read.strip() or any(read.endswith(name) for name in control_names(tokenizer)):
        return _tokens(tokenizer, answer)
    before = read[-1]
    behind = (" " if _spaced(before, answer, wanted=read != prompt) else "") + answer
    first, both = _tokens(tokenizer, before), _tokens(tokenizer, before + behind)
    return both[len(first) :] if both[: len(first)] == first else _tokens(tokenizer, answer)


def _spaced(before: str, answer: str, *, wanted: bool) -> bool:
    """Whether a blank stands between a prompt's last letter and an answer; `wanted`: the prompt has one."""
    if before.isspace() or not answer or answer[0].isspace():
        return False
    unspaced = any(UNSPACED.search(letter) for letter in (before, answer[0]))
    return wanted or not (unspaced or unicodedata.east_asian_width(before) in "WF")


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(encode_text(tokenizer, text, add_special_tokens=False)["input_ids"])
