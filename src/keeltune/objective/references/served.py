from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from keeltune.objective.predictions import Coarse, Rows
from keeltune.objective.references.reference import Batch, Reference
from keeltune.utils.errors import Problem, StateRefused, UserError, nearest
from keeltune.utils.http_client import Endpoint

PROBE = tuple(range(3, 20))
"""The fixed text, in ids, whose answer tells one teacher from another."""

PROBE_EVERY = 1000
"""Requests between two looks at whether the server still holds the same teacher."""

PROBE_TRIES = 3
"""A server that others use too may round its sums another way now and then; another teacher answers so every time."""

SEQUENCES = 16

ENTRIES = 1 << 17
"""At most so many sequences, and positions × k, in one request (some 10 MB of answer); one sequence at least."""

SPELT, ALIKE = 20, 0.1
"""Tokens that must have been written by both sides before they are judged, and the share that may differ."""

ROUNDING = 1e-3
"""By how much Σ p of half-precision log-probabilities may exceed 1."""


class Served(Reference):
    """A teacher behind a server that returns prompt log-probabilities; it fills a cache, training never waits for it.

    `rows` is for that capture: a decoder's texts, their ids as the student reads them, `Coarse` at temperature 1.

    `top` gives the k likeliest next tokens at each position of a text of token ids. There is no text in the protocol:
    the ids are the teacher's, so that the tokenizers must have been compared before.

    Protocol: POST {url}/v1/completions with {model, prompt: [[id, …], …], max_tokens: 1, temperature: 0,
    prompt_logprobs: k}. Answer: choices[i] = {index, prompt_logprobs: [null, {"<id>": {logprob, rank, decoded_token},
    …}, …]}, one entry a prompt token: the k likeliest, and the token that stands there where it is not among them (it
    is dropped here).
    vLLM speaks it (https://github.com/vllm-project/vllm/pull/7453), and what keeps to its fields: the answer is
    https://github.com/vllm-project/vllm/blob/002032ee2b18e1f7bd924ec47b62504ba3866063/vllm/entrypoints/openai/completion/protocol.py
    (`CompletionResponseChoice`). Start it with `--max-logprobs` at least k (20 if not given) and a `--max-model-len`
    above the longest sequence, and leave `--logprobs-mode` at `raw_logprobs`. It writes −9999 for −inf.

    url, allow_host, timeout, retries, pause: see `utils.http_client.Endpoint`. The key of the server, if it wants one,
        is in the environment variable KEELTUNE_REFERENCE_KEY and nowhere else.
    model: its name on the server, as /v1/models lists it.
    k: how many tokens a position.
    vocabulary: C of the teacher; an id outside it is refused, asked or answered. None: below 2^31.
    spell: how the student's tokenizer writes an id. Where the server says how its own does (`decoded_token`), both are
        compared, and a server with another tokenizer is refused; None: they were compared before.

    Raises `Stopped` (75) where the server stays away, `UserError` (2) for a wrong answer, `StateRefused` (3) where the
    teacher changes while it is asked.
    """

    kind = "served"

    def __init__(
        self,
        url: str,
        model: str,
        k: int,
        *,
        vocabulary: int | None = None,
        spell: Callable[[int], str] | None = None,
        allow_host: str = "",
        timeout: float = 300.0,
        retries: int = 5,
        pause: float = 1.0,
    ):
        self.vocabulary = 2**31 if vocabulary is None else vocabulary
        if not 1 <= k <= self.vocabulary:
            raise UserError(
                Problem("", "reference", f"k = {k}", f"1 to {self.vocabulary} tokens a position", "correct k")
            )
        self.endpoint = Endpoint(url, allow_host=allow_host, timeout=timeout, retries=retries, pause=pause)
        self.model = model
        self.k = k
        self._requests = 0
        self.spell = spell
        self._spelt: dict[int, tuple[str, str]] = {}

    def rows(self, batch: Batch) -> Rows:
        inputs, places = batch["inputs"], batch["predicted"].tolist()
        texts = [
            ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        found = self.top(texts)
        asked = [[t for t, wanted in enumerate(line) if wanted] for line in places]
        ids = torch.from_numpy(np.concatenate([i[t] for (i, _), t in zip(found, asked, strict=True)]))
        kept = torch.from_numpy(np.concatenate([p[t] for (_, p), t in zip(found, asked, strict=True)])).double()
        tail = torch.log1p(-kept.exp().sum(-1, keepdim=True).clamp_max(1 - ROUNDING**2))
        return Coarse(ids, torch.cat([kept, tail], dim=-1).float())

    def top(self, sequences: Sequence[Sequence[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each sequence: ids [T, k] (int64) and log-probabilities [T, k] (nats, float32), likeliest first.

        T = length − 1. Row t is what the teacher expects at position t + 1, given the ids 0 … t. The k probabilities
        are not renormalised: what they lack to 1 is the mass of all other tokens (Σ p may exceed 1 by `ROUNDING`).
        """
        texts = [[int(token) for token in sequence] for sequence in sequences]
        for number, text in enumerate(texts):
            if not text or min(text) < 0 or max(text) >= self.vocabulary:
                raise self.endpoint.refusal(
                    f"sequence {number} of {len(text)} ids" + (f", {min(text)} to {max(text)}" if text else ""),
                    f"one id at least, each of 0 to {self.vocabulary - 1}",
                    "encode the text with the teacher's own tokenizer",
                )
        self.identity()
        nothing = (np.zeros((0, self.k), np.int64), np.zeros((0, self.k), np.float32))
        answers = [nothing] * len(texts)
        for part in self._requests_of(texts):
            for number, answer in zip(part, self._ask([texts[i] for i in part]), strict=True):
                answers[number] = answer
            self._requests += 1
            if self._requests % PROBE_EVERY == 0:
                self.verify()
        return answers

    def identity(self) -> dict[str, str]:
        """What names the teacher for a cache: the same for every k and batch, another for other weights.

        model: its name; probe: SHA-256 of its likeliest token and that token's log-probability, to 3 digits after the
        point, at each position of `PROBE`. Asked once. A teacher moved to hardware or a precision that rounds
        otherwise is another one: its numbers are.
        """
        return {"model": self.model, "probe": self._probe}

    def verify(self) -> None:
        """Asks the probe again: `StateRefused` if the server no longer holds the teacher that `identity` named.

        Called here every `PROBE_EVERY` requests. A writer of a cache calls it before it finishes a shard and at the
        end: what was answered between two calls that pass is one teacher's.
        """
        for _ in range(PROBE_TRIES):
            if (found := self._ask_probe()) == self._probe:
                return
        raise StateRefused(
            Problem(
                self.endpoint.url,
                "reference",
                f'"{self.model}" answers the probe with {found[:12]}',
                f"{self._probe[:12]}, its answer at the start",
                "serve the teacher that was served at the start, or build the cache anew with the one that is there "
                "now; if it is the same one, its sums depend on its load: serve it to this run alone",
            )
        )

    @cached_property
    def _probe(self) -> str:
        listed = self.endpoint.ask("/v1/models").get("data")
        names = [card.get("id") for card in listed if isinstance(card, dict)] if isinstance(listed, list) else []
        if self.model not in names:
            near = nearest(self.model, [name for name in names if isinstance(name, str)])
            raise self.endpoint.refusal(
                f'no model "{self.model}" on the server{near and self.endpoint.quote(near)[1:-1]}',
                f"one of {self.endpoint.quote(names)}",
                "write the model's name as the server lists it",
            )
        return self._ask_probe()

    def _ask_probe(self) -> str:
        ((ids, log_probs),) = self._ask([list(PROBE)])
        likeliest = [[int(i[0]), round(float(p[0]), 3) + 0.0] for i, p in zip(ids, log_probs, strict=True)]
        return hashlib.sha256(json.dumps(likeliest).encode()).hexdigest()

    def _requests_of(self, texts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """The numbers of the texts that each request holds; a text of one id has no next token to ask for."""
        part: list[int] = []
        entries = 0
        for number, text in enumerate(texts):
            if len(text) < 2:
                continue
            if part and (len(part) == SEQUENCES or entries + len(text) * self.k > ENTRIES):
                yield part
                part, entries = [], 0
            part.append(number)
            entries += len(text) * self.k
        if part:
            yield part

    def _ask(self, texts: list[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
        body = {
            "model": self.model,
            "prompt": texts,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": self.k,
        }
        choices = self.endpoint.ask("/v1/completions", body).get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise self._wrong("no list of choices", "`choices`, one for each sequence")
        by_index = {choice.get("index"): choice for choice in choices if isinstance(choice.get("index"), int)}
        if len(choices) != len(texts) or sorted(by_index) != list(range(len(texts))):
            raise self._wrong(
                f"{len(choices)} choices, their indices {self.endpoint.quote(sorted(by_index))}",
                f"{len(texts)}, indexed from 0",
            )
        found = [self._read(by_index[i].get("prompt_logprobs"), text) for i, text in enumerate(texts)]
        self._same_tokens()
        return found

    def _same_tokens(self) -> None:
        """Refuses a server whose tokens are written otherwise than the student's under the same ids.

        Plain ASCII alone is compared, without spaces and their marks: how a lone byte or a space is shown differs
        between programs, and a few special tokens may.
        """
        other = {i: pair for i, pair in self._spelt.items() if pair[0] != pair[1]}
        if len(self._spelt) >= SPELT and len(other) > ALIKE * len(self._spelt):
            some = "; ".join(
                f"{i}: {self.endpoint.quote(theirs)}, the student's {self.endpoint.quote(ours)}"
                for i, (theirs, ours) in list(other.items())[:3]
            )
            raise self.endpoint.refusal(
                f"{len(other)} of {len(self._spelt)} tokens that are written otherwise ({some})",
                "the student's tokenizer: the same text for every id",
                "serve a teacher of the student's family; or let one write the targets, which needs texts alone",
            )

    def _read(self, positions: Any, text: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """One choice's `prompt_logprobs`, checked: nothing that a server may write wrong reaches a loss."""
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
        found = []
        if not isinstance(entry, dict) or not all(isinstance(value, dict) for value in entry.values()):
            raise self._wrong(f"no tokens at position {position}", 'a mapping: "<id>": {"logprob": …}')
        for name, value in entry.items():
            log_prob, rank = value.get("logprob"), value.get("rank")
            if not (name.isascii() and name.isdigit() and len(name) < 11 and str(int(name)) == name):
                raise self._wrong(f"{self.endpoint.quote(name)} as a token at position {position}", "a token's id")
            if int(name) >= self.vocabulary:
                raise self._wrong(f"token {name} at position {position}", f"an id below {self.vocabulary}")
            number = isinstance(log_prob, int | float) and not isinstance(log_prob, bool)
            if not number or not (log_prob == -math.inf or -1e9 <= log_prob <= 0):  # so is NaN refused
                raise self._wrong(
                    f"{self.endpoint.quote(log_prob)} for token {name} at position {position}", "a log-probability ≤ 0"
                )
            if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
                raise self._wrong(f"rank {self.endpoint.quote(rank)} at position {position}", "a rank of 1 or more")
            found.append((-float(log_prob), rank or 0, int(name)))
            if self.spell is not None and int(name) not in self._spelt:
                theirs, ours = _bare(value.get("decoded_token")), _bare(self.spell(int(name)))
                if theirs and ours:
                    self._spelt[int(name)] = (theirs, ours)
        found.sort()
        if len(found) < self.k:
            raise self._wrong(
                f"{len(found)} tokens at position {position}", f"k = {self.k} at least, as many as the server grants"
            )
        ranks = [rank for _, rank, _ in found if rank]
        if ranks != sorted(ranks) or any(rank > self.k for _, rank, _ in found[: self.k]):
            raise self._wrong(
                f"ranks {self.endpoint.quote(ranks)} at position {position}, likeliest token first",
                f"rising ranks, and the {self.k} likeliest tokens complete",
            )
        if (mass := sum(math.exp(-cost) for cost, _, _ in found)) > 1 + ROUNDING:
            raise self._wrong(f"probabilities of {mass:.6g} in all at position {position}", "at most 1 in all")
        return found

    def _wrong(self, found: str, expected: str) -> UserError:
        return self.endpoint.refusal(
            found,
            expected,
            "serve the teacher with a server that returns `prompt_logprobs` as vLLM does, in its `raw_logprobs` mode",
        )


def _bare(text: Any) -> str:
    """A token's text as far as two programs write it alike: plain ASCII, without spaces and their marks; else none."""
    bare = text.replace("Ġ", " ").replace("▁", " ").removeprefix("##").strip() if isinstance(text, str) else ""
    return bare if bare.isascii() and bare.isprintable() else ""
