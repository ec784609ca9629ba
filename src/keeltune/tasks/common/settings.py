"""What a task is built with besides its processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keeltune.models.vocabulary import Bounds
from keeltune.tasks.common.language import Language


@dataclass(frozen=True)
class Settings:
    """The recipe's choices, and what the model says of itself.

    labels             the names of the choices, in the order of the head's outputs; none where choices are tokens
    max_length         the most tokens that are read; None: all
    class_weights      what the cross-entropy of a label is multiplied by
    config             the model's configuration
    auto_model         the `transformers` class that loads the model
    bounds             the ids that the model knows, of tokens, segments and choices
    target_max_length  the most tokens of a text that is learnt
    prompt             what is read around the source, a text or messages; None: the model's, or the task's own
    languages          of source and target, as the tokenizer names them
    metrics            the recipe's metrics besides the task's (`evaluation.metrics`)
    metric             the score that chooses the best weights (`evaluation.metric`); None: the task's primary one
    directions         whether more of a function's score is better, where the recipe says so
    decoding           how texts are written besides beams and length, as `transformers.GenerationConfig` names it
    stored             the model's own `GenerationConfig`
    language           what the answers are scored in; None: told from the right answers, each time they are scored
    normalizer         "whisper": transcripts are compared as Whisper's own normaliser leaves them
    spellings          British spellings and American ones, of the tokenizer, for that normaliser
    bleu_tokenizer     sacrebleu's name of BLEU's tokens; None: by the language
    packing            whether a decoder reads the texts of a batch packed (`training.packing`)
    """

    labels: Sequence[str] = ()
    max_length: int | None = None
    multi_label: bool = False
    class_weights: Mapping[str, float] | None = None
    config: Any = None
    auto_model: str = ""
    bounds: Bounds = field(default_factory=Bounds)
    target_max_length: int | None = None
    prompt: str | Sequence[Mapping[str, str]] | None = None
    languages: tuple[str, str] | None = None
    beams: int = 1
    max_new_tokens: int = 64
    metrics: Sequence[str] = ()
    metric: str | None = None
    directions: Mapping[str, bool] = field(default_factory=dict)
    decoding: Mapping[str, Any] = field(default_factory=dict)
    stored: Any = None
    language: Language | None = None
    bleu_tokenizer: str | None = None
    packing: bool = False
    normalizer: str | None = None
    spellings: Mapping[str, str] | None = None
