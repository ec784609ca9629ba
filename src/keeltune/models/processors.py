"""Tokenizers and feature extractors: read, and given a token to pad with."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from keeltune.models.adapters import base_of
from keeltune.models.extractors import check_extractor
from keeltune.models.model_files import or_refuse
from keeltune.models.vocabulary import CTC, vocabulary_size
from keeltune.utils.errors import Problem, UserError, shown, visible

PROBE = "a B 7 é 中 \U0001f600"
"""What every tokenizer takes, if only as unknown."""


class Pair:
    """A tokenizer with what turns pictures or sound into numbers, where a model has no processor for both."""

    def __init__(self, tokenizer: Any, extractor: Any):
        self.tokenizer, self.extractor = tokenizer, extractor

    def save_pretrained(self, folder: Any) -> None:
        self.tokenizer.save_pretrained(folder)
        self.extractor.save_pretrained(folder)


def tokenizer_of(processor: Any) -> Any:
    """The part of a processor that reads and writes text."""
    return getattr(processor, "tokenizer", processor)


def extractor_of(processor: Any) -> Any:
    """The part of a processor that turns pictures or sound into numbers, or None."""
    names = ("extractor", "image_processor", "feature_extractor")
    return next((getattr(processor, name) for name in names if getattr(processor, name, None) is not None), None)


SPELLINGS = "normalizer.json"
"""The file in which Whisper's tokenizer has its table of British and American spellings."""


def spellings(processor: Any) -> dict[str, str] | None:
    """The British spellings that a tokenizer knows, with the American ones; None where it has no such table."""
    table = getattr(tokenizer_of(processor), "english_spelling_normalizer", None)
    return table if isinstance(table, dict) and table else None


def save_processor(processor: Any, folder: Path) -> None:
    """Saves a processor, its table of spellings too, which `save_pretrained` leaves out."""
    processor.save_pretrained(folder)
    if (table := spellings(processor)) is not None:
        (folder / SPELLINGS).write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_processor(source: str, where: str, field: str, reads: str = "text") -> Any:
    """The model's tokenizer, with what reads pictures or sound beside it; UserError where it cannot be had."""
    import transformers as t

    if not (Path(source) / "tokenizer_config.json").is_file():
        source = base_of(source)  # an adapter's folder may have one of its own

    def load(auto: Any) -> Any:
        return auto.from_pretrained(source, trust_remote_code=False)

    if reads == "text":
        return _sound_tokenizer(or_refuse(lambda: load(t.AutoTokenizer), source, where, field), source, where, field)
    processor = None
    with suppress(Exception):  # many models have no processor for both parts; then the parts are read one by one
        processor = load(t.AutoProcessor)
    if hasattr(processor, "tokenizer") and extractor_of(processor) is not None:
        _sound_tokenizer(tokenizer_of(processor), source, where, field)
        check_extractor(extractor_of(processor), reads, source, where, field)
        return processor
    tokenizer = _sound_tokenizer(or_refuse(lambda: load(t.AutoTokenizer), source, where, field), source, where, field)
    return Pair(tokenizer, read_extractor(source, where, field, reads))


def _sound_tokenizer(tokenizer: Any, source: str, where: str, field: str) -> Any:
    """The tokenizer, whose settings are of the types that it is used by; transformers takes any."""
    most = tokenizer.model_max_length
    if isinstance(most, bool) or not isinstance(most, int | float) or not most >= 1:
        found = f"{shown(source)}: tokenizer_config.json says model_max_length: {visible(repr(most))}"
        raise UserError(Problem(where, field, found, "a number of tokens, from 1", "correct it, or leave it out"))
    or_refuse(lambda: tokenizer(PROBE), source, where, field)
    return tokenizer


