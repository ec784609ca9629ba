"""The graphs of a model that writes: it is given the keys and values of what was before, and gives those of now.

Names, files and shapes are said in `greedy.py`, which runs them. Nothing of an architecture stands here either: its own
`forward` is given a cache of `transformers`, filled with the graph's inputs. What cross-attention reads of a source is
the same for every token, so the encoder's graph makes it, once.

Shapes: B rows, S source tokens, T tokens now, P tokens before, H heads, D numbers a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from keeltune.exporters.onnx import FILE, write_graph
from keeltune.tasks.architectures.architecture import bare
from keeltune.utils.errors import Problem, UserError

ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"

ROWS, TOKENS, BEFORE, START = 2, 3, 5, 0
"""Sizes at which torch follows a graph: all different, none of them 1, which it would take for ever the same."""


def write_graphs(model: Any, inputs: Mapping[str, Tensor], folder: Path, where: str) -> None:
    """Writes the graphs of a float32 model in eval mode; `inputs`: what an encoder reads of two rows or more.

    Raises: UserError: a model that keeps something else of what was before than keys and values, or whose graph torch
        cannot follow.
    """
    model = bare(model)
    with _eager(model):
        if model.config.is_encoder_decoder:
            _write_encoder(model, inputs, folder, where)
        else:
            _write_decoder(model, folder, where)


def _write_decoder(model: Any, folder: Path, where: str) -> None:
    with torch.no_grad():
        ids = torch.full((ROWS, BEFORE), START)
        read = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
    past = _of_cache(read.past_key_values, model, where)
    total = BEFORE + TOKENS
    given = {
        "input_ids": torch.full((ROWS, TOKENS), START),
        "attention_mask": torch.ones(ROWS, total, dtype=torch.long),
        "position_ids": torch.arange(BEFORE, total).expand(ROWS, TOKENS).contiguous(),
    }
    if "position_ids" not in inspect.signature(model.forward).parameters:
        del given["position_ids"]
    known = {"input_ids": "sequence", "attention_mask": "total", "position_ids": "sequence"}
    axes = [*({0: "batch", 1: known[name]} for name in given), *({0: "batch", 2: "past"} for _ in past)]
    names = _names("past_key_values.{}", len(past))
    outputs = ["logits", *_names("present.{}", len(past))]
    inputs = given | dict(zip(names, past, strict=True))
    write_graph(_Decoder(model, list(given)), inputs, outputs, axes, folder / FILE, where)


def _write_encoder(model: Any, inputs: Mapping[str, Tensor], folder: Path, where: str) -> None:
    with torch.no_grad():
        read = model(**inputs, decoder_input_ids=torch.full((len(next(iter(inputs.values()))), BEFORE), START),
                     use_cache=True)  # fmt: skip
    cache = read.past_key_values
    past = _of_cache(cache.self_attention_cache, model, where)
    crossed = _of_cache(cache.cross_attention_cache, model, where)
    present = _names("present.{}.encoder", len(crossed))
    sizes = [{0: "batch"} | ({1: "sequence"} if _grows(model, name, value) else {}) for name, value in inputs.items()]
    write_graph(_Encoder(model, list(inputs)), inputs, present, sizes, folder / ENCODER, where)

    masked = "input_ids" in inputs and "attention_mask" in inputs
    rows = len(crossed[0])
    given = {"input_ids": torch.full((rows, TOKENS), START)}
    axes: list[dict[int, str]] = [{0: "batch", 1: "sequence"}]
    if masked:
        given["encoder_attention_mask"] = inputs["attention_mask"]
        axes.append({0: "batch", 1: "source"})
    source = {0: "batch", 2: "source"} if any(1 in size for size in sizes) else {0: "batch"}
    axes += [*({0: "batch", 2: "past"} for _ in past), *(source for _ in crossed)]
    names = [*_names("past_key_values.{}.decoder", len(past)), *_names("past_key_values.{}.encoder", len(crossed))]
    outputs = ["logits", *_names("present.{}.decoder", len(past))]
    cached = dict(zip(names, [*past, *crossed], strict=True))
    step = _CrossedDecoder(model, masked, len(past))
    write_graph(step, given | cached, outputs, axes, folder / DECODER, where)


class _Decoder(nn.Module):
    """(input_ids [B, T] …, keys and values [B, H, P, D] of each layer) -> (logits, those [B, H, P + T, D])."""

    def __init__(self, model: Any, names: Sequence[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        named, past = dict(zip(self.names, given)), given[len(self.names) :]  # noqa: B905
        read = self.model(**named, past_key_values=_cache(past), use_cache=True)
        return (read.logits, *_tensors(read.past_key_values))


class _Encoder(nn.Module):
    """What is read -> the keys and values [B, H, S, D] that each layer of the decoder makes of it."""

    def __init__(self, model: Any, names: Sequence[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self.names, given, strict=True))
        begun = torch.full((given[0].shape[0], 1), START, dtype=torch.long)
        read = self.model(**named, decoder_input_ids=begun, use_cache=True, **_joined(self.model, begun))
        return tuple(_tensors(read.past_key_values.cross_attention_cache))


class _CrossedDecoder(nn.Module):
    """(input_ids [B, T], the source's mask [B, S], `own` keys and values [B, H, P, D], the source's [B, H, S, D]) ->
    (logits, keys and values [B, H, P + T, D])."""

    def __init__(self, model: Any, masked: bool, own: int):
        super().__init__()
        self.model, self.masked, self.own = model, masked, own

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        from transformers import EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        ids, cached = given[0], given[2 if self.masked else 1 :]
        past, crossed = cached[: self.own], cached[self.own :]
        cache = EncoderDecoderCache(_cache(past), _cache(crossed))
        cache.is_updated = dict.fromkeys(range(len(crossed) // 2), True)
        width = self.model.get_encoder().config.hidden_size
        # of which nothing is read but its size: the cache holds what was made of it
        unread = crossed[0].new_zeros(crossed[0].shape[0], crossed[0].shape[2], width)
        mask = {"attention_mask": given[1]} if self.masked else {}
        whole = torch.ones(ids.shape[0], past[0].shape[2] + ids.shape[1], dtype=torch.long)
        read = self.model(encoder_outputs=BaseModelOutput(last_hidden_state=unread), decoder_input_ids=ids,
                          past_key_values=cache, use_cache=True, **mask, **_joined(self.model, whole))  # fmt: skip
        return (read.logits, *_tensors(read.past_key_values.self_attention_cache))


def _joined(model: Any, tokens: Tensor) -> dict[str, Tensor]:
    """A mask for two models joined, which would take a padding token that starts a text for padding."""
    return {"decoder_attention_mask": torch.ones_like(tokens)} if model.config.model_type == "encoder-decoder" else {}


def _cache(tensors: Sequence[Tensor]) -> Any:
    from transformers import DynamicCache

    return DynamicCache(list(zip(tensors[::2], tensors[1::2], strict=True)))


def _tensors(cache: Any) -> Iterator[Tensor]:
    for layer in cache.layers:
        yield from (layer.keys, layer.values)


def _of_cache(cache: Any, model: Any, where: str) -> list[Tensor]:
    """Keys and values of each layer; UserError where a model keeps something else: a state, a window of its own."""
    from transformers import DynamicCache

    tensors = [t for layer in getattr(cache, "layers", []) for t in (getattr(layer, "keys", None),)]
    if not isinstance(cache, DynamicCache) or not tensors or any(t is None or t.dim() != 4 for t in tensors):
        found = f"{model.config.model_type}, which keeps something else of a text than keys and values"
        expected, fix = "a model whose layers all attend", f"use {where} with transformers, as its card says"
        raise UserError(Problem(where, "model", found, expected, fix))
    return list(_tensors(cache))


def _names(form: str, count: int) -> list[str]:
    """Of `count` keys and values, layer by layer."""
    return [f"{form.format(layer)}.{part}" for layer in range(count // 2) for part in ("key", "value")]


def _grows(model: Any, name: str, value: Tensor) -> bool:
    """Whether an input has any length: as texts, waves and masks; no picture, nor mel features of a fixed window."""
    return value.dim() == 2 or (name == "input_features" and model.config.model_type != "whisper")


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Within: attention as sums of products, which every runtime has."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
