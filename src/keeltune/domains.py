"""What a run with two domains does beside training: it holds a budget, looks between its start and its end, and says
what was forgotten.

    veto        before: the labels that the reference would overrule at this weight
    Budget      while it trains: what is measured on held-out rows, against its limit; the trainer moves the weight
    settle      after: the point of the weight path that is kept
    forgetting  after: both domains before and after, row by row, and how far the weights' answers have moved
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keeltune import build, drift, evaluation, scoring, weight_path
from keeltune.analysis import domain_gap, label_veto
from keeltune.analysis import forgetting as changes
from keeltune.batching import by_length
from keeltune.build import Job
from keeltune.cache_identity import shared_of
from keeltune.callbacks import Budget
from keeltune.data import Row
from keeltune.display import Display
from keeltune.evaluation import Scores
from keeltune.machine import in_eval_mode
from keeltune.objective import Objective
from keeltune.problems import Problem, UserError
from keeltune.references import Model
from keeltune.results import read_lines
from keeltune.rows import slices
from keeltune.tasks.task import Example, to_device
from keeltune.weight_path import Path as WeightPath
from keeltune.words import Said, joined

LOOKED_AT = 500
"""Training rows on which the veto is counted at most."""

MOVED = 500
"""Rows of a domain on which the models' answers, and the domains themselves, are compared at most."""

UPDATES = 25
"""How often a budget's weight is moved in a training."""

TEXTS = ("text", "text_pair", "context", "document", "source", "prompt")
"""Columns that are read, by whose words domains are told apart."""


# ---------------------------------------------------------------------------------------------------- before training


@torch.inference_mode()
def veto(job: Job) -> dict[str, Any] | None:
    """The labels that the reference contradicts, and those that it would win against at this run's weight.

    {"predictions", "contradicted", "overruled", "confidence", "weight_kept", "weight"}; None without a reference on
    labelled rows, or for a divergence without a known rule.
    """
    material, task = job.material, job.material.task
    if job.budget[0] is not None or task.settings.class_weights:  # no one weight stands against every label
        return None
    coarse = job.origin.cache is not None and job.origin.cache["form"]["name"] == "top-k"
    if job.reference is None or coarse or shared_of(material) is not None or job.beside is not None:
        return None
    held = [example for example in job.plan.examples if example.anchored and example.labelled]
    examples = [held[i] for i in evaluation.subset(len(held), LOOKED_AT)]
    ratios = []
    for places in by_length(examples, drift.BATCH):
        batch = to_device(task.collate([examples[i] for i in places]), job.device)
        if task.sliced_cross_entropy(batch) is None:  # CTC: a frame has no label of its own
            return None
        rows = job.reference.rows(batch)
        for part in slices(rows) if len(rows) else ():
            ratios.append(label_veto.log_ratios(rows.log_probs(part), batch["targets"][part]).cpu())
    if not ratios:
        return None
    weight = job.objective.weight
    objective = material.recipe.objective
    found = label_veto.veto(torch.cat(ratios), weight, objective.divergence_name, objective.temperature)
    return None if found is None else {**asdict(found), "weight": weight}


def veto_lines(found: Mapping[str, Any] | None, *, taught: bool) -> list[str]:
    """What `veto` found, in a sentence; a warning where a source model wins too often against the new labels."""
    if found is None or not found["contradicted"]:
        return []
    said = Said(
        "the reference would choose otherwise than {contradicted:.1%} of {predictions} labels; at weight {weight:.3g} "
        "it wins against {overruled:.1%} of them all",
        **{name: found[name] for name in ("contradicted", "predictions", "weight", "overruled")},
    )
    if found["confidence"] is not None:
        said = joined([said, Said(", those of which it is surer than {p:.4g}", p=found["confidence"])])
    if found["overruled"] < label_veto.WARNED or taught:
        return [said]
    mend = Said(
        "; with objective.weight: {weight} it would win against {share:.0%}",
        weight=_two_digits(found["weight_kept"]),
        share=label_veto.TOLERATED,
    )
    return [joined([Said("warning: "), said, mend])]


def _two_digits(value: float) -> str:
    """Rounded down, so that the weight still keeps what it promises."""
    digits = 1 - math.floor(math.log10(value))
    return f"{math.floor(value * 10**digits) / 10**digits:g}"


