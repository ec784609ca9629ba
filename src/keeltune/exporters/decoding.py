"""Which settings of generation an exported model keeps: what it cannot keep is refused, and never left aside."""

from __future__ import annotations

from typing import Any

from keeltune.exporters.greedy import RULES
from keeltune.models import generation
from keeltune.utils.errors import Problem, UserError

UNREAD = ("max_new_tokens", "max_length", "length_penalty", "early_stopping", "use_cache")
"""Others that may be said: the most tokens, which are kept, and what has a meaning for beams alone."""


def refuse_settings(config: Any, where: str) -> None:
    """UserError for settings by which a run's texts were written and an export could not write them.

    `config`: its `GenerationConfig`.
    """
    expected = "texts of the likeliest next token, as generation.beams: 1 writes them"
    if (config.num_beams or 1) > 1:
        found, fix = f"texts of {config.num_beams} beams", "train or score with generation.beams: 1"
        raise UserError(Problem(where, "generation.beams", found, expected, fix))
    if config.do_sample:
        raise UserError(Problem(where, "generation", "texts that are drawn", expected, "score without drawing"))
    chosen = generation.choices(config)
    if unkept := sorted(chosen.keys() - {*RULES, *UNREAD}):
        found = ", ".join(f"{name} {chosen[name]}" for name in unkept)
        expected = f"settings that an export keeps: {', '.join(RULES)}"
        raise UserError(Problem(where, "generation", found, expected, "score without them"))
