"""A text by an exported model, token by token, with numpy and onnxruntime alone.

This file lies in the folder of each exported model that writes; keeltune asks such a folder by the same lines.

    writer = Greedy(folder)
    writer.write({"input_ids": [[5, 6, 7]]})       # the tokens that are written behind a prompt, their end among them

Graphs, of one row or several (B rows, T tokens now, P tokens before, S source tokens, V choices):

    a decoder
        model.onnx           input_ids, attention_mask [B, P + T], position_ids, past_key_values.N.key and .value …
                             -> logits [B, T, V], present.N.key …
    an encoder-decoder
        encoder_model.onnx   what is read -> present.N.encoder.key …, made once of a source
        decoder_model.onnx   input_ids, encoder_attention_mask [B, S] of a source that is text,
                             past_key_values.N.decoder.key …, past_key_values.N.encoder.key …
                             -> logits, present.N.decoder.key …

Each next token is the likeliest of those that generation_config.json allows; its rules are those of `transformers`'
`GenerationMixin.generate` and come in its order. A text begins with P = 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RULES = ("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "min_new_tokens", "forced_bos_token_id",
         "suppress_tokens", "begin_suppress_tokens")  # fmt: skip
"""The settings that are kept, besides the end and the most tokens of a text."""

PAST, PRESENT = "past_key_values.", "present."


class Greedy:
    """Reads and writes one row at a time. `threads` None: as many as onnxruntime likes."""

    def __init__(self, folder: str | Path, threads: int | None = None):
        place = Path(folder)
        self.settings: dict[str, Any] = json.loads((place / "generation_config.json").read_text("utf-8"))
        reads = (place / "encoder_model.onnx").is_file()
        self.encoder = _session(place / "encoder_model.onnx", threads) if reads else None
        self.decoder = _session(place / ("decoder_model.onnx" if reads else "model.onnx"), threads)
        self.inputs = {one.name: one.shape for one in self.decoder.get_inputs()}
        self.outputs = [one.name for one in self.decoder.get_outputs()]

    @property
    def ends(self) -> list[int]:
        """The tokens that end a text."""
        ends = self.settings.get("eos_token_id")
        return list(ends) if isinstance(ends, list) else [] if ends is None else [ends]

    def write(
        self, inputs: Mapping[str, Any], opening: Sequence[int] | None = None, most: int | None = None
    ) -> list[int]:
        """The tokens behind the prompt `input_ids` [1, S] of a decoder, or behind `opening`, from which a decoder
        starts whose encoder reads `inputs`; None: its start token. `most`: other than the settings have."""
        state, ids = self.begin(inputs, opening)
        begun, given = len(ids), ids
        for _ in range(self.settings["max_new_tokens"] if most is None else most):
            scores = self.step(state, given)[-1].astype(np.float32)
            ids.append(int(allowed(scores, ids, begun, self.settings, self.ends).argmax()))
            if ids[-1] in self.ends:
                break
            given = ids[-1:]
        return ids[begun:]

    def likeliest(self, inputs: Mapping[str, Any], opening: Sequence[int], among: Iterable[int]) -> int:
        """The one of some tokens that a text would likeliest begin with: the language that Whisper hears."""
        state, ids = self.begin(inputs, opening)
        choices = list(among)
        return choices[int(self.step(state, ids)[-1][choices].argmax())]

    def begin(
        self, inputs: Mapping[str, Any], opening: Sequence[int] | None = None
    ) -> tuple[dict[str, Any], list[int]]:
        """What the decoder keeps before its first token, and the tokens that it is given."""
        named = {name: _as_read(np.asarray(value)) for name, value in inputs.items()}
        state = {name: self._nothing(shape) for name, shape in self.inputs.items() if name.startswith(PAST)}
        if self.encoder is None:
            return state, [int(token) for token in named["input_ids"][0]]
        asked = [one.name for one in self.encoder.get_inputs()]
        if "attention_mask" in asked and "attention_mask" not in named:
            named["attention_mask"] = np.ones(named[asked[0]].shape[:2], np.int64)
        names = [one.name for one in self.encoder.get_outputs()]
        read = self.encoder.run(names, {name: named[name] for name in asked})
        state |= {PAST + name.removeprefix(PRESENT): value for name, value in zip(names, read)}  # noqa: B905
        if "encoder_attention_mask" in self.inputs:
            state["encoder_attention_mask"] = named["attention_mask"]
        return state, [self.settings["decoder_start_token_id"]] if opening is None else list(opening)

    def step(self, state: dict[str, Any], given: Sequence[int]) -> np.ndarray:
        """Logits [T, V] behind each of the tokens given, which `state` keeps from then on."""
        past = next(value.shape[2] for name, value in state.items() if name.startswith(PAST) and "encoder" not in name)
        total = past + len(given)
        known = {
            "input_ids": np.array([given], np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(past, total, dtype=np.int64)[None],
            **state,
        }
        read = self.decoder.run(self.outputs, {name: known[name] for name in self.inputs})
        named = dict(zip(self.outputs, read))  # noqa: B905
        state |= {PAST + n.removeprefix(PRESENT): v for n, v in named.items() if n.startswith(PRESENT)}
        logits: np.ndarray = named["logits"][0]
        return logits

    def _nothing(self, shape: Sequence[Any]) -> np.ndarray:
        """Keys or values of no token: [1, heads, 0, size]."""
        return np.zeros((1, shape[1], 0, shape[3]), np.float32)


def allowed(
    scores: np.ndarray, ids: Sequence[int], begun: int, settings: Mapping[str, Any], ends: Sequence[int]
) -> np.ndarray:
    """The scores [V] of the next token, −inf for one that may not come; `ids` are all tokens before it, of which the
    first `begun` were given."""
    if (penalty := settings.get("repetition_penalty") or 1.0) != 1.0:
        seen = sorted(set(ids))
        rate = np.float32(penalty)
        scores[seen] = np.where(scores[seen] < 0, scores[seen] * rate, scores[seen] / rate)
    banned: set[int] = set()
    if n := settings.get("no_repeat_ngram_size") or 0:
        last = list(ids[len(ids) + 1 - n :])
        banned |= {ids[i + n - 1] for i in range(len(ids) - n + 1) if list(ids[i : i + n - 1]) == last}
    for *before, word in settings.get("bad_words_ids") or []:
        if list(ids[len(ids) - len(before) :]) == before and not (word in ends and not before):
            banned.add(word)
    if len(ids) - begun < (settings.get("min_new_tokens") or 0):
        banned |= set(ends)
    scores[sorted(banned)] = -np.inf
    forced = settings.get("forced_bos_token_id")
    if forced is not None and len(ids) == 1:
        scores[:] = -np.inf
        scores[forced] = 0.0
    scores[settings.get("suppress_tokens") or []] = -np.inf
    if len(ids) == (begun if begun > 1 or forced is None else begun + 1):
        scores[settings.get("begin_suppress_tokens") or []] = -np.inf
    return scores


def _as_read(value: np.ndarray) -> np.ndarray:
    """Numbers as the graphs have them: whole ones in 64 bits, all others in 32."""
    return value.astype(np.int64 if value.dtype.kind in "iub" else np.float32)


def _session(file: Path, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of shapes that it works out itself
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
