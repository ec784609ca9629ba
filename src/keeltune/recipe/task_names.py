"""What other programs and papers call the tasks: a name of theirs is read as ours, and the run says so."""

from __future__ import annotations

import difflib
import re
from typing import Annotated

from pydantic import AfterValidator

from keeltune.recipe.field_types import Text
from keeltune.utils import registry
from keeltune.utils.errors import nearest

_CALLED = {
    "text-classification": (
        "classification", "sequence-classification", "text-class", "document-classification", "topic-classification",
        "topic", "intent-classification", "intent-detection", "intent", "nli", "natural-language-inference",
        "textual-entailment", "text-pair-classification", "paraphrase-identification", "multi-class-classification",
        "binary-classification", "spam-detection", "toxicity-detection", "language-identification",
    ),
    "sentiment-analysis": ("sentiment", "sentiment-classification", "polarity", "opinion-mining", "sa"),
    "token-classification": (
        "ner", "named-entity-recognition", "entity-recognition", "entities", "pos", "pos-tagging", "part-of-speech",
        "part-of-speech-tagging", "chunking", "tagging", "sequence-labeling", "sequence-labelling", "sequence-tagging",
        "token-tagging", "slot-filling", "keyphrase-extraction", "word-segmentation",
    ),
    "regression": (
        "sts", "semantic-textual-similarity", "semantic-similarity", "sentence-similarity", "text-similarity",
        "text-regression", "similarity", "rating", "rating-prediction", "scoring", "text-scoring",
    ),
    "question-answering": (
        "qa", "squad", "extractive-qa", "extractive-question-answering", "reading-comprehension",
        "machine-reading-comprehension", "mrc",
    ),
    "semantic-role-labeling": ("srl", "semantic-role-labelling", "semantic-roles"),
    "summarization": (
        "summarisation", "summary", "summaries", "summarize", "text-summarization", "abstractive-summarization",
        "summary-generation",
    ),
    "translation": ("mt", "nmt", "machine-translation", "neural-machine-translation", "translate"),
    "image-captioning": ("captioning", "caption", "image-to-text", "image-text-to-text", "image-caption"),
    "speech-recognition": (
        "asr", "automatic-speech-recognition", "stt", "speech-to-text", "transcription", "speech", "ctc",
    ),
    "text-generation": (
        "sft", "instruction-tuning", "instruction-following", "supervised-fine-tuning", "chat", "chatbot",
        "conversational", "dialogue", "causal-lm", "clm", "generation", "instruct",
    ),
}  # fmt: skip

OTHERS = {name: task for task, names in _CALLED.items() for name in names}
"""Each name, with the task that it means."""

_NEAREST = {
    "multi-label-classification": "text-classification with data.multi_label: true",
    "multilabel-classification": "text-classification with data.multi_label: true",
    "multi-label": "text-classification with data.multi_label: true",
    "text2text-generation": "summarization or translation, by what the target is",
    "seq2seq": "summarization or translation, by what the target is",
    "image-classification": "image-captioning describes pictures; classes of pictures are not predicted",
    "visual-question-answering": "image-captioning describes pictures; questions about them are not asked",
    "audio-classification": "speech-recognition writes what is said; classes of sounds are not predicted",
    "language-modeling": "text-generation learns the completions of prompts, and conversations",
    "language-modelling": "text-generation learns the completions of prompts, and conversations",
    "dpo": "text-generation; pairs of better and worse answers are not learnt from",
    "rlhf": "text-generation; rewards are not learnt from",
    "reward-modeling": "regression predicts a number for a text",
    "relation-extraction": "text-classification of a sentence in which both entities are marked",
    "coreference-resolution": "token-classification tags words; which of them mean the same is not predicted",
    "reranking": "regression predicts a number for a pair of texts",
    "feature-extraction": "regression of pairs of texts (STS); embeddings alone are not trained",
    "embedding": "regression of pairs of texts (STS); embeddings alone are not trained",
    "fill-mask": "text-classification or token-classification; a language model alone is not trained",
    "mlm": "text-classification or token-classification; a language model alone is not trained",
}
"""Names of what keeltune does not do, with what comes nearest."""


def plain(name: str) -> str:
    """A task's name as it is compared."""
    return re.sub(r"[\s_]+", "-", name.strip().lower())


def task_named(name: str) -> str:
    """Our name of the task that `name` means; `name` itself where it means none, or a class of another package."""
    bare = plain(name)
    if ":" in name or name in registry.names("tasks"):
        return name
    return OTHERS.get(bare, bare if bare in registry.names("tasks") else name)


def unknown_task(name: str) -> str:
    """How to mend a task's name that means none of ours."""
    known = registry.names("tasks")
    if plain(name) in _NEAREST:
        return f"nearest: {_NEAREST[plain(name)]}"
    near = difflib.get_close_matches(plain(name), [*known, *OTHERS], n=1, cutoff=0.6)
    meant = OTHERS.get(near[0]) if near else None
    return f"choose one of them{nearest(plain(name), near)}" + (f" (which is {meant})" if meant else "")


TaskName = Annotated[Text, AfterValidator(task_named)]
"""A task's name in a recipe, read as ours."""
