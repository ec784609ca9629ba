"""The fields of `generation`, `languages` and `prompt`: how text is written, who writes it, what is asked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from keeltune.recipe.field_types import AsList, AsText, ByKind, Declared, Text

MOST_NEW_TOKENS = 64
"""Tokens of an answer at most where the recipe does not say: a few sentences."""


class Generation(Declared):
    """How text is written by the tasks that write some, and who writes the texts that are learnt."""

    beams: PositiveInt = Field(default=1, description="Beams; 1 is greedy.")
    max_new_tokens: PositiveInt | None = Field(
        default=None,
        description=f"Longest answer, in tokens; null: {MOST_NEW_TOKENS}, of Whisper all that it has places for.",
    )
    min_new_tokens: NonNegativeInt = Field(default=0, description="Shortest answer, in tokens.")
    no_repeat_ngram_size: NonNegativeInt = Field(
        default=0, description="No n-gram of so many tokens comes twice in an answer; 0: any may."
    )
    repetition_penalty: PositiveFloat = Field(
        default=1.0, description="Divides the score of tokens that were written or read before; 1: none."
    )
    length_penalty: float = Field(
        default=1.0,
        description="Of beams: above 0 prefers long answers, below 0 short ones; 1: the mean log-probability.",
    )
    early_stopping: bool = Field(default=False, description="Of beams: whether the first finished ones end the search.")
    targets: Literal["data", "reference", "interpolated"] = Field(
        default="data",
        description="Who writes the targets of `train`: data; reference: the teacher, ahead, to a file (sequence-level "
        "distillation); interpolated: of the teacher's beams the one nearest to the data's target. "
        "With objective.weight 0 the teacher only writes, and may have any tokenizer.",
    )
    min_agreement: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="With targets that the reference writes: those whose score against the data's own target is below "
        "this share of a perfect one are not learnt; of speech 0.9 is a word error rate of up to 0.1.",
    )
    on_policy: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="Rows per labelled row whose text the student draws itself, in each step; they carry D alone.",
    )

    def decoding(self) -> dict[str, Any]:
        """How texts are written besides beams and length, as `transformers.GenerationConfig` names it."""
        names = ("min_new_tokens", "no_repeat_ngram_size", "repetition_penalty", "length_penalty", "early_stopping")
        defaults = Generation.model_fields
        return {name: getattr(self, name) for name in names if getattr(self, name) != defaults[name].default}


class Message(Declared):
    """One message of a prompt."""

    role: Literal["system", "user", "assistant"] = Field(description="Who says it.")
    content: Text = Field(description="What is said: text with columns in braces.")


Prompt = Annotated[AsText | AsList[Message], ByKind]
"""What a model that writes reads of a row: a text with columns in braces, or messages for its chat template."""


def plain(prompt: Any) -> Any:
    """A prompt as plain JSON: a text, or messages; None as it is."""
    return [message.model_dump() for message in prompt] if isinstance(prompt, list) else prompt


class Languages(Declared):
    """The languages of a translation, as the model's tokenizer names them."""

    source: Text = Field(description="The language of `source`.")
    target: Text = Field(description="The language of `target`.")
