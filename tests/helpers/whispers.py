"""Small random Whispers with the structure of the real ones: tokenizer, special tokens, settings of generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from keeltune.models import processors
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.speech_recognition import SpeechRecognition
from tests.helpers.speakers import SIZES

CODES = ("en", "zh", "de")
"""The first languages of Whisper's own list, by which its tokenizer counts their tokens."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer() -> Any:
    """Whisper's own tokenizer with a small vocabulary: bytes, a blank with a letter, the special tokens in order."""
    blank = ByteLevel().pre_tokenize_str(" ")[0][0][0]
    letters = sorted(ByteLevel.alphabet())
    merges = [(blank, letter) for letter in LETTERS]
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in CODES), "<|translate|>",
               "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip
    vocabulary = {token: i for i, token in enumerate([*letters, *map("".join, merges), *special])}
    words = transformers.WhisperTokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>")
    words.add_special_tokens({"additional_special_tokens": special[1:]})
    return words


def made(*, multilingual: bool = False, seed: int = 0) -> tuple[Any, Any, Any]:
    """(model, tokenizer, extractor): of several languages, which its settings list, or of English alone."""
    words = tokenizer()
    ids = {name: words.convert_tokens_to_ids(f"<|{name}|>") for name in ("startoftranscript", "notimestamps", *CODES,
                                                                         "translate", "transcribe")}  # fmt: skip
    start = ids["startoftranscript"]
    config = transformers.WhisperConfig(
        vocab_size=len(words), **SIZES["whisper"], decoder_start_token_id=start, bos_token_id=start,
        pad_token_id=words.eos_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # so that what is heard matters more than what was written
            parameter.add_((1.0 if "encoder_attn" in name else 0.1) * torch.randn(parameter.shape))
    own: dict[str, Any] = {"is_multilingual": multilingual, "no_timestamps_token_id": ids["notimestamps"]}
    if multilingual:
        own |= {"lang_to_id": {f"<|{code}|>": ids[code] for code in CODES},
                "task_to_id": {name: ids[name] for name in ("translate", "transcribe")}}  # fmt: skip
    blank = words(" ", add_special_tokens=False)["input_ids"]
    letters = {i for i in range(len(words)) if words.decode([i]).strip() in LETTERS and words.decode([i]).strip()}
    never = sorted({*range(len(words))} - letters - {*blank, words.eos_token_id})
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=start, bos_token_id=start, pad_token_id=words.eos_token_id, return_timestamps=False,
        eos_token_id=words.eos_token_id, begin_suppress_tokens=[*blank, words.eos_token_id],
        suppress_tokens=never, **own,
    )  # fmt: skip
    return model, words, transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=2)


def save(folder: Path, **kind: Any) -> Any:
    """Saves one as its processor would; its tokenizer."""
    model, words, extractor = made(**kind)
    model.save_pretrained(folder)
    transformers.WhisperProcessor(extractor, words).save_pretrained(folder)
    return words


def speaker(*, multilingual: bool = False, seed: int = 0, **settings: Any) -> tuple[Any, SpeechRecognition]:
    """(model, task), ready to answer."""
    model, words, extractor = made(multilingual=multilingual, seed=seed)
    processor = transformers.WhisperProcessor(extractor, words)
    processors.prepare_tokenizer(model.config, processor)
    given = {"max_new_tokens": 10, "stored": model.generation_config, **settings}
    task = SpeechRecognition(processor, Settings(config=model.config, auto_model="AutoModelForSpeechSeq2Seq", **given))
    return model, task
