"""The model card beside a trained model: data, scores, and how to load it."""

from __future__ import annotations

import html
import re
from typing import Any

from keeltune.data.clusters import FEW_CLUSTERS
from keeltune.recipe.fields import Recipe
from keeltune.reports import uncertainty
from keeltune.reports.findings import method
from keeltune.utils import registry
from keeltune.utils.sanitization import shown_text


def markdown(text: str) -> str:
    """A text of the user's within Markdown: one line, no markup, link, table cell or HTML."""
    return re.sub(r"([\\`*\[\]!|~])", r"\\\1", html.escape(shown_text(text), quote=False))


def model_card(recipe: Recipe, result: dict[str, Any]) -> str:
    """The README of a saved model: what it is, how it was made, how good it is, in Markdown with a metadata head."""
    split = next((s for s in ("test", "validation") if result["metrics"][s]), None)
    lines = [
        "---",
        "library_name: transformers",
        *([f"pipeline_tag: {pipeline}"] if (pipeline := registry.find("tasks", recipe.task).pipeline) else []),
        "tags: [keeltune]",
        "---",
        f"# {markdown(recipe.task)}, trained with keeltune",
        "",
        markdown(" ".join(method.findings(result))),
        "",
        f"- task: {markdown(recipe.task)}",
        f"- method: {recipe.method}",
        f"- reference: {markdown(str(result['reference']['kind']))}",
        f"- training rows: {result['data']['train']['rows'] if result['data']['train'] else 0}",
        *_generation(result.get("generation")),
        f"- keeltune {result['keeltune']}, transformers {result['environment']['transformers']}",
        "",
    ]
    if split:
        lines += [f"| metric on {split} | value | 95 % interval |", "| --- | ---: | --- |"]
        for name, (low, high) in result["intervals"][split].items():
            lines.append(f"| {markdown(name)} | {result['metrics'][split][name]:.4f} | {low:.4f} to {high:.4f} |")
        clusters = uncertainty.cluster_count(recipe.path(recipe.output) / "predictions" / f"{split}.jsonl")
        column = markdown(str(recipe.evaluation.clusters))
        units = f"{split} rows" if clusters is None else f"clusters of {column} in the {split} rows"
        lines += ["", f"The interval is over {units} alone; training noise is not in it."]
        if clusters is not None and clusters < FEW_CLUSTERS:
            lines += [f"With so few of them ({clusters}) it is too narrow to be trusted."]
    return "\n".join([*lines, ""])


def _generation(generation: dict[str, Any] | None) -> list[str]:
    """By what settings texts were scored, and which of the base model's are not among them."""
    if not generation:
        return []
    named = ("num_beams", "max_new_tokens", "min_new_tokens", "no_repeat_ngram_size", "repetition_penalty", "language")
    said = [f"{name} {value}" for name, value in generation["settings"].items() if name in named]
    unused = [f"{name} {value}" for name, value in generation["unused"].items()]
    lines = [f"- texts are written, and were scored, by generation_config.json: {', '.join(said)}"]
    return lines + ([f"- the base model's own settings are not used: {', '.join(unused)}"] if unused else [])
