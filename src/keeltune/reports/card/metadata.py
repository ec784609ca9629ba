"""The YAML head of a model card, as the hub reads it: made and checked by the hub's own client.

Its `model-index` has the scores of the test rows (of the validation rows where there are none).
Source: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keeltune.models.languages import tag_of
from keeltune.recipe.fields import Recipe
from keeltune.reports.card.origin import Origin
from keeltune.tasks.task import Task

METRICS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "macro_f1": ("f1", "Macro F1", {"average": "macro"}),
    "micro_f1": ("f1", "Micro F1", {"average": "micro"}),
    "mcc": ("matthews_correlation", "Matthews correlation", {}),
    "rouge1": ("rouge", "ROUGE-1", {}),
    "rouge2": ("rouge", "ROUGE-2", {}),
    "rougeL": ("rouge", "ROUGE-L", {}),
    "bleu": ("bleu", "BLEU", {}),
    "bleu4": ("bleu", "BLEU-4", {}),
    "spearman": ("spearmanr", "Spearman", {}),
    "pearson": ("pearsonr", "Pearson", {}),
    "r2": ("r_squared", "R²", {}),
}
"""What the hub calls a score of ours, and with which settings; the others have one name everywhere."""

LOADERS = {"csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json", "parquet": "parquet", "arrow": "arrow"}
"""What the hub calls data that are none of its own: the loader that reads such files."""


def head(
    recipe: Recipe, result: Mapping[str, Any], task: Task, origin: Origin, *, name: str, adapter: bool = False
) -> str:
    """The head, between its lines of dashes. `name`: what the model is called in its `model-index`."""
    from huggingface_hub import ModelCardData

    scores = list(_scores(recipe, result, task))
    licence: dict[str, Any] = dict(origin.license)
    data = ModelCardData(
        base_model=origin.base,
        language=languages(recipe, result) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=task.pipeline,
        tags=_tags(recipe, adapter),
        datasets=datasets(recipe) or None,
        metrics=sorted({score.metric_type for score in scores}) or None,
        eval_results=scores or None,
        model_name=name if scores else None,
        **licence,
    )
    return f"---\n{data.to_yaml()}\n---"


def languages(recipe: Recipe, result: Mapping[str, Any]) -> list[str]:
    """ISO 639 codes: what the recipe says of a translation, else what the rows were scored in, unless that is only
    assumed."""
    if recipe.languages is not None:
        told = [tag_of(name) for name in (recipe.languages.source, recipe.languages.target)]
    else:
        scoring = (result.get("scoring") or {}).get("target") or {}
        told = [scoring.get("language") if scoring.get("by") in ("named", "detected") else None]
    codes = (re.split(r"[-_]", tag)[0] for tag in told if tag)
    return [code for code in dict.fromkeys(codes) if code != "und"]


def datasets(recipe: Recipe) -> list[str]:
    """The data sets of the hub that it was trained on."""
    data = recipe.data
    named = (data.train, data.unlabeled, data.source.train, data.source.unlabeled)
    return list(dict.fromkeys(hub for name in named if name and (hub := _of_hub(name))))


def _of_hub(name: Any) -> str | None:
    found = re.fullmatch(r"hub:([^@:]+).*", name) if isinstance(name, str) else None
    return found[1] if found else None


def _tags(recipe: Recipe, adapter: bool) -> list[str]:
    task = [] if ":" in recipe.task else [recipe.task]
    lora = recipe.training.lora
    kinds = ["dora" if lora.dora else "lora"] if lora is not None else []
    return list(dict.fromkeys(["keeltune", *task, recipe.method, *kinds, *(["adapter"] if adapter else [])]))


def _scores(recipe: Recipe, result: Mapping[str, Any], task: Task) -> Iterator[Any]:
    """The scores of the split as the hub's own class has them."""
    from huggingface_hub import EvalResult

    split = next((s for s in ("test", "validation") if result["metrics"][s]), None)
    if split is None:
        return
    given = getattr(recipe.data, split)
    of_hub = _of_hub(given)
    kind = LOADERS.get(Path(given).name.removesuffix(".gz").rpartition(".")[2], "text") if _is_text(given) else "text"
    for name, value in result["metrics"][split].items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        metric, said, settings = METRICS.get(name, (name, name.replace("_", " ").capitalize(), {}))
        yield EvalResult(
            task_type=task.pipeline or "other",
            task_name=recipe.task,
            dataset_type=of_hub or kind,
            dataset_name=of_hub or f"{split} rows",
            dataset_split=split,
            metric_type=metric,
            metric_name=said,
            metric_value=round(float(value), 6),
            metric_args=settings or None,
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
