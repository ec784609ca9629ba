"""Models and processors: found, checked, loaded.

Weights are read from safetensors only and held in float32, whatever their stored dtype, unless a run holds a frozen
base in half precision; no code of a model folder is
ever run. What a folder lacks is said before training, by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keeltune.models import adapters, computed_weights, remembered, weight_files
from keeltune.models.adapters import adapters_on, base_of
from keeltune.models.attention import whole_attention
from keeltune.models.building import shapes_alone
from keeltune.models.configuration import look_back, read_config
from keeltune.models.half_precision import HALF, reads_sound_and_pictures
from keeltune.models.holding import FLOAT32, Holding
from keeltune.models.model_files import or_refuse
from keeltune.models.processors import padding, read_processor, tokenizer_of
from keeltune.models.vocabulary import CTC, bounds_of, fit_ctc_head, unknown_tokens
from keeltune.utils.errors import Problem, UserError, name_list, shown, visible


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Holds back transformers' own bars and warnings: what matters of them is reported once, in keeltune's words."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class Loaded:
    """A model with its processor. `fresh` names the weights that no checkpoint held; `notes` are for the log."""

    model: Any
    processor: Any
    source: str
    fresh: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def untrained_head(source: str, config: Any, auto_model: str) -> list[str]:
    """The head's weights that a local folder does not hold so; loading would draw them at random.

    A hub id is not looked into: what it lacks shows when it is loaded.
    """
    if not Path(source).is_dir() or weight_files.lacks_weights(Path(base_of(source))):
        return []
    model, info = or_refuse(lambda: _without_weights(source, config, auto_model), source, "", "model")
    return _untrained(_unloaded(model, info, source)[0], source)


def _untrained(fresh: Sequence[str], source: str) -> list[str]:
    """Of the weights of a head that a checkpoint lacks, those that no adapter has either and that choose something."""
    given = {name for adapter in adapters_on(source) for name in adapter.trained_whole}
    return sorted(name for name in fresh if name not in given and ".pooler." not in name)


def check_weights(source: str, config: Any, auto_model: str, where: str, field: str) -> list[str]:
    """`untrained_head`; UserError where a local folder's weights do not make this model, as `load` would find."""
    if not Path(source).is_dir() or weight_files.lacks_weights(Path(base_of(source))):
        return []
    model, info = or_refuse(lambda: _without_weights(source, config, auto_model), source, where, field)
    fresh, problem = _unloaded(model, info, source)
    if problem := problem or computed_weights.too_many(model, fresh, base_of(source)):
        raise UserError(Problem(where, field, *problem))
    for adapter in adapters_on(source):
        shape = skeleton(config, auto_model, where, field)
        if reason := or_refuse(partial(adapters.misfit, shape, adapter), str(adapter.folder), where, field):
            found = f"{shown(str(adapter.folder))} is no adapter of {shown(adapter.base)}: {reason}"
            fix = "name its own base in adapter_config.json (base_model_name_or_path)"
            raise UserError(Problem(where, field, found, "an adapter of this very model", fix))
    return _untrained(fresh, source)


