from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from keeltune.objective.predictions import Coarse, Rows
from keeltune.objective.prompt_logprobs import ROUNDING, PromptLogprobs
from keeltune.objective.references.reference import Batch, Need, Reference, ReferenceContext
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


class Served(Reference):
    """A teacher behind a server that returns prompt log-probabilities; it fills a cache, training never waits for it.

    `rows` is for that capture: a decoder's texts, their ids as the student reads them, `Coarse` at temperature 1.

    `top` gives the k likeliest next tokens at each position of a text of token ids. There is no text in the protocol
    (`prompt_logprobs.py`): the ids are the teacher's, so that the tokenizers must have been compared before. Start vLLM
    with `--max-logprobs` at least k (20 if not given) and a `--max-model-len` above the longest sequence, and leave
    `--logprobs-mode` at `raw_logprobs`. It writes −9999 for −inf.

    endpoint: the server; see `utils.http_client.Endpoint`. The key of the server, if it wants one, is in the
        environment variable KEELTUNE_REFERENCE_KEY and nowhere else.
    model: its name on the server, as /v1/models lists it.
    k: how many tokens a position.
    vocabulary: C of the teacher; an id outside it is refused, asked or answered. None: below 2^31.
    spell: how the student's tokenizer writes an id; see `PromptLogprobs`.

    Raises `Stopped` (75) where the server stays away, `UserError` (2) for a wrong answer, `StateRefused` (3) where the
    teacher changes while it is asked.
    """

    kind = "served"
    needs: ClassVar[frozenset[Need]] = frozenset({"server"})

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        k: int,
        *,
        vocabulary: int | None = None,
        spell: Callable[[int], str] | None = None,
    ):
        self.vocabulary = 2**31 if vocabulary is None else vocabulary
        if not 1 <= k <= self.vocabulary:
            raise UserError(
                Problem("", "reference", f"k = {k}", f"1 to {self.vocabulary} tokens a position", "correct k")
            )
        self.endpoint, self.model, self.k = endpoint, model, k
        self._answers = PromptLogprobs(endpoint, k, self.vocabulary, spell)
        self._requests = 0

    @classmethod
    def build(cls, context: ReferenceContext) -> Served:
        fields, choices = context.fields, context.choices
        endpoint = Endpoint(fields["url"], allow_host=fields.get("allow_host") or "")
        return cls(endpoint, fields["model"], min(fields["k"], choices), vocabulary=choices, spell=context.spell)

    def rows(self, batch: Batch) -> Rows:
        inputs, predicted = batch["inputs"], batch["predicted"].tolist()
        texts = [
            ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        tables = self.top(texts)
        positions = [[t for t, is_predicted in enumerate(line) if is_predicted] for line in predicted]
        ids = torch.from_numpy(np.concatenate([i[t] for (i, _), t in zip(tables, positions, strict=True)]))
        kept = torch.from_numpy(np.concatenate([p[t] for (_, p), t in zip(tables, positions, strict=True)])).double()
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
            for number, answer in zip(part, self._request([texts[i] for i in part]), strict=True):
                answers[number] = answer
            self._requests += 1
            if self._requests % PROBE_EVERY == 0:
                self.verify()
        return answers

    def identity(self) -> dict[str, str]:
        """What names the teacher for a cache: the same for every k and batch, another for other weights.

        model: its name; probe: SHA-256 of its likeliest token and that token's log-probability, to 3 digits after the
        point, at each position of `PROBE`. Requested once. A teacher moved to hardware or a precision that rounds
        otherwise is another one: its numbers are.
        """
        return {"model": self.model, "probe": self._probe}

    def verify(self) -> None:
        """Requests the probe again: `StateRefused` if the server no longer holds the teacher that `identity` named.

        Called here every `PROBE_EVERY` requests. A writer of a cache calls it before it finishes a shard and at the
        end: what was answered between two calls that pass is one teacher's.
        """
        for _ in range(PROBE_TRIES):
            if (probe := self._request_probe()) == self._probe:
                return
        raise StateRefused(
            Problem(
                self.endpoint.url,
                "reference",
                f'"{self.model}" answers the probe with {probe[:12]}',
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
        return self._request_probe()

    def _request_probe(self) -> str:
        ((ids, log_probs),) = self._request([list(PROBE)])
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

    def _request(self, texts: list[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
        body = {
            "model": self.model,
            "prompt": texts,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": self.k,
        }
        return self._answers.read(self.endpoint.ask("/v1/completions", body), texts)
