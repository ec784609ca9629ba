"""What a Whisper-type model was taught: how its texts begin, and how their words are written.

    <|startoftranscript|> [<|de|> <|transcribe|>] <|notimestamps|>  Ġthe Ġtext …  <|endoftext|>

All up to the text is given to the decoder, never learnt. Source: Radford et al. 2022, https://arxiv.org/abs/2212.04356.
"""

from __future__ import annotations

from typing import Any

from keeltune.utils.text import UNSPACED, WORDLIKE


def is_whisper(tokenizer: Any) -> bool:
    """Whether a tokenizer is of Whisper's kind, which tells its decoder language and task by tokens."""
    return hasattr(tokenizer, "set_prefix_tokens")


def as_written(text: str) -> str:
    """A text with the blank that Whisper writes before its first word, as before each: the token `Ġand`, not `and`.

    Scripts without spaces between words begin without one. Readers take it off (`decode(…).strip()`).
    """
    text = text.strip()
    first = WORDLIKE.search(text)
    return text if first is not None and UNSPACED.match(first.group()) else f" {text}"