def _without_weights(source: str, config: Any, auto_model: str) -> tuple[Any, dict[str, Any]]:
    """The model on the meta device, and what transformers says of loading: many are stored under other names than
    their live weights have."""
    import transformers

    base = base_of(source)

    def look() -> tuple[Any, dict[str, Any]]:
        with quiet_transformers(), shapes_alone():
            model, info = getattr(transformers, auto_model).from_pretrained(
                base, config=config, device_map="meta", use_safetensors=True, trust_remote_code=False,
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
        return model, info

    known = (auto_model, config.to_json_string(use_diff=False))
    return remembered.once(base, known, look) if Path(base).is_dir() else look()


def fit_head(source: str, config: Any, processor: Any, auto_model: str) -> str | None:
    """Sizes a head that is new by what it chooses among, in `config`; what users should know of it."""
    if auto_model != CTC:
        return None
    return fit_ctc_head(config, tokenizer_of(processor), trained=not untrained_head(source, config, auto_model))


def pick(auto_models: Sequence[str], config: Any, where: str, field: str) -> str:
    """The first of the `transformers` classes that makes a model of this configuration; UserError where none does."""
    import transformers

    for name in auto_models:
        if type(config) in getattr(transformers, name)._model_mapping:
            return name
    kinds = " or ".join(name.removeprefix("AutoModelFor") for name in auto_models)
    raise UserError(
        Problem(where, field, f"an architecture of type {config.model_type}", f"one that transformers has for {kinds}",
                "take a model of another architecture, or another task")
    )  # fmt: skip


@dataclass(frozen=True)
class Head:
    """The head that a model gets.

    labels       its label names in their order; none: the head that the model has
    multi_label  whether each label is a yes or no of its own
    new          whether it starts afresh though the checkpoint may hold one (for other labels)
    numbers      whether its outputs are numbers
    """

    labels: Sequence[str] = ()
    multi_label: bool = False
    new: bool = False
    numbers: bool = False


def load(
    source: str, auto_model: str, head: Head, *, where: str, field: str, reads: str = "text", held: Holding = FLOAT32
) -> Loaded:
    """The model with its head, held as `held` says, with its processor and a padding token.

    Raises UserError for weights missing outside the head, of another shape or not finite, and for a tokenizer with more
    tokens than the model has embeddings.
    """
    import transformers

    config = read_config(source, where, field)
    processor = read_processor(source, where, field, reads)
    if head.labels:
        config.id2label = dict(enumerate(head.labels))
        config.label2id = {name: i for i, name in enumerate(head.labels)}
    if auto_model == "AutoModelForSequenceClassification":
        kind = "multi_label_classification" if head.multi_label else "single_label_classification"
        config.problem_type = "regression" if head.numbers else kind
    changes = [note for note in (fit_head(source, config, processor, auto_model), whole_attention(config)) if note]
    changes += look_back(config, auto_model)
    model, info = or_refuse(
        lambda: getattr(transformers, auto_model).from_pretrained(
            base_of(source),
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **held.arguments(partial(skeleton, config, auto_model, where, field)),
        ),
        source,
        where,
        field,
    )
    fresh, problem = _unloaded(model, info, source)
    chain, join = adapters_on(source), adapters.merged if held.merged else adapters.attached
    for adapter in chain:
        model = or_refuse(partial(join, model, adapter), str(adapter.folder), where, field)
        fresh = [name for name in fresh if name not in adapter.trained_whole]
    if problem := problem or _not_finite(model, source):
        raise UserError(Problem(where, field, *problem))
    if other := sorted({str(name) for name, *_ in info["mismatched_keys"]} & set(fresh)):
        changes.append(f"new weights, as those stored have another shape: {', '.join(other[:5])}")
    if held.dtype in HALF:
        reads_sound_and_pictures(model)
    if head.new:
        fresh = sorted({*fresh, *_reset_head(model)})
    how = "is merged into" if held.merged else "lies on"
    notes = [f"the adapter {shown(str(a.folder))} {how} {shown(a.base)}" for a in chain]
    if idle := sorted(name for name in info["unexpected_keys"] if re.search(r"\.\d+\.", name)):
        listed = name_list(idle[:3])
        notes.append(f"{shown(source)} holds {len(idle)} weights that this model has no place for, such as {listed}")
    notes += padding(model, processor, auto_model)
    if problem := misfit(model, processor):
        raise UserError(Problem(where, field, *problem))
    return Loaded(model, processor, source, tuple(fresh), (*changes, *notes))


Reason = tuple[str, str, str]
"""What is wrong with a model: found, expected, fix."""


def _unloaded(model: Any, info: dict[str, Any], source: str) -> tuple[list[str], Reason | None]:
    """The head's weights that the checkpoint did not hold, and why others are lacking, if any are."""
    shapes = {
        str(name): f"{name} {list(stored)} for {list(wanted)}" for name, stored, wanted in info["mismatched_keys"]
    }
    missing = sorted({*info["missing_keys"], *shapes})
    head = _head(model, missing)
    lost = sorted(set(missing) - set(head))
    if not lost:
        return head, None
    more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
    found = f"{shown(source)} lacks, or holds in another shape: {', '.join(shapes.get(n, n) for n in lost[:5])}{more}"
    expected = "every weight of the pretrained model (only the task's head may be new)"
    return head, (found, expected, "save the whole model there again")


def _not_finite(model: nn.Module, source: str) -> Reason | None:
    broken = [n for n, t in model.state_dict().items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if not broken:
        return None
    found = f"{shown(source)}: {', '.join(broken[:5])} hold NaN or infinity"
    return found, "finite weights", "take an earlier checkpoint"


def misfit(model: Any, processor: Any) -> Reason | None:
    """Why a tokenizer does not fit a model (or its skeleton): texts would be cut into tokens that the model lacks."""
    known = [rows for rows in (bounds_of(model).reads, bounds_of(model).writes) if rows is not None]
    if not (lacking := unknown_tokens(tokenizer_of(processor), min(known, default=None))):
        return None
    names = ", ".join(map(visible, lacking[:5]))
    found = f"a tokenizer of {len(tokenizer_of(processor))} tokens for {min(known)} embeddings, with none for {names}"
    return found, "an embedding for every token", "use the tokenizer that the model was trained with"


def _head(model: Any, names: Sequence[str]) -> list[str]:
    """Those of a model's weights that belong to the task's head (or to the pooler that only a head reads)."""
    from transformers import AutoModel

    prefix = getattr(model, "base_model_prefix", "")
    if hasattr(model, prefix):
        return [name for name in names if not name.startswith(f"{prefix}.") or ".pooler." in name]
    if type(model.config) in AutoModel._model_mapping:  # T5 and its kin: what the model without a task does not have
        plain = skeleton(model.config, "AutoModel").state_dict().keys()
        return [name for name in names if name not in plain]
    output = model.get_output_embeddings()  # two models joined: what makes logits
    heads = tuple(f"{n}." for n, m in model.named_modules() if m is output)
    return [name for name in names if name.startswith(heads)]


def _reset_head(model: Any) -> list[str]:
    """Starts the modules outside the base model afresh; names their weights.

    Not by the model's own initialiser: it passes over weights that were loaded.
    """
    fresh = []
    for name, child in model.named_children():
        if name == model.base_model_prefix:
            continue
        for module in child.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=getattr(model.config, "initializer_range", 0.02))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        fresh += [f"{name}.{parameter}" for parameter, _ in child.named_parameters()]
    return fresh


def skeleton(config: Any, auto_model: str, where: str = "", field: str = "model") -> Any:
    """The model without its weights (on the meta device): sizes and bounds, for nothing.

    UserError where the configuration does not make a model with this head.
    """
    import transformers

    def build() -> Any:
        with torch.device("meta"), shapes_alone():
            return getattr(transformers, auto_model).from_config(config, dtype=torch.float32)

    return or_refuse(build, config.name_or_path, where, field)
