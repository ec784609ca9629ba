"""Tokenizers and feature extractors: read, given a padding token, asked for their vocabulary."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from keeltune.models.model_files import or_refuse
from keeltune.models.tokenizer_match import PADDING
from keeltune.utils.errors import Problem, UserError, shown, visible


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


def read_processor(source: str, where: str, field: str, reads: str = "text") -> Any:
    """The model's tokenizer, with what reads pictures or sound beside it; UserError where it cannot be had."""
    import transformers as t

    def load(auto: Any) -> Any:
        return auto.from_pretrained(source, trust_remote_code=False)

    if reads == "text":
        return _sound_tokenizer(or_refuse(lambda: load(t.AutoTokenizer), source, where, field), source, where, field)
    with suppress(Exception):  # many models have no processor for both parts; then the parts are read one by one
        processor = load(t.AutoProcessor)
        if hasattr(processor, "tokenizer") and extractor_of(processor) is not None:
            _sound_tokenizer(tokenizer_of(processor), source, where, field)
            return processor
    tokenizer = _sound_tokenizer(or_refuse(lambda: load(t.AutoTokenizer), source, where, field), source, where, field)
    return Pair(tokenizer, read_extractor(source, where, field, reads))


def _sound_tokenizer(tokenizer: Any, source: str, where: str, field: str) -> Any:
    """The tokenizer, whose settings are of the types that it is used by; transformers takes any."""
    most = tokenizer.model_max_length
    if isinstance(most, bool) or not isinstance(most, int | float) or not most >= 1:
        found = f"{shown(source)}: tokenizer_config.json says model_max_length: {visible(repr(most))}"
        raise UserError(Problem(where, field, found, "a number of tokens, from 1", "correct it, or leave it out"))
    return tokenizer


def read_extractor(source: str, where: str, field: str, reads: str) -> Any:
    """What a model reads pictures or sound with; UserError where it cannot be had."""
    import transformers as t

    auto = t.AutoImageProcessor if reads == "image" else t.AutoFeatureExtractor
    pil = {"backend": "pil"} if reads == "image" else {}  # with or without torchvision the same numbers
    return or_refuse(lambda: auto.from_pretrained(source, trust_remote_code=False, **pil), source, where, field)


def prepare_tokenizer(config: Any, processor: Any) -> list[str]:
    """Gives a tokenizer a padding token where it has none, and the side at which padding changes nothing; says so.

    The token is one of its own, never the end of text: one that stood for both would be masked where the text really
    ends. The side is the right, where positions are counted from the start and the first token may stand for the text;
    the left for models that read the text off the last position (XLNet).
    """
    notes = []
    tokenizer = tokenizer_of(processor)
    side = "left" if getattr(config, "summary_type", None) == "last" else "right"
    if tokenizer.padding_side != side:
        notes.append(
            f"the tokenizer pads at the {tokenizer.padding_side}, where a row's neighbours would change it: {side}"
        )
        tokenizer.padding_side = side
    if tokenizer.pad_token_id is None:
        stored = getattr(config, "pad_token_id", None)
        if stored is not None and 0 <= stored < len(tokenizer):
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(stored)
        else:
            tokenizer.add_special_tokens({"pad_token": PADDING})
            notes.append(f'the tokenizer had no padding token; "{PADDING}" was added (id {tokenizer.pad_token_id})')
    return notes


def vocabulary_size(config: Any) -> int | None:
    """V as a configuration says it, of its text part where it has several."""
    text = config.get_text_config(decoder=True)
    return getattr(text, "vocab_size", None)


def vocabulary_rows(model: Any) -> int | None:
    """How many tokens a model knows; None for one that reads no tokens and writes none."""
    with suppress(NotImplementedError, AttributeError):
        for module in (model.get_output_embeddings(), model.get_input_embeddings()):
            weight = getattr(module, "weight", None)
            if weight is not None and weight.dim() == 2:
                return int(weight.shape[0])
    return None


def lacks_padding(rows: int | None, tokenizer: Any) -> bool:
    """Whether the tokenizer's padding token (ours, or one that its class adds) is one more than the model's rows."""
    return len(tokenizer) == (rows or 0) + 1 and tokenizer.pad_token_id == rows


def padding(model: Any, processor: Any) -> list[str]:
    """Gives tokenizer and model a padding token, and the model an embedding for it."""
    notes = prepare_tokenizer(model.config, processor)
    tokenizer = tokenizer_of(processor)
    if lacks_padding(vocabulary_rows(model), tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    return notes
