"""Sequence-level distillation (the teacher writes the targets) and on-policy distillation (the student does)."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import keeltune as kt
from keeltune import recipe
from keeltune.objective.predictions import IGNORED
from keeltune.objective.references.model import Model
from keeltune.tasks.architectures.architecture import Architecture
from keeltune.tasks.architectures.seq2seq import Seq2Seq
from keeltune.training import build, target_generation
from keeltune.training.preparation import prepare
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.errors import OutOfResources, UserError
from keeltune.utils.progress import Display
from tests.helpers import wide
from tests.helpers.runs import texts_in
from tests.helpers.writers import PAIRS, rows, spec, writer

QUIET = Display(quiet=True)


def train(given: dict, folder: Path, output: str = "out", **how) -> kt.Run:
    return kt.train(recipe.from_dict({**given, "output": output}, folder), display=QUIET, **how)


def unmeasured(given: dict) -> dict:
    """The recipe without rows to validate and to test on, whose answers a model would write at each evaluation."""
    return {**given, "data": {name: file for name, file in given["data"].items() if name not in ("validation", "test")}}


def test_texts_that_are_far_from_the_datas_are_not_learnt(tmp_path, monkeypatch):
    """The word error rate of each text of the teacher, counted by hand, decides; a share of 1 keeps what is equal."""
    given = spec(tmp_path, "translation", "marian", "distillation")
    given |= {"generation": {"targets": "reference", "max_new_tokens": 8}, "objective": {"weight": 0.0}}
    scores: dict[str, float] = {}

    def agreement(self, row):
        scores[row.key] = len(scores) / len(rows())
        return scores[row.key]

    monkeypatch.setattr(target_generation.TeacherTargets, "agreement", agreement)
    given["generation"]["min_agreement"] = 0.5
    material = prepare.prepare(recipe.from_dict({**given, "output": "out"}, tmp_path))
    build.build(material)
    learnt = [any(t != IGNORED for e in row for t in e.targets) for row in material.encoded["train"]]
    assert learnt == [score >= 0.5 for score in scores.values()]
    assert any(learnt) and not all(learnt)


def test_agreement_is_a_share_of_the_right_answers_score(tmp_path):
    """Of speech 1 − WER; of a translation its chrF over 100."""
    given = spec(tmp_path, "translation", "marian", "distillation")
    given |= {"generation": {"targets": "reference", "max_new_tokens": 8}, "objective": {"weight": 0.0}}
    made = recipe.from_dict({**given, "output": "out"}, tmp_path)
    material = prepare.prepare(made)
    targets = target_generation.TeacherTargets(made, material.task, material.references[0], interpolated=False)
    row = material.rows["train"][0]
    right = material.task.gold(row)
    for text in (right, "nothing of it", f"{right} and more"):
        targets.texts[targets.key(row)] = text
        alone = material.task.row_score(text, right) / material.task.row_score(right, right)
        assert targets.agreement(row) == pytest.approx(alone)
        assert 0 <= targets.agreement(row) <= 1
    targets.texts[targets.key(row)] = right
    assert targets.agreement(row) == 1


@pytest.mark.parametrize(
    ("generation", "said"),
    [
        ({"min_agreement": 0.5}, "no reference writes targets"),
        ({"targets": "reference", "min_agreement": 1.0}, "none agrees"),
    ],
)
def test_a_filter_that_has_nothing_to_filter_is_refused(tmp_path, generation, said):
    given = spec(tmp_path, "translation", "marian", "distillation") | {
        "generation": {"max_new_tokens": 8, **generation}
    }
    with pytest.raises(UserError, match=said):
        train(given, tmp_path)


@pytest.mark.parametrize("architecture", ["marian", "gpt2"])
def test_the_student_learns_what_the_teacher_writes(tmp_path, architecture, monkeypatch):
    """The targets are the teacher's own answers, and cross-entropy on them is all there is at weight 0."""
    given = spec(tmp_path, "translation", architecture, "distillation")
    given |= {"generation": {"targets": "reference", "max_new_tokens": 8}, "objective": {"weight": 0.0}}
    seen: list[list[int]] = []
    original = KeelTrainer.compute_loss

    def noting(self, model, inputs, *args, **kwargs):
        seen.append(inputs["targets"].tolist())
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(KeelTrainer, "compute_loss", noting)
    train(unmeasured(given), tmp_path)
    made, task = writer(architecture, seed=1, max_length=96 if architecture == "gpt2" else 64)
    teacher = type(made).from_pretrained(tmp_path / "teacher", dtype=torch.float32)  # Marian's positions are not stored
    task.settings = replace(task.settings, max_new_tokens=8)
    said = [p.value for row in rows() for p in task.predict(teacher, task.encode_scored(row, labelled=False))]
    assert sorted(texts_in(tmp_path)) == sorted(said)
    right = sorted(t for row, text in zip(rows(), said, strict=True)
                   for e in task.encode(task.with_target(row, text)) for t in e.targets)  # fmt: skip
    learnt = sorted(t for batch in seen for t in batch)
    assert learnt == sorted(right * 2)  # two epochs


