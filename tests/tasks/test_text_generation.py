"""Models that write: losses, positions, padding, generation and slices, over encoder-decoders and decoders."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from keeltune.objective.formula import Counts, Objective
from keeltune.objective.predictions import Dense, Projected
from keeltune.tasks.common import lm_head
from tests.helpers import wide
from tests.helpers.writers import DECODERS, ENCODER_DECODERS, rows, writer

KIN = ("mbart", "pegasus", "mt5", "umt5", "mistral", "qwen2", "gemma", "olmo")
"""Of which another one computes the same: BART, T5, Llama or Gemma 2."""
WRITERS = [*ENCODER_DECODERS, *DECODERS]
EVERY_WRITER = pytest.mark.parametrize("architecture", wide.all_but(WRITERS, {*WRITERS} - {*KIN}))


def examples_of(task):
    return [e for row in rows() for e in task.encode(row)]


@EVERY_WRITER
def test_the_loss_is_the_models_own_times_its_count(architecture):
    """The model's own loss is a mean over the labels that it is handed; ours is their sum."""
    model, task = writer(architecture)
    batch = task.collate(examples_of(task))
    ours = task.cross_entropy(task.rows(task.forward(model, batch), batch), batch).item()
    labels = torch.full(batch["predicted"].shape, -100)
    labels[batch["predicted"]] = batch["targets"]
    if architecture in DECODERS:  # theirs shifts by itself
        labels = torch.cat([torch.full((len(labels), 1), -100), labels[:, :-1]], dim=1)
    theirs = model(**batch["inputs"], labels=labels).loss.item() * len(batch["targets"])
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert task.counts(batch)[0] == len(batch["targets"])


@EVERY_WRITER
def test_padding_changes_nothing(architecture):
    model, task = writer(architecture)
    examples = examples_of(task)
    with torch.no_grad():
        batch = task.collate(examples)
        together = task.rows(task.forward(model, batch), batch).log_probs(slice(None))
        alone = []
        for example in examples:
            one = task.collate([example])
            alone.append(task.rows(task.forward(model, one), one).log_probs(slice(None)))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


@EVERY_WRITER
def test_the_head_sees_the_predictions_alone_and_changes_nothing(architecture):
    """Against the model run as it is: values and gradients, selected, and in slices where the head is all there is."""
    model, task = writer(architecture)
    if hasattr(model, "final_logits_bias"):  # zero when new; Marian's checkpoints have one
        model.final_logits_bias.normal_()
    batch = task.collate(examples_of(task))
    found = {}
    for how, large in (("whole", None), ("selected", 2**40), ("sliced", 0)):
        model.zero_grad()
        if how == "whole":
            made = Dense(model(**batch["inputs"]).logits[batch["predicted"]])
        else:
            made = lm_head.rows(lm_head.forward(model, batch, large), batch)
        loss = task.cross_entropy(made, batch) / 7
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[how] = (loss.detach(), gradient, type(made))
    for how in ("selected", "sliced"):
        torch.testing.assert_close(found[how][0], found["whole"][0], rtol=1e-6, atol=0)
        assert ((found[how][1] - found["whole"][1]).norm() / found["whole"][1].norm()).item() < 1e-6
    assert found["sliced"][2] is Projected


@EVERY_WRITER
def test_what_is_written_is_the_likeliest_next_token_and_depends_on_no_company(architecture):
    """Greedy by hand, token by token with the whole input again each time, against `generate` in a padded batch."""
    model, task = writer(architecture)
    examples = examples_of(task)[:4]
    answers = [p.value for p in task.predict(model, examples)]
    tokenizer, steps = task.tokenizer, 12
    for example, answer in zip(examples, answers, strict=True):
        if architecture in DECODERS:
            ids = list(example.notes["prompt"]["input_ids"])
            begin = len(ids)
            inputs = {}
        else:
            ids, begin = [task.architecture.start], 1
            inputs = {k: torch.tensor([v]) for k, v in example.inputs.items() if k != "decoder_input_ids"}
        name = "input_ids" if architecture in DECODERS else "decoder_input_ids"
        with torch.no_grad():
            for _ in range(steps):
                logits = model(**inputs, **{name: torch.tensor([ids])}).logits[0, -1]
                ids.append(int(logits.argmax()))
                if ids[-1] == tokenizer.eos_token_id:
                    break
        assert answer == tokenizer.decode(ids[begin:], skip_special_tokens=True).strip()


def test_a_target_is_predicted_from_its_first_token_to_its_end():
    """Trap 8: a mask off by one would leave out the first answer token, or train on the prompt's last."""
    _, task = writer("gpt2")
    (example,) = task.encode(rows()[0])
    answer = task.tokenizer(" " + rows()[0].fields["target"], add_special_tokens=False)["input_ids"]
    assert list(example.targets) == [*answer, task.tokenizer.eos_token_id]
    first = example.predicted.index(True)
    assert first == len(example.inputs["input_ids"]) - len(answer) - 2
    assert example.inputs["input_ids"][first + 1] == answer[0]
    prompt = task.tokenizer.decode(example.inputs["input_ids"][: first + 1])
    assert prompt == "Translate the following text.\n\nthe film is good\n\nTranslation:"
    _, task = writer("bart")
    (example,) = task.encode(rows()[0])
    assert example.inputs["decoder_input_ids"] == [task.architecture.start, *example.targets[:-1]]
    assert example.targets[-1] == task.tokenizer.eos_token_id


@pytest.mark.slow  # a vocabulary of 60,000 and four measured backward passes
def test_peak_memory_grows_with_the_slice_and_not_with_the_vocabulary_times_the_predictions():
    """Bytes held for the backward pass, V = 60 000: dense keeps several [N, V], slices one [n, V] at a time."""
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 60_000)
    kept: dict[tuple[str, int], int] = {}

    class Kept:
        """A tensor that a graph holds for its backward pass: gone with the graph."""

        def __init__(self, tensor: torch.Tensor):
            self.tensor = tensor

    def bytes_of(make, n: int) -> int:
        held = weakref.WeakSet()

        def note(tensor):
            held.add(kept := Kept(tensor))
            return kept

        hidden, targets = torch.randn(n, 16, requires_grad=True), torch.arange(n)
        teacher = torch.randn(n, 16)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept.tensor):
            student, reference = make(hidden), Projected(teacher, lambda h: head(h).detach(), 60_000)
            from keeltune.objective.predictions import cross_entropy

            terms = Objective(weight=0.5)(cross_entropy(student, targets), student, reference, counts=Counts(n, n))
        gc.collect()
        storages = [kept.tensor.untyped_storage() for kept in held]
        total = {storage.data_ptr(): storage.nbytes() for storage in storages}
        terms.loss.backward()
        return sum(total.values())

    for n in (256, 512):
        kept["dense", n] = bytes_of(lambda hidden: Dense(head(hidden)), n)
        kept["sliced", n] = bytes_of(lambda hidden: Projected(hidden, head, 60_000), n)
    assert kept["dense", 512] - kept["dense", 256] > 256 * 60_000 * 4
    assert kept["sliced", 512] - kept["sliced", 256] < 256 * 60_000