def read_extractor(source: str, where: str, field: str, reads: str) -> Any:
    """What a model reads pictures or sound with; UserError where it cannot be had."""
    import transformers as t

    auto = t.AutoImageProcessor if reads == "image" else t.AutoFeatureExtractor
    pil = {"backend": "pil"} if reads == "image" else {}  # with or without torchvision the same numbers
    extractor = or_refuse(lambda: auto.from_pretrained(source, trust_remote_code=False, **pil), source, where, field)
    check_extractor(extractor, reads, source, where, field)
    return extractor


def prepare_tokenizer(config: Any, processor: Any, *, spells: bool = False) -> list[str]:
    """Gives a tokenizer a token to pad with where it has none, and the side at which padding changes nothing; says so.

    Padding needs no token of its own: masks say what is padding, wherever it is read. It is an existing token of the
    model's, so that neither vocabulary nor model grows by one. The side is the right, where positions are counted from
    the start and the first token may stand for the text; the left for models that read the text off the last position
    (XLNet). `spells`: a CTC tokenizer, whose padding token is a choice, the blank, and stays.
    """
    notes = []
    tokenizer = tokenizer_of(processor)
    side = "left" if getattr(config, "summary_type", None) == "last" else "right"
    if tokenizer.padding_side != side:
        notes.append(
            f"the tokenizer pads at the {tokenizer.padding_side}, where a row's neighbours would change it: {side}"
        )
        tokenizer.padding_side = side
    if not spells and (reason := _no_padding(config, tokenizer)):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(_harmless_token(config, tokenizer))
        notes.append(f"{reason}; it pads with {tokenizer.pad_token}, which masks hide")
    return notes


def _no_padding(config: Any, tokenizer: Any) -> str | None:
    """Why a tokenizer's padding token cannot pad, if so.

    A head that looks for the last token that is no padding (GPT-2's) overlooks the end of a text that ends in it.
    """
    pad = tokenizer.pad_token_id
    if pad is None:
        return "the tokenizer has no padding token"
    if not _is_known(config, pad):
        return f"the model has no row for the tokenizer's padding token {tokenizer.pad_token} ({pad})"
    return f"texts end in the tokenizer's padding token {tokenizer.pad_token}" if _ends_texts(tokenizer, pad) else None


def _harmless_token(config: Any, tokenizer: Any) -> int:
    """A token of the model's that no text ends in: a special one, else the last, which of most kinds is the rarest."""
    stored = [getattr(part, "pad_token_id", None) for part in (config, *_text_parts(config))]
    names = ("eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id", "mask_token_id", "unk_token_id")
    candidates = [*stored, *(getattr(tokenizer, name, None) for name in names)]
    known = (i for i in candidates if i is not None and i < len(tokenizer) and _is_known(config, i))
    last = min(len(tokenizer), vocabulary_size(config) or len(tokenizer)) if config is not None else len(tokenizer)
    return next((int(i) for i in known if not _ends_texts(tokenizer, i)), last - 1)


def _is_known(config: Any, token: int) -> bool:
    rows = None if config is None else vocabulary_size(config)
    return token >= 0 and (rows is None or token < rows)


def _ends_texts(tokenizer: Any, token: int) -> bool:
    """Whether a tokenizer puts this token behind every text."""
    return all(list(tokenizer(text)["input_ids"])[-1:] == [token] for text in "ab")


def _text_parts(config: Any) -> list[Any]:
    """The part of a configuration that says what its text is, where it has several."""
    return [] if config is None else [part for part in [config.get_text_config()] if part is not config]


def padding(model: Any, processor: Any, auto_model: str = "") -> list[str]:
    """Gives tokenizer and model one padding token. A model without one that never looks for it stays without."""
    notes = prepare_tokenizer(model.config, processor, spells=auto_model == CTC)
    pad = tokenizer_of(processor).pad_token_id
    looks_for_it = auto_model == "AutoModelForSequenceClassification"
    for part in (model.config, *_text_parts(model.config)):
        stored = getattr(part, "pad_token_id", None)
        if pad is not None and (looks_for_it or (stored is not None and stored >= 0)):
            part.pad_token_id = pad
    return notes