def test_the_file_is_used_again_by_key_and_belongs_to_its_teacher(tmp_path, monkeypatch):
    given = unmeasured(spec(tmp_path, "translation", "marian", "distillation"))
    given["generation"] = {"targets": "reference", "max_new_tokens": 8}
    first = train(given, tmp_path, "first")
    calls: list[int] = []
    original = Seq2Seq.candidates

    def counting(self, model, examples, device, count=1):
        calls.append(len(examples))
        return original(self, model, examples, device, count)

    monkeypatch.setattr(Seq2Seq, "candidates", counting)
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join([*lines[::-1], json.dumps({"source": "it is", "target": "x"})]))
    train(given, tmp_path, "second")
    assert calls == [1]  # the new row alone
    calls.clear()
    other, _ = writer("marian", seed=5)
    other.save_pretrained(tmp_path / "teacher")
    train(given, tmp_path, "third")
    assert calls == [9]
    assert len(list((tmp_path / ".cache").glob("*/targets.jsonl"))) == 2
    assert first.result["status"] == "completed"


def test_a_text_is_what_was_written_or_is_written_again(tmp_path):
    """Each bit of the file flipped, and the file cut anywhere: no other text ever comes out of it."""
    given = SimpleNamespace(folder=tmp_path)
    texts = {"a" * 64: "ein Text", "b" * 64: 'with\u2028 "marks"', "c" * 64: [3, 1, 2]}
    store = target_generation.TextStore(given, {"teacher": "t"}, "targets.jsonl")
    with store.adding() as add:
        add(texts)
    content = store.file.read_bytes()

    def read() -> dict:
        return target_generation.TextStore(given, {"teacher": "t"}, "targets.jsonl").texts

    assert read() == texts
    for place in range(len(content)):
        for changed in (content[:place], bytes_with(content, place, (1, 4, 32, 128)[place % 4])):
            store.file.write_bytes(changed)
            assert read().items() <= texts.items()
    assert len(read()) == 2  # the last one's digest alone


def bytes_with(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


def test_a_killed_writer_goes_on_where_it_was(tmp_path, monkeypatch):
    given = unmeasured(spec(tmp_path, "translation", "marian", "distillation"))
    given["generation"] = {"targets": "reference", "max_new_tokens": 8}
    monkeypatch.setattr(target_generation, "BATCH", 2)
    original = Seq2Seq.candidates
    calls: list[int] = []

    def dying(self, model, examples, device, count=1):
        calls.append(len(examples))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, model, examples, device, count)

    with monkeypatch.context() as patch:
        patch.setattr(Seq2Seq, "candidates", dying)
        with pytest.raises(KeyboardInterrupt):
            train(given, tmp_path, "cut")
    kept = texts_in(tmp_path)
    assert len(kept) == 4

    sync = os.fsync

    def full(fd: int) -> None:
        if ".cache" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError("killed")
        sync(fd)

    with monkeypatch.context() as patch:  # while the file is written anew
        patch.setattr(os, "fsync", full)
        with pytest.raises((OSError, OutOfResources)):
            train(given, tmp_path, "cut", overwrite=True)
    assert texts_in(tmp_path) == kept
    train(given, tmp_path, "cut", overwrite=True)
    assert texts_in(tmp_path)[:4] == kept
    assert len(texts_in(tmp_path)) == len(PAIRS)


