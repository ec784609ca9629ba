"""The model card beside a trained model: the README that a hub and its readers expect.

    metadata     base model, licence, language, data sets, task, scores as a `model-index` (`card/metadata.py`)
    text         how it was trained, its scores, its limits (`card/limits.py`), how it is used (`card/usage.py`)

It names no path and holds no row of the data: it may be published as it is.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keeltune.data.clusters import FEW_CLUSTERS
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import NewModel
from keeltune.reports import uncertainty
from keeltune.reports.card import metadata
from keeltune.reports.card.limits import limits
from keeltune.reports.card.origin import hub_name, origin
from keeltune.reports.findings import method
from keeltune.reports.templating import code
from keeltune.tasks.task import Task
from keeltune.utils.sanitization import shown_text


def markdown(text: str) -> str:
    """A text of the user's within Markdown: one line, no markup, link, table cell or HTML."""
    return re.sub(r"([\\`*\[\]!|~])", r"\\\1", html.escape(shown_text(text), quote=False))


@dataclass(frozen=True)
class Trained:
    """A trained model, as its card needs it: how its rows are read (`task`), where its weights were read from, and the
    program that uses it (`usage.program`), or None."""

    task: Task
    source: str
    program: str | None = None
    adapter: bool = False


def model_card(recipe: Recipe, result: dict[str, Any], trained: Trained) -> str:
    """The README of a saved model, or of its adapter: what it is, how it was made, how good it is, how it is used."""
    adapter = trained.adapter
    task = trained.task
    began = origin(None if isinstance(recipe.model, NewModel) else trained.source)
    title = f"{recipe.task}, trained with keeltune" + (" (adapter)" if adapter else "")
    return code().get_template("model_card.md.jinja").render(
        head=metadata.head(recipe, result, task, began, name=f"{recipe.task} ({recipe.method})", adapter=adapter),
        title=markdown(title),
        summary=markdown(" ".join(method.findings(result))),
        adapter=adapter,
        base=began.base,
        facts=[*_facts(recipe, result, began.base), *_unit(task)],
        scores=_scores(recipe, result),
        limits=[markdown(sentence) for sentence in limits(
            result, reads=task.settings.max_length, writes=task.answer == "text" and task.choices == "tokens"
        )],
        program=trained.program,
        auto_model=task.settings.auto_model,
    )  # fmt: skip


def _facts(recipe: Recipe, result: dict[str, Any], base: str | None) -> Iterator[str]:
    """How it was trained, a line each."""
    training, objective, spec = result["training"], result["objective"] or {}, recipe.training
    yield f"task: {markdown(recipe.task)}; method: {recipe.method}"
    if isinstance(recipe.model, NewModel):
        yield "base model: none, its weights began at random"
    else:
        yield f"base model: {base or 'a local folder, of which no published name is known'}"
    yield f"reference: {markdown(str(result['reference']['kind']))}{_named(recipe)}"
    if objective.get("weight") is not None:
        yield f"divergence: {objective['divergence_name']}, weight {objective['weight']:.4g}"
    counted = result["data"]["train"]
    yield f"training rows: {counted['rows'] if counted else 0}; steps: {training['steps']}"
    sizes = f"batch size {spec.batch_size or f'{spec.tokens_per_batch} tokens'}"
    yield f"learning rate {spec.learning_rate:g}; {sizes} × {spec.gradient_accumulation_steps}; seed {training['seed']}"
    trained, whole = (f"{training[name]:,}" for name in ("trained_parameters", "parameters"))
    yield f"{trained} of {whole} parameters trained, in {training['precision']}"
    if (lora := spec.lora) is not None:
        kind = "DoRA" if lora.dora else "rsLoRA" if lora.rslora else "LoRA"
        yield f"adapter: {kind}, rank {lora.rank}"
    yield from _generation(result.get("generation"))
    yield f"keeltune {result['keeltune']}, transformers {result['environment']['transformers']}"


def _unit(task: Task) -> Iterator[str]:
    """How the outputs of a head of numbers become numbers in the unit of the rows."""
    if task.choices == "numbers":
        yield (
            "the head says standardised numbers: those of the rows are `logits * std + mean`, with std and mean the "
            "lists `target_std` and `target_mean` of `model.config`"
        )


def _named(recipe: Recipe) -> str:
    """The references that the hub knows by name."""
    names = [name for model in recipe.reference_models() if isinstance(model, str) and not recipe.path(model).exists()
             for name in [hub_name(model)] if name]  # fmt: skip
    return f" ({', '.join(map(markdown, names))})" if names else ""


def _scores(recipe: Recipe, result: dict[str, Any]) -> dict[str, Any] | None:
    """The table of scores, and what its intervals are over."""
    split = next((s for s in ("test", "validation") if result["metrics"][s]), None)
    if split is None:
        return None
    lines = [
        f"| {markdown(name)} | {result['metrics'][split][name]:.4f} | {low:.4f} to {high:.4f} |"
        for name, (low, high) in result["intervals"][split].items()
    ]
    clusters = uncertainty.cluster_count(recipe.path(recipe.output) / "predictions" / f"{split}.jsonl")
    column = markdown(str(recipe.evaluation.clusters))
    units = f"{split} rows" if clusters is None else f"clusters of {column} in the {split} rows"
    few = clusters if clusters is not None and clusters < FEW_CLUSTERS else None
    return {"split": split, "lines": lines, "units": units, "few": few}


def _generation(generation: dict[str, Any] | None) -> list[str]:
    """By what settings texts were scored, and which of the base model's are not among them."""
    if not generation:
        return []
    named = ("num_beams", "max_new_tokens", "min_new_tokens", "no_repeat_ngram_size", "repetition_penalty", "language")
    said = [f"{name} {value}" for name, value in generation["settings"].items() if name in named]
    unused = [f"{name} {value}" for name, value in generation["unused"].items()]
    lines = [f"texts are written, and were scored, by generation_config.json: {', '.join(said)}"]
    return lines + ([f"the base model's own settings are not used: {', '.join(unused)}"] if unused else [])
