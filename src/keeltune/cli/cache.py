"""`keeltune cache`: the reference's distributions for all rows, once, ahead of any training."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from keeltune.cli.app import Overrides, RecipeFile
from keeltune.evaluation import divergence
from keeltune.models import loading
from keeltune.objective.formula import Objective
from keeltune.objective.references.cached import Cached
from keeltune.objective.references.reference import Autocast, Reference
from keeltune.recipe import load
from keeltune.recipe.fields import Recipe
from keeltune.runs import claim
from keeltune.training import build, reference_choice
from keeltune.training.budget_examples import budget_examples
from keeltune.training.cache import cost, identity
from keeltune.training.cache.capture import find_or_capture
from keeltune.training.cache.finished import cache_facts, find_finished, open_answers, remove
from keeltune.training.cache.form_choice import SAMPLE
from keeltune.training.cache.identity import CacheRequest
from keeltune.training.cache.shards import spread
from keeltune.training.preparation import prepare
from keeltune.training.preparation.material import Material
from keeltune.utils.distributed import is_main_process
from keeltune.utils.errors import Problem, StateRefused, UserError
from keeltune.utils.process_group import joined
from keeltune.utils.progress import Display
from keeltune.utils.tensor_store import Store
from keeltune.utils.terminal import Terminal


def cache(
    recipe: RecipeFile,
    overrides: Overrides = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compute nothing; check what is there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Take away what is there first.")] = False,
) -> None:
    """Compute the reference's distributions ahead of training, once for all epochs and runs."""
    facts = precompute(load(recipe, overrides or []), verify=verify, overwrite=overwrite)
    if is_main_process():
        _print(facts, Terminal())


@loading.quiet_transformers()
@joined()
def precompute(
    recipe: Recipe, *, verify: bool = False, overwrite: bool = False, display: Display | None = None
) -> dict[str, Any]:
    """Fills the recipe's cache, or finds it finished; the run folder is neither made nor touched.

    Args:
        verify: capture nothing; hold what is there against its digests, the recipe, and the live reference.
        overwrite: take away what lies in the cache's folder first.
    Returns: the cache's facts, with `divergence`, D(live ‖ cached) in nats a prediction on a sample.
    Raises: UserError, StateRefused (a cache of something else, or broken), OutOfResources.
    """
    if recipe.reference_spec() is None:
        expected = "distillation or cross-domain: fine-tuning has no reference whose answers could be kept"
        raise UserError(recipe.problem("method", expected=expected, fix="train it as it is"))
    if recipe.objective.anchor_head != "task":
        expected = "task: a second head is held live, beside the student"
        raise UserError(recipe.problem("objective.anchor_head", expected=expected, fix="train it as it is"))
    display = display or Display(quiet=not is_main_process())
    material = prepare.prepare(recipe, progress=lambda what: display.say(f"{what} …"))
    base = build.prepared(material, display)
    examples = [*base.plan.anchored_examples(), *budget_examples(material)]
    if reason := reference_choice.uncached_class(recipe) or cost.fits(material, examples):
        raise reference_choice.not_cacheable(material, reason)
    request = identity.cache_request(material, base.precision, examples)
    if overwrite and is_main_process():
        with claim.owned(request.folder, display, "reference.cache"):
            remove(request.folder)
    if verify:
        store = find_finished(request)
    else:
        store = find_or_capture(request, material, base.live_reference, base.device, display)
    if store is None:
        raise StateRefused(Problem(str(request.folder), "reference.cache", "no finished cache", "one", request.command))
    store.verify()
    lost, sampled = None, 0
    if "served" not in store.manifest:  # a server's answers are as coarse as what is kept of them
        objective, live = build.objective(recipe), base.live_reference()
        lost, sampled = divergence_to_live(store, request, material, live, objective, base.device, base.autocast)
    return {**cache_facts(store), "divergence": lost, "sampled": sampled}


def _print(facts: dict[str, Any], console: Terminal) -> None:
    """The facts as a table."""
    table = Table("what", "value", title=facts["folder"])
    form = facts["form"]
    table.add_row("form", ", ".join(f"{name} {value}" for name, value in form.items()))
    table.add_row("examples", str(facts["examples"]))
    table.add_row("predictions", str(facts["predictions"]))
    table.add_row("size", f"{facts['bytes'] / 2**20:.1f} MiB, {facts['bytes_per_prediction']:.0f} bytes a prediction")
    table.add_row("probability kept", f"{facts['mass_kept']:.2%}")
    if facts["divergence"] is not None:
        lost = f"{facts['divergence']:.2e} nats ({facts['sampled']} sampled)"
        table.add_row("divergence from the live reference", lost)
    console.print(table)
    console.print(f"digest {facts['digest']}")


def divergence_to_live(
    store: Store,
    request: CacheRequest,
    material: Material,
    live: Reference,
    objective: Objective,
    device: str,
    autocast: Autocast,
) -> tuple[float, int]:
    """D(cached ‖ live) in nats a prediction on a sample, and on how many predictions: what a cache loses."""
    answers = open_answers(store, material, device, autocast)
    cached = Cached(answers.store, answers.form, device, answers.shared)
    examples = spread(request.examples, SAMPLE)
    (value,), predictions = divergence.between(material.task, [objective], live.rows, cached, examples, device=device)
    return value, predictions
