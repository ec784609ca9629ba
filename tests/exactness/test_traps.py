"""The traps that other systems fell into (DESIGN.md, section 4), put in one by one: each has a check that then fails.

A trap is a wrong implementation at the narrowest place. A check is an existing test, the start-up self-test, or one of
the functions below. The first test runs the checks that no other file has as things are, and they pass; the second puts
the trap in, and the check fails at the line that `seen` names, and not for some other reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import peft
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, pad
from transformers import TrainingArguments

from keeltune import recipe
from keeltune.data.dataset import Row
from keeltune.models import loading, processors, tokenizer_match
from keeltune.objective import derived_predictions, divergences, formula, log_probs, predictions, stored_predictions
from keeltune.objective.derived_predictions import Shared
from keeltune.objective.formula import Objective
from keeltune.objective.predictions import IGNORED, Coarse, Dense
from keeltune.objective.references.adapter_off import AdapterOff
from keeltune.objective.references.cached import Cached
from keeltune.objective.references.model import Model
from keeltune.tasks.architectures.causal import Causal
from keeltune.tasks.common import whole_text
from keeltune.tasks.common.example import Example
from keeltune.training import batch_plan, build, reference_loading, self_test, trainer
from keeltune.training.batch_plan import Plan
from keeltune.training.cache import identity
from keeltune.training.callbacks import EvaluateEvery
from keeltune.training.checkpoints import BestWeights
from keeltune.training.preparation import compatibility, prepare, row_encoding
from keeltune.training.trainer import KeelTrainer
from keeltune.utils import registry, tensor_store
from tests.exactness import test_accumulation
from tests.faults import test_resume
from tests.helpers.interruption import copy_at, same
from tests.models import test_loading, test_vocabulary
from tests.objective import test_divergences, test_formula, test_predictions, test_references, test_shared_tokens
from tests.runs import test_run
from tests.tasks import test_control_tokens, test_text_generation
from tests.training import test_batch_plan, test_cache, test_checkpoints, test_self_test, test_trainer

bench, data = test_references.bench, test_run.data  # fixtures of those files
given = test_cache.given
resumable, trainable = test_resume.spec, test_trainer.spec

# Checks that no other file has


def self_test_passes(tiny) -> None:
    model, task, reference, batch = test_self_test.build(tiny)
    self_test.self_test(model, task, Objective(weight=0.3, temperature=2.0), reference, batch)


def accumulation_changes_nothing(tiny, tmp_path) -> None:
    test_accumulation.test_accumulation_changes_nothing(tiny, tmp_path, "bert", "reverse-kl")


def two_ranks_are_one(tiny, tmp_path, monkeypatch) -> None:
    """What two processes would do, in one: the counts are summed over both, DDP's mean is taken of both gradients.

    The real thing is `test_accumulation.test_two_ranks_are_one`, which is slow and whose processes no patch reaches.
    """
    how = {"accumulation": 1, "objective": Objective(weight=0.7)}
    whole = test_accumulation.gradients(tiny("bert"), tmp_path, batch=4, world=1, **how)[0]
    rank = test_accumulation.build(tiny("bert"), tmp_path, batch=2, world=2, **how)
    batches = [rank.step_loss.task.collate(rank.plan.micro_batch(0, 0, cut)) for cut in range(2)]
    shares: list[Tensor] = []
    with monkeypatch.context() as patch:
        patch.setattr(TrainingArguments, "world_size", property(lambda self: 2))
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        patch.setattr(torch.distributed, "all_reduce", lambda values: shares.append(values.clone()))
        for batch in batches:
            rank.get_batch_samples(iter([batch]), 1, "cpu")
        patch.setattr(torch.distributed, "all_reduce", lambda values: values.copy_(sum(shares)))
        for batch in batches:
            _, counts = rank.get_batch_samples(iter([batch]), 1, "cpu")
            (rank.compute_loss(rank.model, batch, num_items_in_batch=counts) / 2).backward()  # the halves add up
    found = torch.cat([p.grad.double().flatten() for p in rank.model.parameters() if p.grad is not None])
    assert test_accumulation.difference([whole], [found]) < 1e-6


def padding_changes_nothing(bench) -> None:
    """Both terms of a batch of uneven lengths are the sums of those of its rows, each read alone and unpadded."""
    model, task, _ = bench
    reference = Model(test_references.adapted(model).eval(), task.rows)
    examples = [
        e
        for i, text in enumerate(test_references.TEXTS)
        for e in task.encode(Row({"text": text, "label": test_references.LABELS[i % 2]}, "f", i + 1, f"k{i}"))
    ]

    def terms(examples: list[Example]) -> Tensor:
        batch = task.collate(examples)
        student = task.rows(model(**batch["inputs"]), batch)
        return torch.stack([task.cross_entropy(student, batch), Objective().total(student, reference.rows(batch))])

    assert len({example.length for example in examples}) == len(examples)
    alone = sum(terms([example]) for example in examples)
    torch.testing.assert_close(terms(examples), alone, rtol=1e-5, atol=1e-5)


def a_row_without_a_label_is_neither_summed_nor_counted(tiny, tmp_path) -> None:
    """The Trainer's loss of four rows, one without a label, is torch's mean over three and over four of them."""
    ours = test_accumulation.build(
        tiny("bert"), tmp_path, batch=4, accumulation=1, world=1, objective=Objective(weight=0.7)
    )
    first, *others = ours.plan.micro_batch(0, 0, 0)
    batch = ours.step_loss.task.collate([replace(first, targets=[IGNORED]), *others])
    _, counts = ours.get_batch_samples(iter([batch]), 1, "cpu")
    found = ours.compute_loss(ours.model, batch, num_items_in_batch=counts)
    student, teacher = (m(**batch["inputs"]).logits for m in (ours.model, ours.step_loss.reference.model))
    apart = kl_div(teacher.log_softmax(-1), student.log_softmax(-1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(found, cross_entropy(student, batch["targets"]) + 0.7 * apart, rtol=1e-6, atol=1e-6)


def near_equal_distributions_are_never_negative() -> None:
    """Sums of float32 that rounding takes to either side of 0."""
    random = torch.Generator().manual_seed(0)
    z = torch.randn(64, 2000, generator=random)
    w = z + 1e-4 * torch.randn(64, 2000, generator=random)
    assert (divergences.reverse_kl(z.log_softmax(-1), w.log_softmax(-1)) >= 0).all()


def another_number_of_choices_is_refused() -> None:
    for choices in (4, 6):
        try:
            value = Objective().total(Dense(test_formula.Z), Dense(test_formula.normal(10, choices, seed=2)))
        except (RuntimeError, ValueError):
            continue
        raise AssertionError(f"a reference of {choices} choices was compared with a student of 5: {value}")


def references_that_are_equal_agree(tiny, tmp_path) -> None:
    """The labels in another order, the vocabulary in another order: the same distribution, if each is read its way."""
    folder, teacher = test_run.make_data(tmp_path), tiny("bert", seed=5)
    turned = test_run.other_order(teacher, folder / "turned")
    other = test_run.other_tokenizer(teacher, folder / "other")
    answers = []
    for reference in (teacher, turned, other):
        spec = test_run.spec_of("distillation", tiny("bert"), reference=str(reference))
        job = build.build(prepare.prepare(recipe.from_dict(spec, folder)))
        job.reference.model.cpu()
        batch = job.material.task.collate(job.plan.micro_batch(0, 0, 0))
        answers.append(job.reference.rows(batch).log_probs(slice(None)))
    for name, answer in zip(("order of labels", "tokenizer"), answers[1:], strict=True):
        torch.testing.assert_close(answer, answers[0], rtol=0, atol=1e-6, msg=lambda why, name=name: f"{name}: {why}")


def a_killed_run_goes_on_bit_for_bit(resumable, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        copy_at(patch, {7: (tmp_path / "whole", tmp_path / "killed")})
        whole = test_resume.train(resumable, tmp_path, "whole")
    assert same(whole.folder, test_resume.train(resumable, tmp_path, "killed", resume=True).folder)


def a_stop_on_an_epochs_last_step_loses_nothing(resumable, tmp_path, monkeypatch) -> None:
    test_checkpoints.a_stop_loses_nothing({**resumable, "evaluation": {}}, tmp_path, 5)


def the_best_weights_are_exported(trainable, tmp_path, monkeypatch) -> None:
    scores = [(0.5, 1.0), (0.9, 1.0), (0.6, 1.0), (0.6, 1.0), (0.6, 1.0)]
    test_trainer.test_the_best_weights_are_exported_and_never_rotated_away(trainable, tmp_path, monkeypatch, scores, 2)


equal_to_the_student = {
    name: partial(test_formula.test_a_reference_equal_to_the_student_adds_nothing, name, 1.0)
    for name in ("reverse-kl", "forward-kl")
}
the_gradient_by_hand = test_accumulation.test_the_gradient_is_that_of_the_mean_over_the_step
the_formula_by_hand = partial(
    test_formula.test_loss_is_the_mean_cross_entropy_plus_weight_times_the_mean_divergence, "reverse-kl"
)
t_squared = partial(test_formula.test_t_squared_is_in_the_value_and_in_the_gradient, 2.0)
a_large_vocabulary = partial(test_predictions.test_near_equal_logits_of_a_large_vocabulary_stay_positive, "reverse-kl")
the_mask = test_formula.test_the_mask_is_neither_shifted_nor_ignored
nothing_to_count = partial(test_formula.test_a_step_with_nothing_to_count_is_0_with_a_graph, "reverse-kl")
padding_with_mass = partial(
    test_shared_tokens.test_equal_up_to_padding_is_0_though_the_padding_has_mass, "reverse-kl", 9, 7
)
shared_by_hand = partial(
    test_shared_tokens.test_value_and_gradient_are_those_by_hand, 9, 7, test_shared_tokens.FIRST, 2.0
)
every_label = test_predictions.test_nll_is_torchs_and_0_where_there_is_no_label
slices_of_any_size = partial(test_formula.test_slices_of_any_size_change_nothing, "reverse-kl", 4)
no_text_ends_in_padding = partial(
    test_vocabulary.test_padding_is_a_token_that_no_text_ends_in, architecture="gpt2", stored=None
)
padding_takes_nothing = partial(test_vocabulary.test_padding_takes_no_probability, architecture="gpt2")
a_name_is_text = partial(test_control_tokens.test_every_task_reads_it_as_text_and_says_so, task="text-classification")
letters_of_its_own = partial(
    test_vocabulary.test_a_head_for_fewer_letters_is_new_and_of_the_tokenizers_size, kind="wav2vec2"
)
other_tokens = test_shared_tokens.test_other_tokens_are_refused_with_the_first_that_differ_and_what_is_legal
other_labels = partial(test_run.test_a_reference_with_other_labels_is_refused, labels=("bad", "good"))
an_adapter_starts_at_nothing = partial(
    test_loading.test_an_adapter_starts_at_nothing_and_merges_exactly, architecture="bert"
)
adapter_off_is_the_start = test_references.test_adapter_off_is_the_model_that_training_started_from
every_input = partial(test_references.test_a_reference_gets_every_input_the_student_gets, kind="model")
both_ends = partial(
    test_divergences.test_jensen_shannon_is_continuous_in_value_and_gradient_at_both_ends, 0, "forward-kl"
)


# Traps


Patch = pytest.MonkeyPatch


def one_token_late(original, self, prompt, ids, trained, *others):
    first = trained.index(True) if True in trained else 0
    return original(self, prompt, ids, [own and i != first for i, own in enumerate(trained)], *others)


def all_of_it_trained(original, self, prompt, ids, trained, *others):
    return original(self, prompt, ids, [True] * len(ids), *others)


def around(owner: object, name: str, wrong: Callable) -> Callable[[Patch], None]:
    """Puts `wrong` in the place of `owner.name`; it is handed the original first."""

    def put_in(patch: Patch) -> None:
        original = getattr(owner, name)
        patch.setattr(owner, name, lambda *args, **how: wrong(original, *args, **how))

    return put_in


def in_place_of(name: str, wrong: Callable) -> Callable[[Patch], None]:
    """Puts `wrong` in the place of the divergence `name`."""
    return around(registry, "find", lambda find, *what: wrong if what == ("divergences", name) else find(*what))


def all_of(*traps: Callable[[Patch], None]) -> Callable[[Patch], None]:
    def put_in(patch: Patch) -> None:
        for trap in traps:
            trap(patch)

    return put_in


def counts_of_one_micro_batch(original, self, iterator, number, device):
    batches, counts = original(self, iterator, number, device)
    return batches, counts / len(batches)


def micro_batches_before_steps(original, self, epoch):
    """Rows are put together for a forward pass, and forward passes for a step: the usual order of things."""
    random = np.random.default_rng([self.seed, epoch])
    small = batch_plan.steps_of_similar_length(self._lengths, self.step_size // self.micro_batches, random)
    return [np.concatenate(small[i : i + self.micro_batches]) for i in range(0, len(small), self.micro_batches)]


def no_factor_for_the_mean_of_ddp(original, self, *arguments, **how):
    return original(self, *arguments, **how) / self.args.world_size


def padding_that_is_read(original, self, inputs):
    batch = original(self, inputs)
    return {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}


def t_squared_in_the_value_alone(original, self, *arguments):
    value = original(self, *arguments)
    return value.detach() + (value - value.detach()) / self.temperature**2


def no_softmax_at_temperature_1(original, logits, temperature):
    return logits if temperature == 1.0 else original(logits, temperature)


def a_hidden_cross_entropy(original, self, student, *others):
    return original(self, student, *others) - student.log_probs(slice(None)).amax(-1).sum()


def a_cross_entropy(student: Tensor, reference: Tensor) -> Tensor:
    return -(reference.exp() * student).sum(-1)


def kl_as_rounded(original, log_a, log_b):
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def missing_choices_as_zeros(original, self, student, reference, anchored=None):
    width = max(rows.logits.shape[-1] for rows in (student, reference))
    filled = [Dense(pad(rows.logits, (0, width - rows.logits.shape[-1]))) for rows in (student, reference)]
    return original(self, *filled, anchored)


def padding_as_zeros(original, self, *arguments):
    """Both sides at the larger width, what one lacks with no mass: nothing is renormalised."""
    wide = Dense.log_probs(self.rows, *arguments)
    return pad(wide, (0, 9 - wide.shape[-1]), value=-1e4)


def padding_copied(original, self, student, reference, anchored=None):
    """What the reference lacks is the student's own."""
    wide = torch.cat([reference.rows.logits, student.logits.detach()[:, reference.rows.logits.shape[-1] :]], -1)
    return original(self, student, Dense(wide), anchored)