def test_interpolated_takes_the_beam_that_is_nearest_to_the_datas_target(tmp_path, monkeypatch):
    given = spec(tmp_path, "translation", "marian", "distillation")
    given["generation"] = {"targets": "interpolated", "max_new_tokens": 8}
    beams = ["nothing", "der Film ist gut", "schlecht"]
    monkeypatch.setattr(Seq2Seq, "candidates", lambda self, model, examples, device, count=1: [beams] * len(examples))
    train(given, tmp_path)
    found = dict(zip([p[1] for p in sorted(PAIRS, key=lambda p: -len(p[0]))], texts_in(tmp_path), strict=True))
    assert set(found.values()) <= set(beams)
    assert texts_in(tmp_path).count("der Film ist gut") >= 1
    assert texts_in(tmp_path).count("schlecht") >= 1


def test_texts_without_a_target_get_the_teachers_and_carry_d_alone(tmp_path, monkeypatch):
    given = spec(tmp_path, "translation", "marian", "distillation")
    (tmp_path / "pool.jsonl").write_text("\n".join(json.dumps({"source": f"the film {w}"}) for w in ("is", "was")))
    given["data"]["unlabeled"] = "pool.jsonl"
    counted: list[list[float]] = []
    original = KeelTrainer.get_batch_samples

    def noting(self, *args):
        batches, counts = original(self, *args)
        counted.append(counts.tolist())
        return batches, counts

    monkeypatch.setattr(KeelTrainer, "get_batch_samples", noting)
    train(given, tmp_path)
    for labelled, anchored, _ in counted:
        assert anchored > labelled > 0
    plain = [sum(e.labelled for e in task_examples()) for _ in range(1)]
    assert sum(labelled for labelled, _, _ in counted) == 2 * plain[0]


def task_examples():
    _, task = writer("marian")
    return [e for row in rows() for e in task.encode(row)]


@pytest.mark.parametrize("architecture", ["marian", "t5", "gpt2", "llama"])
def test_drawn_texts_are_the_students_own_and_carry_d_alone(architecture):
    """Drawn token by token from the model's distribution: how often each first token comes, against its probability."""
    model, task = writer(architecture)
    (example,) = task.encode_scored(rows()[0], labelled=False)
    torch.manual_seed(0)
    drawn = task.sample(model, [example] * 600, "cpu")
    assert all(set(e.targets) == {IGNORED} and e.labelled == 0 and e.predictions == sum(e.predicted) for e in drawn)
    batch = task.collate(drawn[:1])
    with torch.no_grad():
        p = task.rows(task.forward(model, batch), batch).log_probs(slice(0, 1))[0].exp()
    place = drawn[0].predicted.index(True) + 1
    name = "decoder_input_ids" if "decoder_input_ids" in example.inputs else "input_ids"
    longer = [e for e in drawn if e.predictions > 1]
    first = torch.tensor([e.inputs[name][place] for e in longer])
    found = torch.bincount(first, minlength=len(p)).double() / len(first)
    best = int(p.argmax())
    assert float(found[best]) == pytest.approx(float(p[best]), abs=0.08)


