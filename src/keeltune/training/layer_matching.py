"""The layers of one student and its teacher paired for the recipe's matching terms (hidden states, attention)."""

from __future__ import annotations

from typing import Any

import torch

from keeltune.models import surgery
from keeltune.objective.matching.matching import Matching, Unmatched, requesting
from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Autocast, Reference
from keeltune.tasks.common.batches import to_device
from keeltune.training.matching_terms import matching_terms
from keeltune.training.preparation.material import Material
from keeltune.utils.errors import Problem, UserError

PROBED = 2
"""Rows on which the layers of student and teacher are paired."""


def match_layers(
    material: Material, student: Any, reference: Reference | None, autocast: Autocast, device: str
) -> Matching | None:
    """The recipe's terms beside D, their projections added to the student (which they leave before it is saved)."""
    recipe, task = material.recipe, material.task
    terms = matching_terms(recipe)
    if not terms:
        return None

    def refuse(found: str, expected: str) -> UserError:
        return UserError(Problem(recipe.where("objective"), "objective.matching", found, expected, "leave it out"))

    assert isinstance(reference, Model)
    if reference.entry is not None:
        raise refuse("a teacher with another tokenizer", "one that reads the very tokens that the student reads")
    if attends := any(term.output == "attentions" for term in terms):
        models: tuple[Any, ...] = (student, reference.model)
        for model in models:
            model.set_attn_implementation("eager")  # the others do not say where a head looks
        surgery.no_attention_dropout(student)
    batch = requesting(terms, to_device(task.collate(material.main_stream[:PROBED]), device))
    student.eval()
    with torch.random.fork_rng(), torch.no_grad(), autocast():
        torch.manual_seed(recipe.seed)
        outputs, reference_outputs = task.forward(student, batch), reference.outputs(batch)
        try:
            matching = Matching(terms, outputs, reference_outputs)
        except Unmatched as error:
            found, expected = str(error).removeprefix("found ").split(", expected ")
            raise refuse(found, expected) from error
        if attends:
            student.train()
            if not matching.attentions_sum_to_one(task.forward(student, batch)):
                raise refuse("a student whose attention dropout cannot be switched off", "weights that sum to 1")
    matching.attach(student)
    return matching