def as_many_tokens(original, ours, theirs, *rows):
    kind = "same" if len(ours) == len(theirs) else "different"
    return tokenizer_match.Relation(kind, range(len(ours)))


def kept_choices(original, self, log_probs, part):
    return log_probs.gather(-1, self.ids[part])


def kept_choices_renormalised(original, self, log_probs, part):
    return kept_choices(original, self, log_probs, part).log_softmax(-1)


def no_tail(original, self, *arguments):
    return original(self, *arguments)[:, :-1]


def no_tail_renormalised(original, self, *arguments):
    return no_tail(original, self, *arguments).log_softmax(-1)


def a_shifted_mask(original, self, student, reference, anchored=None):
    return original(self, student, reference, None if anchored is None else anchored.roll(1))


def a_mask_that_masks_nothing(original, self, student, reference, anchored=None):
    return original(self, student, reference, None)


def every_row_counted(original, self, iterator, number, device):
    batches, counts = original(self, iterator, number, device)
    counts[0] = sum(len(batch["targets"]) for batch in batches)
    return batches, counts


def a_constant_for_nothing(original, total, count):
    return original(total, count) if count > 0 else torch.zeros((), dtype=total.dtype)


def letters_beyond_the_head(patch: Patch) -> None:
    patch.setattr(loading, "fit_ctc_head", lambda config, tokenizer, trained: None)
    patch.setattr(loading, "misfit", lambda model, processor: None)
    patch.setattr(row_encoding, "id_faults", lambda task, examples: ())


