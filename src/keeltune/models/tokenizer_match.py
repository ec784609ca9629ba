"""Whether two models choose among the same tokens: decided by what each id stands for, in bytes.

Neither sizes nor spellings say it. Two vocabularies of 50 257 tokens may share hardly one id; one vocabulary may have
151 936 rows in one model and 152 064 in another, whose last rows belong to no token; and the token " a" is spelled "Ġa"
by a byte-level BPE and "▁a" by a SentencePiece model.

| kind of tokenizer                           | spelling -> bytes                                                    |
| ------------------------------------------- | -------------------------------------------------------------------- |
| byte-level (GPT-2, Llama 3, Qwen, BART)     | each letter stands for a byte, by GPT-2's table                      |
| SentencePiece (T5, Llama 2, Gemma, XLM-R)   | "▁" is a space; "<0xXX>" is a byte where the tokenizer falls back to |
| WordPiece (BERT)                            | "##ing" is within a word, "ing" begins one: b"ing" and b" ing"       |
| any other                                   | the spelling itself                                                  |

Added tokens, the special ones among them, are their content whatever the kind, and are marked where they are special.
Source of the byte table: Radford et al. 2019, https://github.com/openai/gpt-2/blob/9b63575/src/encoder.py#L9-L28.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


class Token(NamedTuple):
    """What an id stands for."""

    text: bytes
    special: bool = False

    def __str__(self) -> str:
        return f"{self.text!r}{' (special)' if self.special else ''}"


def tokens(tokenizer: Any) -> dict[int, Token]:
    """Each id's token, in the order of the ids."""
    spelled = _spelling(tokenizer)
    named = {i: name for name, i in tokenizer.get_vocab().items()}
    added = {
        i: Token(token.content.encode(errors="surrogatepass"), token.special)
        for i, token in tokenizer.added_tokens_decoder.items()
    }
    return {i: added[i] if i in added else Token(spelled(named[i])) for i in sorted(named.keys() | added.keys())}


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over each id, its bytes and whether it is special, in the order of the ids; the same in every process.

    How texts are cut into tokens is not in it.
    """
    lines = [b"%d %d %d %b" % (i, special, len(text), text) for i, (text, special) in tokens(tokenizer).items()]
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


@dataclass(frozen=True)
class Relation:
    """How a reference's tokens lie to the student's.

    same        the same tokens, as many rows
    padded      the same tokens; of the rows that only one model has none belongs to a token
    subset      all tokens of the one are the other's too, at the same ids
    different   some id stands for other bytes, or each has tokens that the other lacks

    `shared` are the ids whose token both have. `differing` are those that rule out the others: (id, the student's
    token, the reference's), None for no token.
    """

    kind: Literal["same", "padded", "subset", "different"]
    shared: Sequence[int]
    differing: Sequence[tuple[int, Token | None, Token | None]] = ()


def compare(
    student_tokenizer: Any, reference_tokenizer: Any, student_rows: int | None, reference_rows: int | None
) -> Relation:
    """How the reference's tokens lie to the student's. The rows are the models' numbers of choices, None for unknown.

    A token whose id is beyond a model's rows is no choice of that model.
    """
    student, reference = (_choices(student_tokenizer, student_rows), _choices(reference_tokenizer, reference_rows))
    shared = [i for i, token in student.items() if reference.get(i) == token]
    others = sorted(i for i in student.keys() | reference.keys() if student.get(i) != reference.get(i))
    if not others:
        return Relation("same" if student_rows == reference_rows else "padded", shared)
    if shared and len(shared) == min(len(student), len(reference)):
        return Relation("subset", shared)
    return Relation("different", shared, [(i, student.get(i), reference.get(i)) for i in others])


def _choices(tokenizer: Any, rows: int | None) -> dict[int, Token]:
    return {i: token for i, token in tokens(tokenizer).items() if rows is None or i < rows}


def _spelling(tokenizer: Any) -> Callable[[str], bytes]:
    """How this kind of tokenizer spells bytes."""
    if not tokenizer.is_fast:
        return _plain
    backend = tokenizer.backend_tokenizer
    steps = (backend.normalizer, backend.pre_tokenizer, backend.decoder)
    described = b"".join(step.__getstate__() for step in steps if step is not None)  # each as JSON
    if b'"ByteLevel"' in described:
        return _byte_level
    if type(backend.model).__name__ == "WordPiece":
        return _word_pieces(backend.model.continuing_subword_prefix)
    if "▁".encode() in described:
        return _bytes_or_pieces if b'"ByteFallback"' in described else _pieces
    return _plain


def _byte_table() -> dict[int, int]:
    """GPT-2's letters as the Latin-1 letters of their bytes, for `str.translate`.

    A printable byte is its own letter, the others follow from U+0100 on; what is no letter becomes one that Latin-1
    does not have.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {0x100 + n: byte for n, byte in enumerate(rest)} | dict.fromkeys(rest, 0xFFFD)


_BYTES = _byte_table()


def _plain(name: str) -> bytes:
    return name.encode(errors="surrogatepass")


def _byte_level(name: str) -> bytes:
    try:
        return name.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError:  # a token that the training of the tokenizer did not make
        return _plain(name)


def _pieces(name: str) -> bytes:
    return _plain(name.replace("▁", " "))


def _bytes_or_pieces(name: str) -> bytes:
    return bytes([int(name[3:5], 16)]) if re.fullmatch("<0x[0-9A-F]{2}>", name) else _pieces(name)


def _word_pieces(prefix: str) -> Callable[[str], bytes]:
    return lambda name: _plain(name[len(prefix) :] if name.startswith(prefix) else f" {name}")