# ---------------------------------------------------------------------------------------------------- while it trains


def budget(job: Job, before: Mapping[str, Scores | None]) -> Budget | None:
    """The recipe's budget; None where the weight is a number. UserError where it, or a point between, cannot be had."""
    kind, limit = job.budget
    recipe = job.material.recipe
    if kind == "max_source_drop" and before["source_validation"] is None:
        found, expected = "a head that is new, so that there is no source score to fall from", "max_kl, or a number"
        place = recipe.where("objective.weight")
        raise UserError(Problem(place, "objective.weight", found, expected, "write {max_kl: 0.05}, say"))
    if recipe.training.interpolate not in (None, "auto") and not job.starts_known:
        found, expected = "weights that are drawn at random before training", "a start that knows this task"
        place = recipe.where("training.interpolate")
        raise UserError(Problem(place, "training.interpolate", found, expected, "leave it out"))
    if kind is None or limit is None:
        return None
    measured = _measure(job, before)
    return Budget(kind, limit, lambda: measured(job.model, None), max(1, job.material.steps // UPDATES))


Measured = Callable[[Any, Model | None], float]


def _measure(job: Job, before: Mapping[str, Scores | None]) -> Measured:
    """What the budget bounds, of a model; the reference is the job's own unless one is handed over."""
    kind, _ = job.budget
    task = job.material.task
    if kind == "max_kl":

        def moved(model: Any, reference: Model | None) -> float:
            held = reference or job.reference
            assert held is not None
            objective = replace(job.objective, per_label=False)
            reader, student = (task, model) if job.beside is None else (job.beside.task, job.beside.model)
            found, _ = drift.divergence(
                reader, objective, student, held, job.slice, device=job.device, autocast=job.autocast
            )
            return found

        return moved
    first = before["source_validation"]
    assert first is not None
    places = weight_path.places_of(job, "source_validation")
    clusters = weight_path.clusters_of(job, "source_validation", places)

    def fallen(model: Any, reference: Model | None) -> float:
        now = scoring.scored(job, model, "source_validation", places)
        task, _ = job.of("source_validation", model)
        return weight_path.drop(task, first.table[places], now.table, task.metrics[0], clusters)["upper"]

    return fallen


# ----------------------------------------------------------------------------------------------------- after training


@dataclass
class Settled:
    """Where the weights were left on the path from start to end, and what was seen there; `source` is the start."""

    share: float = 1.0
    interpolation: dict[str, Any] | None = None
    measured: float | None = None
    source: Model | None = None


def settle(job: Job, model: Any, before: Mapping[str, Scores | None], display: Display) -> Settled:
    """Moves the model to the point of the path that the recipe asks for; a budget that is overdrawn is kept there."""
    recipe, material = job.material.recipe, job.material
    asked, (kind, limit) = recipe.training.interpolate, job.budget
    two = bool(material.rows["validation"] and material.rows["source_validation"])
    reports = bool(material.rows["source"] or material.rows["source_validation"])
    moves = isinstance(asked, float) or (asked is not None and two)
    if not (kind or reports or moves):
        return Settled()
    if not job.starts_known:
        return Settled(measured=_measure(job, before)(model, None) if kind else None)
    path = WeightPath(model, _start_weights(job))
    found = Settled(source=_source_model(job, path))
    if moves and two:
        found.interpolation = weight_path.sweep(job, path, display)
    if kind is not None and limit is not None:
        measured, anchor = _measure(job, before), found.source if material.from_model else None
        if kind != "max_kl" or material.from_model:  # from another reference the start may be farther than the end
            found.share = weight_path.largest_within(path, lambda: measured(model, anchor) <= limit)
        found.measured = measured(model, anchor)
    elif isinstance(asked, float):
        found.share = asked
    elif asked == "recommended" and found.interpolation is not None:
        found.share = found.interpolation["recommended"]
    path.go(found.share)
    if found.interpolation is None and found.share != 1 and not kind:
        found.interpolation = {"metric": material.task.metrics[0], "points": [], "recommended": None, "reason": None,
                               "rows": {"target": 0, "source": 0}}  # fmt: skip
    if found.interpolation is not None:
        found.interpolation["kept"] = found.share
    return found


def kept(job: Job, trajectory: Sequence[Sequence[float]], settled: Settled) -> dict[str, Any] | None:
    """What `result.json` reports as `budget`: {"kind", "limit", "measured" (of the weights that are kept), "held",
    "share" (of the way from the start), "trajectory": [[step, measured, weight]]}; None without one."""
    kind, limit = job.budget
    if kind is None or limit is None:
        return None
    held = settled.measured is not None and settled.measured <= limit
    moved = {"measured": settled.measured, "held": held, "share": settled.share}
    return {"kind": kind, "limit": limit, **moved, "trajectory": [list(entry) for entry in trajectory]}


def _start_weights(job: Job) -> dict[str, Tensor]:
    """The weights before training, read once more; nothing in them is drawn."""
    with torch.random.fork_rng():
        return dict(build.start(job.material).model.state_dict())


def _source_model(job: Job, path: WeightPath) -> Model:
    """The model as it was before training, beside the one that was trained."""
    path.go(0.0)
    source = copy.deepcopy(path.model)
    path.go(1.0)
    task = job.material.task
    return Model(source, task.rows, job.autocast, forward=task.forward)


def forgetting(
    job: Job,
    model: Any,
    folder: Path,
    before: Mapping[str, Scores | None],
    after: Mapping[str, Scores | None],
    settled: Settled,
) -> dict[str, Any] | None:
    """What `result.json` reports as `forgetting`; None where no rows of a source domain are named.

    {"source", "control", "target": what `analysis.forgetting.change` says of a split, "divergence": {"source",
    "target": {"reverse_kl", "forward_kl", "predictions"}} from the model before training, nats a prediction, "gap":
    how far the domains lie apart}.
    """
    material = job.material
    if not (material.rows["source"] or material.rows["source_validation"]):
        return None
    target = "test" if material.rows["test"] else "validation"
    splits = {"source": "source", "control": "source_validation", "target": target}
    found: dict[str, Any] = {}
    for name, split in splits.items():
        old, new = before[split], after[split]
        if old is None or new is None:
            found[name] = None
            continue
        lines = tuple(read_lines(place / f"{split}.jsonl") for place in (folder / "before", folder))
        lengths = [sum(e.length for e in row) for row in material.encoded[split]]
        clusters = material.recipe.evaluation.clusters
        made = changes.change(
            job.of(split, model)[0],
            material.rows[split],
            old,
            new,
            (lines[0], lines[1]),
            lengths=lengths,
            clusters=clusters,
        )
        found[name] = {"split": split, **made}
    domain = "source" if material.rows["source"] else "source_validation"
    found["divergence"] = {
        name: _moved(job, model, settled.source, split) for name, split in (("source", domain), ("target", target))
    }
    found["gap"] = gap(job, settled.source)
    return found


def _moved(job: Job, model: Any, source: Model | None, split: str) -> dict[str, Any] | None:
    """KL(θ ‖ ψ) and KL(ψ ‖ θ) on a split's rows, ψ the model before training."""
    examples = _sample(job, split)
    if source is None or not examples:
        return None
    found: dict[str, Any] = {}
    for name in ("reverse-kl", "forward-kl"):
        value, found["predictions"] = drift.divergence(
            job.material.task, Objective(name), model, source, examples, device=job.device, autocast=job.autocast
        )
        found[name.replace("-", "_")] = value
    return found


def _sample(job: Job, split: str) -> list[Example]:
    encoded = job.material.encoded[split]
    return [example for i in evaluation.subset(len(encoded), MOVED) for example in encoded[i]]


# ------------------------------------------------------------------------------------------------------- how far apart


def gap(job: Job, source: Model | None) -> dict[str, Any] | None:
    """How far the target is from the source: {"words", "features"}, each from 0 (the same) to 2; null where unknown."""
    material = job.material
    old = next((s for s in ("source_unlabeled", "source_train", "source", "source_validation") if material.rows[s]), "")
    if not old:
        return None
    splits = (old, "train" if material.rows["train"] else "unlabeled")
    chosen = [[material.rows[s][i] for i in evaluation.subset(len(material.rows[s]), MOVED)] for s in splits]
    texts = [_texts(rows, {column.name for column in material.task.columns if not column.label}) for rows in chosen]
    read = None
    if source is not None:
        seen = [_features(job, source.model, _sample(job, split)) for split in splits]
        read = domain_gap.features(seen[0], seen[1]) if seen[0] is not None and seen[1] is not None else None
    return {"words": domain_gap.words(*texts) if all(texts) else None, "features": read}


def _texts(rows: Sequence[Row], read: set[str]) -> list[str]:
    """What is read of each row, where it is text."""
    names = [name for name in TEXTS if name in read and rows and isinstance(rows[0].fields.get(name), str)]
    tokens = rows and isinstance(rows[0].fields.get("tokens"), list)
    if tokens:
        return [" ".join(map(str, row.fields["tokens"])) for row in rows]
    return [" ".join(str(row.fields.get(name, "")) for name in names) for row in rows] if names else []


@torch.inference_mode()
def _features(job: Job, model: Any, examples: Sequence[Example]) -> np.ndarray | None:
    """The mean of a model's last hidden states over each example's positions, [examples, H]; None if it shows none."""
    task, found = job.material.task, dict[int, np.ndarray]()
    with in_eval_mode(model):
        for places in by_length(examples, drift.BATCH):
            batch = to_device(task.collate([examples[i] for i in places]), job.device)
            asked = {**batch, "inputs": {**batch["inputs"], "output_hidden_states": True}}
            with job.autocast():
                outputs = task.forward(model, asked)
            calls = getattr(outputs, "outputs", [outputs])  # of a vocabulary head: each forward pass by itself
            states = getattr(calls[0], "encoder_last_hidden_state", None) if len(calls) == 1 else None
            if states is None and len(calls) == 1:
                states = (getattr(calls[0], "hidden_states", None) or [None])[-1]
            if states is None:
                return None
            mask = batch["inputs"].get("attention_mask")
            fits = mask is not None and mask.shape == states.shape[:2]
            weight = mask[..., None].to(states.dtype) if fits else torch.ones_like(states[..., :1])
            means = (states * weight).sum(1) / weight.sum(1).clamp_min(1)
            found |= dict(zip(places, means.float().cpu().numpy(), strict=True))
    return np.stack([found[i] for i in range(len(examples))])


# ----------------------------------------------------------------------------------------------------------- in words


def lines(result: Mapping[str, Any]) -> list[str]:
    """The forgetting report in a few sentences, for the console and the page."""
    report, budget = result.get("forgetting"), result.get("budget")
    over: list[str] = []
    if budget and not budget["held"]:
        template = "warning: {kind} is {measured:.4g}, above its limit {limit:g}"
        over = [Said(template, **{name: budget[name] for name in ("kind", "measured", "limit")})]
    if not report:
        return over
    said: list[str] = [_sentence(name, report[name]) for name in ("source", "control", "target") if report[name]]
    if report["gap"]:
        named = {"words": "{far:.2f} by their words", "features": "{far:.2f} by what the model makes of them"}
        far = [Said(named[name], far=value) for name, value in report["gap"].items() if value is not None]
        if far:
            apart = "the domains are {far} apart (0: the same, 2: never taken for each other)"
            said.append(Said(apart, far=joined(far, ", ")))
    moved = report["divergence"]
    on = {"target": "{kl:.3f} on target inputs", "source": "{kl:.3f} on source inputs"}
    parts = [Said(template, kl=moved[name]["reverse_kl"]) for name, template in on.items() if moved[name]]
    if parts:
        said.append(Said("nats a prediction from the model before training: {parts}", parts=joined(parts, ", ")))
    return [*over, *said]


def _sentence(name: str, change: Mapping[str, Any]) -> str:
    what = {"source": "source domain", "control": "source domain, control slice", "target": "target domain"}
    found = change["metrics"][change["metric"]]
    low, high = found["interval"]
    known = change["retention"] is not None and name != "target"
    rows = ""
    if change["lost"] is not None:  # of several seeds no one row is lost
        rows = Said("; {lost} rows lost, {won} won", lost=len(change["lost"]), won=change["won"])
    return Said(
        "{what}: {metric} {before:.4f} -> {after:.4f}, change {change:+.4f} ({low:+.4f} to {high:+.4f}){kept}{rows}",
        what=Said(what[name]), metric=change["metric"], low=low, high=high, rows=rows,
        kept=Said(", {share:.1%} kept", share=change["retention"]) if known else "",
        **{key: found[key] for key in ("before", "after", "change")},
    )  # fmt: skip