def a_row_for_padding(original, model, processor, auto_model=""):
    tokenizer = processors.tokenizer_of(processor)
    if tokenizer.pad_token_id is None or len(tokenizer) == 25:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return original(model, processor, auto_model)


def jensen_shannon_of_the_textbook(student: Tensor, reference: Tensor, *, beta: float = 0.5) -> Tensor:
    scale = beta * (1 - beta) if 0 < beta < 1 else 1.0
    return scale * divergences.jensen_shannon(student, reference, beta=beta)


def whole_slices_only(original, rows, *size):
    parts = list(original(rows, *size))
    return [part for part in parts if part.stop - part.start == parts[0].stop - parts[0].start]


def token_ids_alone(original, self, batch):
    return original(self, {**batch, "inputs": {"input_ids": batch["inputs"]["input_ids"]}})


def a_dropped_reference(original, self, cross_entropy, student, reference=None, anchored=None, *, counts):
    return original(self, cross_entropy, student, None, anchored, counts=counts)


def a_reference_asked_and_dropped(original, self, model, inputs, *others, **how):
    """As a trainer would that hands the objective everything but the reference."""
    whole = self.step_loss
    whole.reference.rows(inputs)
    self.step_loss = replace(whole, reference=None)
    loss = original(self, model, inputs, *others, **how)
    self.step_loss = whole
    return loss


