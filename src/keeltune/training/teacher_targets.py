"""What the reference does ahead of training: it writes texts, gives labels, draws texts of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from keeltune.models import loading
from keeltune.objective.references.ensemble import Ensemble
from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Reference
from keeltune.training import pseudo_labels
from keeltune.training.preparation.compatibility import ReferenceFiles
from keeltune.training.preparation.material import Material
from keeltune.training.preparation.prepare import needs_text, without_targets
from keeltune.training.target_generation import SampledTexts, TeacherTargets
from keeltune.utils.distributed import world_size
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.progress import Display


def write_targets(
    material: Material,
    live: Callable[[], Reference],
    autocast: Callable[[], AbstractContextManager[Any]],
    device: str,
    display: Display,
) -> None:
    """The teacher's texts in the place of the data's, or of those that the unlabelled rows lack."""
    recipe, task = material.recipe, material.task
    origin = recipe.generation.targets
    unwritten = needs_text(recipe, task, material.encoded["unlabeled"])
    mute = task.generates and without_targets(material.encoded["source_unlabeled"])
    wanted = {
        "unlabeled": material.rows["unlabeled"] if unwritten else [],
        "source_unlabeled": material.rows["source_unlabeled"] if mute else [],
        "train": material.rows["train"] if origin != "data" else [],
    }
    own = ReferenceFiles(material.source, [], None, None, material.auto_model)
    files = material.references[0] if material.references else own
    if recipe.reference_spec() is None or not task.generates or not any(wanted.values()):
        return
    for split, rows in wanted.items():
        if not rows:
            continue
        interpolated = split == "train" and origin == "interpolated"
        targets = TeacherTargets(recipe, task, files, interpolated)
        missing = len({targets.key(row) for row in rows} - targets.texts.keys())
        if missing and world_size() > 1:
            found, expected = f"{missing} texts of {split} that the teacher has not written", "all of them in its file"
            fix = "start once with one process (it may be stopped when training begins), then with several"
            raise UserError(Problem(recipe.where("generation"), "generation.targets", found, expected, fix))
        if missing:
            teacher = _writer(live)
            with display.bar(f"the teacher writes {split}", missing) as advance:
                targets.write(teacher.model, rows, device, autocast, advance)
        learnt = split == "train" or (split == "unlabeled" and recipe.data.unlabeled_as == "labels")
        material.encoded[split] = [targets.examples([row], learnt=learnt) for row in rows]


def _writer(live: Callable[[], Reference]) -> Model:
    """Who writes: the reference's model, of several the first."""
    reference = live()
    teacher = reference.members[0] if isinstance(reference, Ensemble) else reference
    assert isinstance(teacher, Model)
    return teacher


def label(
    material: Material, live: Callable[[], Reference], student: loading.Loaded, device: str, display: Display
) -> None:
    """The reference's choices as labels of the rows that have none, where the recipe wants them so."""
    recipe, task = material.recipe, material.task
    if recipe.data.unlabeled_as == "distribution" or recipe.reference_spec() is None or task.generates:
        return
    for split in (name for name in ("unlabeled", "augmented") if material.rows[name]):
        encoded = material.encoded[split]
        with display.bar(f"the reference labels {split}", sum(map(len, encoded))) as advance:
            made = pseudo_labels.labelled(task, live(), material.rows[split], encoded, device=device, progress=advance)
        material.encoded[split] = made
        task.annotate(student.model.config, [example for row in made for example in row])


def draw(
    material: Material,
    live: Callable[[], Reference],
    autocast: Callable[[], AbstractContextManager[Any]],
    device: str,
    display: Display,
) -> None:
    """Texts drawn from the source model itself, in the place of a source domain's: one for each training row."""
    recipe, task = material.recipe, material.task
    if not recipe.anchors_generated:
        return

    def refuse(found: str, expected: str, fix: str) -> UserError:
        return UserError(Problem(recipe.where("objective"), "objective.anchor_on", found, expected, fix))

    if not task.generates or not task.samples:
        raise refuse(
            "a model that chooses for all frames at once", "one that writes token by token", "anchor on source"
        )
    if world_size() > 1:
        raise refuse("several processes", "one, which draws the texts", "start with one process")
    source = material.references[0].source if material.references else material.source
    drawn, openings, teacher = SampledTexts(recipe, task, source), task.openings(material.rows["train"]), _writer(live)
    with display.bar("the source model draws texts", len(openings)) as advance:
        made = [[example] for example in drawn.draw(teacher.model, openings, device, autocast, advance)]
    share = max(1, len(made) // 10)  # not trained on: a budget of divergence is measured there
    material.encoded |= {"generated": made[share:], "generated_validation": made[:share]}
