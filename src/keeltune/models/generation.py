"""How a model is asked for text: one `GenerationConfig`, by which texts are scored and which is saved with the model.

A base model's own settings are of two kinds. What the model needs to write at all is kept: its special tokens, those
that it must not write, the language that it is told. How its authors liked their texts (a least length, beams, n-grams
that must not come twice, sampling) is a choice, and the recipe's: it would rule the scores unseen, and hide what was
learnt. What is left aside is said (`differences`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeltune.models.adapters import base_of
from keeltune.models.model_files import or_refuse
from keeltune.utils.json import read_json

NEEDED = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id", "bad_words_ids",
    "suppress_tokens", "begin_suppress_tokens", "use_cache",
)  # fmt: skip
"""What is kept of a base model's settings."""

OPENINGS = ("language", "task", "lang_to_id", "task_to_id", "is_multilingual", "no_timestamps_token_id",
            "forced_decoder_ids", "return_timestamps")  # fmt: skip
"""How a Whisper-type model is told what to write: made anew from the tokenizer, by which its targets are made."""

FALLBACKS = ("logprob_threshold", "compression_ratio_threshold", "no_speech_threshold", "condition_on_prev_tokens",
             "prompt_condition_type", "return_token_timestamps")  # fmt: skip
"""When a Whisper-type model writes a text again, in another way."""

OF_SAMPLING = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
"""What has a meaning where texts are drawn: a score is of the likeliest text, the same each time."""

NO_CHOICE = ("transformers_version", "_from_model_config", "output_attentions", "output_hidden_states",
             "output_scores", "output_logits", "return_dict_in_generate", "cache_implementation",
             "cache_config")  # fmt: skip
"""Entries that change no text."""


def stored_generation(source: str | None, config: Any, where: str = "", field: str = "model") -> Any:
    """A model's own `GenerationConfig`: of its folder, else as its configuration says; None as `source`: a new model.

    UserError for a generation_config.json that cannot be read.
    """
    from transformers import GenerationConfig

    if source is not None and not (Path(source) / "generation_config.json").is_file():
        source = base_of(source)
    file = Path(source or "") / "generation_config.json"
    if source is not None and file.is_file():
        values = read_json(file, field, kind=dict, infinity=True)
        values.pop("_from_model_config", None)  # which would hide what is no field of its class
        return or_refuse(lambda: GenerationConfig.from_dict(values), str(file), where, field)
    if source is not None and not Path(source).is_dir():
        try:
            return GenerationConfig.from_pretrained(source)
        except OSError:  # a model of the hub that has none
            pass
    return or_refuse(lambda: GenerationConfig.from_model_config(config), source or "a new model", where, field)


def scored_generation(stored: Any, ours: Mapping[str, Any]) -> Any:
    """The `GenerationConfig` of `ours` (None: nothing said), with what the model needs of its own. Applied to its own
    result it changes nothing."""
    from transformers import GenerationConfig

    plain = GenerationConfig().to_dict()
    values = stored.to_dict()
    kept = {name: values[name] for name in NEEDED if values.get(name) is not None}
    kept |= {n: v for n, v in values.items() if n not in plain and n not in (*OPENINGS, *FALLBACKS, *NO_CHOICE)}
    return GenerationConfig(**{name: value for name, value in {**kept, **ours}.items() if value is not None})


def plain_generation(scored: Any) -> Any:
    """The same for texts that are drawn from the model's own distribution: nothing forbidden, preferred or cut off."""
    from transformers import GenerationConfig

    values = scored.to_dict()
    names = (
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "decoder_start_token_id",
        "forced_bos_token_id",
        "use_cache",
    )
    return GenerationConfig(max_new_tokens=scored.max_new_tokens, **{name: values[name] for name in names})


def choices(stored: Any) -> dict[str, Any]:
    """What a model's settings choose of how texts are written: entries that are not the default and not needed."""
    from transformers import GenerationConfig

    plain = GenerationConfig().to_dict()
    kept = {*NEEDED, *OPENINGS, *NO_CHOICE}
    values = {n: v for n, v in stored.to_dict().items() if n not in kept and (n in plain or n in FALLBACKS)}
    return {name: value for name, value in values.items() if value != plain.get(name) and _is_choice(name, value)}


def _is_choice(name: str, value: Any) -> bool:
    """Whether a value is other than what changes nothing."""
    neutral = {"num_beams": 1, "do_sample": False, "temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.0,
               "length_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "early_stopping": False}  # fmt: skip
    return value is not None and value != neutral.get(name)


def differences(stored: Any, scored: Any) -> dict[str, Any]:
    """The base's choices that texts are not written by."""
    ours = scored.to_dict()
    sampled = stored.do_sample
    return {
        name: value
        for name, value in choices(stored).items()
        if ours.get(name) != value and (sampled or name not in OF_SAMPLING)
    }


def own_choices(stored: Any) -> dict[str, Any]:
    """A bare folder's own choices, by which it is scored and predicts: all but drawing; beams and length apart."""
    left_out = (*OF_SAMPLING, *FALLBACKS, "max_length", "max_new_tokens", "num_beams", "num_return_sequences")
    return {} if stored is None else {n: v for n, v in choices(stored).items() if n not in left_out}


def own_beams(stored: Any) -> int:
    """A bare folder's own number of beams; 1 where it says none."""
    beams = getattr(stored, "num_beams", None)
    return beams if isinstance(beams, int) and beams > 0 else 1


def own_length(stored: Any, config: Any) -> int:
    """The most tokens that a bare folder writes by its own settings; 64 where it says nothing of texts alone."""
    new, most = getattr(stored, "max_new_tokens", None), getattr(stored, "max_length", None)
    if isinstance(new, int) and new > 0:
        return new
    alone = getattr(config, "is_encoder_decoder", False)
    return most - 1 if alone and isinstance(most, int) and most > 1 else 64


def allow(config: Any, texts: Iterable[Sequence[int]]) -> None:
    """Lets a model write again what its settings forbid, anywhere or at the beginning, and its training texts have
    there."""
    anywhere: set[int] = set()
    first: set[int] = set()
    for text in texts:
        anywhere.update(text)
        first.update(text[:1])
    for name, written in (("suppress_tokens", anywhere), ("begin_suppress_tokens", first)):
        if forbidden := getattr(config, name, None):
            setattr(config, name, [token for token in forbidden if token not in written] or None)