def words_lost_at_random(original, self, item):
    batch = original(self, item)
    ids = batch["inputs"]["input_ids"]
    ids[torch.rand(ids.shape) < 0.3] = 1  # of the global generator, when the batch is fetched
    return batch


def an_order_of_the_global_generator(original, lengths, size, random):
    return list(np.array_split(np.random.permutation(len(lengths)), max(1, len(lengths) // size)))


def an_epoch_evaluated_after_it_is_saved(patch):
    def after(self, args, state, control, **kwargs):
        control.should_evaluate = True

    patch.setattr(EvaluateEvery, "on_step_end", lambda *given, **how: None)
    patch.setattr(EvaluateEvery, "on_epoch_end", after)


def the_next_places(original, self, places):
    """The answers of the next rows in the file, whatever rows are asked for."""
    every = list(self.store._locations.values())
    TAKEN.extend(places)
    return original(self, [every[(len(TAKEN) + i) % len(every)] for i in range(len(places))])


TAKEN: list[tensor_store.Location] = []


class Trap(NamedTuple):
    number: int
    name: str
    put_in: Callable[[Patch], None]
    check: Callable
    seen: str
    """What the check says when it fails, as a regular expression."""


GRADIENT, CLOSE = r"where .* = .*difference", "are not close"
TRAPS = [
    Trap(1, "mean of each micro-batch", around(KeelTrainer, "get_batch_samples", counts_of_one_micro_batch),
         accumulation_changes_nothing, GRADIENT),
    Trap(1, "divided by the accumulation once more", lambda patch: patch.setattr(
         KeelTrainer, "loss_is_scaled_for_ga", False), accumulation_changes_nothing, GRADIENT),
    Trap(1, "micro-batches are put together before steps", around(Plan, "_epoch_order", micro_batches_before_steps),
         accumulation_changes_nothing, GRADIENT),
    Trap(1, "divided by the number of ranks once more", around(
         KeelTrainer, "compute_loss", no_factor_for_the_mean_of_ddp), two_ranks_are_one, GRADIENT),
    Trap(1, "a rank divides by its own count", around(
         trainer, "summed_over_ranks", lambda original, values, device: values),
         two_ranks_are_one, GRADIENT),
    Trap(1, "padding is read", around(registry.find("tasks", "text-classification"), "pad", padding_that_is_read),
         padding_changes_nothing, CLOSE),
    Trap(2, "T² in the value alone", around(Objective, "total", t_squared_in_the_value_alone), t_squared, CLOSE),
    Trap(2, "no T² at all", around(Objective, "total", lambda original, self, *a: original(self, *a) / 4),
         self_test_passes, "divergence of the student from uniform"),
    Trap(2, "softmax skipped for the default", around(predictions, "log_softmax", no_softmax_at_temperature_1),
         the_formula_by_hand, CLOSE),
    Trap(3, "a hidden cross-entropy", around(Objective, "total", a_hidden_cross_entropy),
         self_test_passes, "divergence of the student from itself"),
    Trap(3, "a hidden cross-entropy", around(Objective, "total", a_hidden_cross_entropy),
         equal_to_the_student["reverse-kl"], r"assert .* == 0 ±"),
    Trap(4, "compared in bf16", around(log_probs, "full_precision", lambda original, x: x),
         a_large_vocabulary, r"assert .* == .* ±"),
    Trap(4, "rounded below zero", lambda patch: patch.setitem(
         divergences.reverse_kl.__globals__, "kl", partial(kl_as_rounded, None)),
         near_equal_distributions_are_never_negative, r"assert .*all\(\)|where tensor\(False\)"),
    Trap(5, "missing choices padded with zeros", around(Objective, "total", missing_choices_as_zeros),
         another_number_of_choices_is_refused, "of 4 choices was compared"),
    Trap(5, "rows of no token padded with zeros", all_of(around(Shared, "log_probs", padding_as_zeros),
         around(Shared, "comparable", lambda original, self, log_probs, part: log_probs)),
         padding_with_mass, r"assert .* == 0 ±"),
    Trap(5, "rows of no token copied from the student", around(Objective, "total", padding_copied),
         shared_by_hand, CLOSE),
    Trap(5, "rows of no token cut, not renormalised", around(
         derived_predictions, "subset", lambda original, log_probs, kept: log_probs[:, kept]), shared_by_hand, CLOSE),
    Trap(5, "labels paired by their place", around(
         reference_loading, "reordered", lambda original, task, order: task.rows),
         references_that_are_equal_agree, "order of labels: "),
    Trap(6, "as many tokens taken for the same tokens", around(
         compatibility, "_same_encoding", lambda original, a, b, probes:
         len(a.processor) == len(b.processor)), references_that_are_equal_agree, "tokenizer: "),
    Trap(6, "as many tokens taken for the same choices", around(tokenizer_match, "compare", as_many_tokens),
         other_tokens, "DID NOT RAISE"),
    Trap(6, "as many labels taken for the same labels", around(
         compatibility, "known_names", lambda original, head, names: names), other_labels, "DID NOT RAISE"),
    Trap(7, "top-k renormalised on both sides", all_of(around(Coarse, "comparable", kept_choices_renormalised),
         around(Coarse, "log_probs", no_tail_renormalised)),
         test_predictions.test_the_top_k_is_not_renormalised_and_the_tail_not_dropped, r"assert .* == .* ±"),
    Trap(7, "the tail of the top-k dropped", all_of(around(Coarse, "comparable", kept_choices),
         around(Coarse, "log_probs", no_tail)),
         test_predictions.test_the_top_k_is_not_renormalised_and_the_tail_not_dropped, r"assert .* == .* ±"),
    Trap(8, "the mask off by one", around(Objective, "total", a_shifted_mask), the_mask, r"assert .* == .* ±"),
    Trap(9, "a mask that masks nothing", around(Objective, "total", a_mask_that_masks_nothing),
         the_mask, r"assert .* == .* ±"),
    Trap(9, "a mask that masks nothing", around(Objective, "total", a_mask_that_masks_nothing),
         test_formula.test_predictions_outside_the_mask_get_no_gradient_of_the_divergence, "torch.equal|zeros"),
    Trap(10, "rows without a label summed", lambda patch: patch.setattr(predictions, "IGNORED", -1),
         a_row_without_a_label_is_neither_summed_nor_counted, CLOSE),
    Trap(10, "rows without a label summed", lambda patch: patch.setattr(
         predictions, "IGNORED", -1), every_label, CLOSE),
    Trap(10, "rows without a label counted", around(KeelTrainer, "get_batch_samples", every_row_counted),
         a_row_without_a_label_is_neither_summed_nor_counted, CLOSE),
    Trap(10, "the end of text as padding", lambda patch: patch.setattr(
         processors, "_ends_texts", lambda tokenizer, token: False), no_text_ends_in_padding, "pads with"),
    Trap(22, "a row of the vocabulary for padding", around(loading, "padding", a_row_for_padding),
         padding_takes_nothing, r"approx"),
    Trap(23, "a head for other letters", letters_beyond_the_head, letters_of_its_own, "assert "),
    Trap(29, "a special token that is written commands", lambda patch: patch.setattr(
         whole_text, "encode_text", lambda tokenizer, *texts, **options: tokenizer(*texts, **options)),
         a_name_is_text, "assert "),
    Trap(10, "a constant where nothing counts", around(formula, "divide", a_constant_for_nothing),
         nothing_to_count, "does not require grad"),
    Trap(11, "a cross-entropy that is called KL", in_place_of("forward-kl", a_cross_entropy),
         equal_to_the_student["forward-kl"], r"assert .* == 0 ±"),
    Trap(11, "a cross-entropy that is called KL", in_place_of("reverse-kl", a_cross_entropy),
         self_test_passes, "divergence of the student from itself"),
    Trap(12, "Jensen–Shannon not divided by β (1 − β)", in_place_of("jensen-shannon", jensen_shannon_of_the_textbook),
         both_ends, r"assert .* < |assert False"),
    Trap(13, "the last, shorter slice lost", around(
         predictions, "slices", whole_slices_only), slices_of_any_size, CLOSE),
    Trap(14, "answers paired with the batch by number", around(Cached, "_columns", the_next_places),
         test_cache.test_the_divergence_is_computed_on_the_cached_rows, "equal"),
    Trap(15, "a cache that does not know its teacher", around(
         identity, "weights_digest", lambda original, source: "a teacher"),
         test_cache.test_each_mismatch_is_refused_with_the_field_and_both_values, "DID NOT RAISE"),
    Trap(15, "a cache that does not know its tokenizer", around(
         tokenizer_match, "tokenizer_digest", lambda original, tokenizer: "a tokenizer"),
         test_cache.test_each_mismatch_is_refused_with_the_field_and_both_values, "assert |RAISE"),
    Trap(15, "ids of two bytes for any vocabulary", around(
         stored_predictions, "id_dtype", lambda original, choices: torch.int16),
         test_cache.test_ids_of_any_size_are_kept, "assert "),
    Trap(16, "a cache that does not look at what was read", around(
         identity, "content_of", lambda original, example: bytes(32)),
         test_cache.test_a_row_that_is_read_otherwise_is_refused, "RAISE"),
    Trap(16, "the reference gets the token ids alone", around(Model, "rows", token_ids_alone),
         every_input, "assert False"),
    Trap(17, "LoRA with a null reference", lambda patch: patch.setattr(
         AdapterOff, "build", lambda context: None),
         partial(test_run.test_lora, method="cross-domain"), "assert 0.0 > 0"),
    Trap(17, "an adapter that does not start at zero", lambda patch: patch.setattr(
         peft, "LoraConfig", partial(peft.LoraConfig, init_lora_weights=False)),
         an_adapter_starts_at_nothing, CLOSE),
    Trap(17, "an adapter that is not switched off", lambda patch: patch.setattr(
         peft.PeftModel, "disable_adapter", lambda self: nullcontext()), adapter_off_is_the_start, CLOSE),
    Trap(18, "a reference that the objective drops", around(Objective, "__call__", a_dropped_reference),
         self_test_passes, "loss moved by the divergence"),
    Trap(18, "a reference that the trainer drops", around(
         KeelTrainer, "compute_loss", a_reference_asked_and_dropped), the_gradient_by_hand, GRADIENT),
    Trap(19, "randomness of the global generator in a batch", around(Plan, "__getitem__", words_lost_at_random),
         a_killed_run_goes_on_bit_for_bit, r"where False = same\("),
    Trap(19, "an order of the global generator", around(
         batch_plan, "steps_of_similar_length", an_order_of_the_global_generator),
         test_batch_plan.test_order_is_a_function_of_seed_and_epoch_and_nothing_else, "assert "),
    Trap(8, "the first answer token is not predicted", around(Causal, "marked", one_token_late),
         test_text_generation.test_a_target_is_predicted_from_its_first_token_to_its_end, "assert "),
    Trap(21, "the prompt is trained on", around(Causal, "marked", all_of_it_trained),
         test_text_generation.test_a_target_is_predicted_from_its_first_token_to_its_end, "assert "),
    Trap(20, "the best weights rotated away", lambda patch: patch.setattr(
         BestWeights, "load", lambda self, model: None),
         the_best_weights_are_exported, r"where False = equal\("),
    Trap(28, "a checkpoint saved before that step's evaluation", an_epoch_evaluated_after_it_is_saved,
         a_stop_on_an_epochs_last_step_loses_nothing, r"\+ \{.*eval_accuracy"),
]  # fmt: skip
CHECKS = [check for check in dict.fromkeys(trap.check for trap in TRAPS) if check.__module__ == __name__]
"""Those that no other file has: the others run there, without a trap."""


def name_of(check: Callable) -> str:
    if isinstance(check, partial):
        values = "-".join(str(value) for value in (*check.args, *check.keywords.values()))
        return f"{check.func.__name__}[{values}]"
    return check.__name__


def run(check: Callable, request: pytest.FixtureRequest) -> None:
    """Calls a check with the fixtures that it asks for."""
    wanted = [p.name for p in inspect.signature(check).parameters.values() if p.default is p.empty]
    check(**{name: request.getfixturevalue(name) for name in wanted})


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_without_a_trap_the_check_passes(check, request):
    run(check, request)


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: f"{trap.number}, {trap.name}, {name_of(trap.check)}")
def test_with_the_trap_the_check_fails(trap, request, monkeypatch):
    trap.put_in(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception), match=trap.seen):
        run(trap.check, request)


def test_every_trap_is_put_in():
    assert {trap.number for trap in TRAPS} >= {*range(1, 24), 28, 29}
