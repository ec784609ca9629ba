"""The fields of `generation` and `languages`: how text is written, who writes it, in which language."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from keeltune.recipe.field_types import Declared, Text


class Generation(Declared):
    """How text is written by the tasks that write some, and who writes the texts that are learnt."""

    beams: PositiveInt = Field(default=1, description="Beams; 1 is greedy.")
    max_new_tokens: PositiveInt = Field(default=64, description="Longest answer, in tokens.")
    targets: Literal["data", "reference", "interpolated"] = Field(
        default="data",
        description="Who writes the targets of `train`: data; reference: the teacher, ahead, to a file (sequence-level "
        "distillation); interpolated: of the teacher's beams the one nearest to the data's target. "
        "With objective.weight 0 the teacher only writes, and may have any tokenizer.",
    )
    on_policy: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="Rows per labelled row whose text the student draws itself, in each step; they carry D alone.",
    )


class Languages(Declared):
    """The languages of a translation, as the model's tokenizer names them."""

    source: Text = Field(description="The language of `source`.")
    target: Text = Field(description="The language of `target`.")