def test_on_policy_rows_reach_the_loss_and_a_resumed_run_draws_the_same(tmp_path, monkeypatch):
    given = spec(tmp_path, "translation", "marian", "distillation")
    given["generation"] = {"on_policy": 0.5, "max_new_tokens": 8}
    given["training"] |= {"save_steps": 1}
    given = unmeasured(given)
    counted: list[list[float]] = []
    original = KeelTrainer.get_batch_samples

    def noting(self, *args):
        batches, counts = original(self, *args)
        counted.append(counts.tolist())
        return batches, counts

    with monkeypatch.context() as patch:
        patch.setattr(KeelTrainer, "get_batch_samples", noting)
        whole = train(given, tmp_path, "whole")
    assert all(anchored > labelled for labelled, anchored, _ in counted)

    def dying(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return KeelTrainer.__dict__["_loss"](self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(KeelTrainer, "_loss", KeelTrainer.compute_loss, raising=False)
        patch.setattr(KeelTrainer, "compute_loss", dying)
        with pytest.raises(KeyboardInterrupt):
            train(given, tmp_path, "cut")
    again = train(given, tmp_path, "cut", resume=True)
    one, other = (load_file(run.model / "model.safetensors") for run in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("method", "changes", "field"), [
    ("fine-tuning", {"targets": "reference"}, "generation.targets"),
    ("fine-tuning", {"on_policy": 0.5}, "generation.on_policy"),
    ("cross-domain", {"targets": "reference"}, "generation.targets"),
])  # fmt: skip
def test_what_needs_a_teacher_is_refused_without_one(tmp_path, method, changes, field):
    given = spec(tmp_path, "translation", "marian", method) | {"generation": changes}
    with pytest.raises(UserError) as refused:
        train(given, tmp_path)
    assert [p.field for p in refused.value.problems] == [field]


def test_a_form_that_draws_nothing_says_so():
    class Silent(Architecture):
        def encode(self, row, target):
            raise AssertionError

        def candidates(self, model, examples, device, count=1):
            raise AssertionError

    with pytest.raises(NotImplementedError, match="Silent samples no text"):
        Silent(None).sample(None, [], "cpu")


WRITERS = [("translation", "marian"), ("translation", "gpt2"), ("text-generation", "llama")]


@pytest.mark.parametrize(("task", "architecture"), wide.all_but(WRITERS, [WRITERS[0], WRITERS[2]]))
def test_texts_of_the_source_model_carry_d_alone(tmp_path, task, architecture, monkeypatch):
    """`anchor_on: generated`: as many as training rows, a tenth of them held out, drawn once."""
    given = spec(tmp_path, task, architecture, "cross-domain")
    given |= {"generation": {"max_new_tokens": 8}, "objective": {"anchor_on": "generated", "weight": 2.0}}
    read: list[set[str]] = []
    original = Model.rows

    def noting(self, batch):
        read.append(set(batch["keys"]))
        return original(self, batch)

    monkeypatch.setattr(Model, "rows", noting)
    first = train(given, tmp_path, "first")
    (file,) = (tmp_path / ".cache").glob("*/drawn.jsonl")
    written = file.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in written.splitlines()[1:]]
    assert len(lines) == len(PAIRS)
    material = prepare.prepare(recipe.from_dict({**given, "output": "again"}, tmp_path))
    job = build.build(material)
    assert file.read_text(encoding="utf-8") == written
    drawn = {e.key for e in material.examples["generated"]}
    assert len(drawn) == len(PAIRS) - 1
    assert {key for keys in read for key in keys} <= drawn | {e.key for e in material.examples["generated_validation"]}
    rows = job.plan.micro_batch(0, 0, 0)
    held = [row for row in rows if row.anchored]
    assert held
    assert all(row.key in drawn and not row.labelled for row in held)
    assert all(row.labelled and not row.anchored for row in rows if row.key not in drawn)
    if task == "text-generation":  # from nothing: the first token, then what the model said
        start = job.material.task.tokenizer.bos_token_id
        first_ids = {row.inputs["input_ids"][0] for row in held}
        assert first_ids <= {start, *job.material.task.architecture.end}
    assert first.result["objective"]["divergence"] >= 0


def test_source_inputs_without_a_text_get_the_source_models(tmp_path):
    given = spec(tmp_path, "translation", "marian", "cross-domain")
    given |= {"generation": {"max_new_tokens": 8}, "objective": {"anchor_on": "source", "weight": 1.0}}
    lines = "".join(json.dumps({"source": source}) + "\n" for source, _ in PAIRS[:5])
    (tmp_path / "old.jsonl").write_text(lines, encoding="utf-8")
    given["data"] |= {"source": {"unlabeled": "old.jsonl"}}
    material = prepare.prepare(recipe.from_dict(given | {"output": "out"}, tmp_path))
    job = build.build(material)
    made = material.examples["source_unlabeled"]
    assert len(texts_in(tmp_path)) == 5
    assert all(e.predictions and not e.labelled for e in made)
    held = [row for row in job.plan.micro_batch(0, 0, 0) if row.anchored]
    assert held
    assert {row.key for row in held} <= {e.key for e in made}
