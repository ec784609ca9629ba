"""What the reference does ahead of training: it writes texts, gives labels, samples texts of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keeltune.models import loading
from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Autocast
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.example import Example
from keeltune.training import pseudo_labels
from keeltune.training.lazy_reference import LazyReference
from keeltune.training.preparation.compatibility import ReferenceFiles
from keeltune.training.preparation.material import Material
from keeltune.training.preparation.task_checks import needs_text, without_targets
from keeltune.training.target_generation import SampledTexts, TeacherTargets
from keeltune.utils.device import this_device
from keeltune.utils.distributed import world_size
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.folder_lock import waited_for
from keeltune.utils.progress import Display


def write_targets(
    material: Material,
    reference: LazyReference,
    autocast: Autocast,
    display: Display,
    listen: Callable[[list[list[Example]]], list[str]],
) -> None:
    """The teacher's texts in the place of the data's, or of those that the unlabelled rows lack.

    `listen`: the student, who tells which words of a long recording's text are where (`Task.listen`).
    """
    device = this_device()
    recipe, task = material.recipe, material.task
    writer = recipe.generation.targets
    unlabeled = needs_text(recipe, task, material.encoded["unlabeled"])
    source = task.generates and without_targets(material.encoded["source_unlabeled"])
    unwritten = {
        "unlabeled": material.rows["unlabeled"] if unlabeled else [],
        "source_unlabeled": material.rows["source_unlabeled"] if source else [],
        "train": material.rows["train"] if writer != "data" else [],
    }
    if recipe.reference_spec() is None or not task.generates:
        return
    start = ReferenceFiles(material.source, [], None, None, material.auto_model)
    files = material.references[0] if material.references else start
    for split, rows in unwritten.items():
        if not rows:
            continue
        targets = TeacherTargets(recipe, task, files, split == "train" and writer == "interpolated")
        missing = len({targets.key(row) for row in rows} - targets.texts.keys())
        if missing and world_size() > 1:
            found, expected = f"{missing} texts of {split} that the teacher has not written", "all of them in its file"
            fix = "start once with one process (it may be stopped when training begins), then with several"
            raise UserError(Problem(recipe.where("generation"), "generation.targets", found, expected, fix))
        if missing:
            teacher = _writing_model(material, reference)
            writing = display.bar(f"the teacher writes {split}", missing)
            with waited_for(targets.file.parent, display.say), writing as advance:
                targets.reread()
                targets.write(teacher.model, rows, device, autocast, advance)
        learnt = split == "train" or (split == "unlabeled" and recipe.data.unlabeled_as == "labels")
        least = recipe.generation.min_agreement if split == "train" else 0.0
        agrees = [not least or targets.agreement(row) >= least for row in rows]
        if apart := agrees.count(False):
            display.say(f"{apart} of {len(rows)} texts of the teacher agree less than {least:g} with the data's target")
        _require_some(recipe, agrees)
        taken = list(zip(rows, agrees, strict=True))
        encoded = [targets.examples([row], learnt=learnt and near) for row, near in taken]
        if listen(encoded):
            encoded = [targets.examples([row], learnt=learnt and near) for row, near in taken]
        material.encoded[split] = encoded


def _require_some(recipe: Recipe, agrees: Sequence[bool]) -> None:
    if not any(agrees):
        found, expected = "a teacher of whose texts none agrees so far", "some texts that are learnt"
        fix = "lower it, or read what the teacher writes: keeltune predict"
        raise UserError(Problem(recipe.where("generation"), "generation.min_agreement", found, expected, fix))


def _writing_model(material: Material, reference: LazyReference) -> Model:
    """The model that writes: the reference's, of several the first."""
    if models := reference.models():
        return models[0]
    recipe, spec = material.recipe, material.recipe.reference_spec()
    found = f"from: {spec.origin if spec else None}, which reads no model"
    expected, fix = "a model that writes the texts that these rows lack", "write from: online, or give them their texts"
    raise UserError(Problem(recipe.where("reference"), "reference.from", found, expected, fix))


def label(material: Material, reference: LazyReference, student: loading.Loaded, device: str, display: Display) -> None:
    """The reference's choices as labels of the rows that have none, where the recipe wants them so."""
    recipe, task = material.recipe, material.task
    if recipe.data.unlabeled_as == "distribution" or recipe.reference_spec() is None or task.generates:
        return
    for split in (name for name in ("unlabeled", "augmented") if material.rows[name]):
        encoded = material.encoded[split]
        with display.bar(f"the reference labels {split}", sum(map(len, encoded))) as advance:
            labelled = pseudo_labels.labelled(
                task, reference(), material.rows[split], encoded, device=device, progress=advance
            )
        material.encoded[split] = labelled
        task.annotate(student.model.config, [example for row in labelled for example in row])


def sample(material: Material, reference: LazyReference, autocast: Autocast, device: str, display: Display) -> None:
    """Texts sampled from the source model itself, in the place of a source domain's: one for each training row."""
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
    texts, openings = SampledTexts(recipe, task, source), task.openings(material.rows["train"])
    teacher = _writing_model(material, reference)
    drawing = display.bar("the source model draws texts", len(openings))
    with waited_for(texts.file.parent, display.say), drawing as advance:
        texts.reread()
        examples = [[example] for example in texts.sample(teacher.model, openings, device, autocast, advance)]
    share = max(1, len(examples) // 10)  # not trained on: a budget of divergence is measured there
    material.encoded |= {"generated": examples[share:], "generated_validation": examples[:share]}
