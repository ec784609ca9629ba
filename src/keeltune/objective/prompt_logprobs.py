"""A server's answer to a text of token ids, checked: the likeliest tokens at each position and their probabilities.

    POST {url}/v1/completions   {model, prompt: [[id, …], …], max_tokens: 1, temperature: 0, prompt_logprobs: k}
    answer                      choices[i] = {index, prompt_logprobs: [null, {"<id>": {logprob, rank,
                                decoded_token}, …}, …]}

One entry a prompt token: the k likeliest, and the token that stands there where it is not among them (it is dropped
here). vLLM speaks it (https://github.com/vllm-project/vllm/pull/7453), and what keeps to its fields: the answer is
https://github.com/vllm-project/vllm/blob/002032ee2b18e1f7bd924ec47b62504ba3866063/vllm/entrypoints/openai/completion/protocol.py
(`CompletionResponseChoice`). Nothing that a server may write wrong reaches a loss.

Shapes: T positions of a text, k tokens at each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keeltune.utils.errors import UserError
from keeltune.utils.http_client import Endpoint

COMPARED, MAY_DIFFER = 20, 0.1
"""Tokens that must have been written by both sides before they are judged, and the share that may differ."""

ROUNDING = 1e-3
"""By how much Σ p of half-precision log-probabilities may exceed 1."""


class PromptLogprobs:
    """Reads the answers of one server: k tokens a position, each an id below `vocabulary`.

    `spell`: how the student's tokenizer writes an id. Where the server says how its own does (`decoded_token`), both
    are compared over all answers, and a server with another tokenizer is refused; None: they were compared before.
    """

    def __init__(self, endpoint: Endpoint, k: int, vocabulary: int, spell: Callable[[int], str] | None = None):
        self.endpoint, self.k, self.vocabulary, self.spell = endpoint, k, vocabulary, spell
        self._spellings: dict[int, tuple[str, str]] = {}  # id -> the server's, the student's

    def read(self, answer: dict[str, Any], texts: Sequence[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each text's ids [T, k] (int64) and log-probabilities [T, k] (float32), likeliest first; T = length − 1."""
        choices = answer.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise self._wrong("no list of choices", "`choices`, one for each sequence")
        by_index = {choice.get("index"): choice for choice in choices if isinstance(choice.get("index"), int)}
        if len(choices) != len(texts) or sorted(by_index) != list(range(len(texts))):
            raise self._wrong(
                f"{len(choices)} choices, their indices {self.endpoint.quote(sorted(by_index))}",
                f"{len(texts)}, indexed from 0",
            )
        tables = [self._table(by_index[i].get("prompt_logprobs"), text) for i, text in enumerate(texts)]
        self._require_same_tokens()
        return tables

    def _require_same_tokens(self) -> None:
        """Refuses a server whose tokens are written otherwise than the student's under the same ids.

        Plain ASCII alone is compared, without spaces and their marks: how a lone byte or a space is shown differs
        between programs, and a few special tokens may.
        """
        differing = {i: pair for i, pair in self._spellings.items() if pair[0] != pair[1]}
        if len(self._spellings) >= COMPARED and len(differing) > MAY_DIFFER * len(self._spellings):
            examples = "; ".join(
                f"{i}: {self.endpoint.quote(server)}, the student's {self.endpoint.quote(student)}"
                for i, (server, student) in list(differing.items())[:3]
            )
            raise self.endpoint.refusal(
                f"{len(differing)} of {len(self._spellings)} tokens that are written otherwise ({examples})",
                "the student's tokenizer: the same text for every id",
                "serve a teacher of the student's family; or let one write the targets, which needs texts alone",
            )

    def _table(self, positions: Any, text: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """One choice's `prompt_logprobs` as ids and log-probabilities [T, k]."""
        if not isinstance(positions, list):
            raise self._wrong("no `prompt_logprobs` in a choice", "a list of them: a server that returns them")
        if len(positions) != len(text) or positions[0] is not None:
            first = "" if positions and positions[0] is None else ", the first not null"
            raise self._wrong(
                f"{len(positions)} positions for {len(text)} ids{first}", "one for each id, and null for the first"
            )
        ids = np.empty((len(text) - 1, self.k), np.int64)
        log_probs = np.empty((len(text) - 1, self.k), np.float32)
        for t, entry in enumerate(positions[1:]):
            ranked = self._ranked(entry, t + 1)
            if len(ranked) > self.k and text[t + 1] not in {token for _, _, token in ranked}:
                raise self._wrong(
                    f"position {t + 1} holds more than k = {self.k} tokens, but not the one that stands there",
                    f"{text[t + 1]} among them: the answer to the sequence that was sent",
                )
            ids[t] = [token for _, _, token in ranked[: self.k]]
            log_probs[t] = [-cost for cost, _, _ in ranked[: self.k]]
        return ids, log_probs

    def _ranked(self, entry: Any, position: int) -> list[tuple[float, int, int]]:
        """(−log-probability, rank, id) of all tokens at one position, likeliest first."""
        if not isinstance(entry, dict) or not all(isinstance(value, dict) for value in entry.values()):
            raise self._wrong(f"no tokens at position {position}", 'a mapping: "<id>": {"logprob": …}')
        ranked = sorted(self._token(name, value, position) for name, value in entry.items())
        if len(ranked) < self.k:
            raise self._wrong(
                f"{len(ranked)} tokens at position {position}", f"k = {self.k} at least, as many as the server grants"
            )
        ranks = [rank for _, rank, _ in ranked if rank]
        if ranks != sorted(ranks) or any(rank > self.k for _, rank, _ in ranked[: self.k]):
            raise self._wrong(
                f"ranks {self.endpoint.quote(ranks)} at position {position}, likeliest token first",
                f"rising ranks, and the {self.k} likeliest tokens complete",
            )
        if (mass := sum(math.exp(-cost) for cost, _, _ in ranked)) > 1 + ROUNDING:
            raise self._wrong(f"probabilities of {mass:.6g} in all at position {position}", "at most 1 in all")
        return ranked

    def _token(self, name: str, value: dict[str, Any], position: int) -> tuple[float, int, int]:
        """(−log-probability, rank or 0, id) of one token, and how it is written noted."""
        log_prob, rank = value.get("logprob"), value.get("rank")
        if not (name.isascii() and name.isdigit() and len(name) < 11 and str(int(name)) == name):
            raise self._wrong(f"{self.endpoint.quote(name)} as a token at position {position}", "a token's id")
        if int(name) >= self.vocabulary:
            raise self._wrong(f"token {name} at position {position}", f"an id below {self.vocabulary}")
        if not _is_log_prob(log_prob):
            raise self._wrong(
                f"{self.endpoint.quote(log_prob)} for token {name} at position {position}", "a log-probability ≤ 0"
            )
        if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
            raise self._wrong(f"rank {self.endpoint.quote(rank)} at position {position}", "a rank of 1 or more")
        if self.spell is not None and int(name) not in self._spellings:
            server, student = _plain(value.get("decoded_token")), _plain(self.spell(int(name)))
            if server and student:
                self._spellings[int(name)] = (server, student)
        return -float(value["logprob"]), rank or 0, int(name)

    def _wrong(self, found: str, expected: str) -> UserError:
        return self.endpoint.refusal(
            found,
            expected,
            "serve the teacher with a server that returns `prompt_logprobs` as vLLM does, in its `raw_logprobs` mode",
        )


def _is_log_prob(value: Any) -> bool:
    """A number ≤ 0, or −∞; NaN is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and (value == -math.inf or -1e9 <= value <= 0)


def _plain(text: Any) -> str:
    """A token's text as far as two programs write it alike: plain ASCII, without spaces and their marks; else none."""
    plain = text.replace("Ġ", " ").replace("▁", " ").removeprefix("##").strip() if isinstance(text, str) else ""
    return plain if plain.isascii() and plain.isprintable() else ""
