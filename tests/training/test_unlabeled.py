"""Rows without labels, for every task: the teacher's answer to them reaches the loss as D, or as labels by CE."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import keeltune as kt
from keeltune import recipe
from keeltune.data import reading
from keeltune.data.dataset import Row
from keeltune.data.sources import DataSource
from keeltune.evaluation import prediction
from keeltune.objective.formula import Objective
from keeltune.objective.predictions import IGNORED
from keeltune.objective.references.model import Model
from keeltune.recipe.training_fields import Training
from keeltune.tasks.common.example import NOTE_SAMPLE
from keeltune.training import build
from keeltune.training.arguments import training_arguments
from keeltune.training.cache.identity import content_of
from keeltune.training.job import Job
from keeltune.training.preparation import prepare, splits
from keeltune.training.step_loss import StepLoss
from keeltune.training.trainer import KeelTrainer
from keeltune.utils import registry
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import runs, wide
from tests.helpers.families import FAMILIES, write_lines
from tests.helpers.runs import texts_in

QUIET = Display(quiet=True)
WEIGHT = 0.7
CASES = [
    ("text-classification", "bert"), ("text-classification", "gpt2"), ("semantic-role-labeling", "bert"),
    ("question-answering", "bert"), ("translation", "marian"), ("summarization", "bart"), ("text-generation", "gpt2"),
    ("chat", "llama"), ("several labels", "bert"), ("image-captioning", "vit gpt2"), ("image-captioning", "git"),
    ("speech-recognition", "wav2vec2"), ("speech-recognition", "whisper"),
]  # fmt: skip
FEW = [case for case in CASES if case not in (  # the others are labelled, asked and counted as one of these is
    ("text-classification", "gpt2"), ("summarization", "bart"), ("text-generation", "gpt2"),
    ("image-captioning", "git"), ("speech-recognition", "whisper"),
)]  # fmt: skip
TRAINED = (("text-classification", "bert"), ("question-answering", "bert"), ("translation", "marian"))
"""What a run adds to the plan that all are held to is its loop, which is one for all."""
CHAT = [
    [("user", "the film"), ("assistant", "is good")],
    [("user", "it was"), ("assistant", "dull"), ("user", "and the plot"), ("assistant", "not bad")],
    [("system", "be short"), ("user", "a film"), ("assistant", "very long")],
    [("user", "bad"), ("assistant", "not good")],
]


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def spec(folder: Path, case: str, architecture: str, method: str = "distillation", **data: Any) -> dict:
    """A recipe whose pool is the second half of the family's rows without their labels."""
    task = {"chat": "text-generation", "several labels": "text-classification"}.get(case, case)
    family = FAMILIES[task]
    family.save(folder / "student", architecture, 0)
    family.save(folder / "teacher", architecture, 1)
    family.write(folder / "rows.jsonl")
    rows = lines_of(folder / "rows.jsonl")
    if case == "chat":
        rows = [{"messages": [{"role": r, "content": c} for r, c in talk]} for talk in CHAT]
    labels = [column.name for column in registry.find("tasks", task).columns if column.label]
    if case == "several labels":
        for name in ("student", "teacher"):
            file = folder / name / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"problem_type": "multi_label_classification"}))
        rows = [row | {"label": [row["label"]] if i % 3 else ["negative", "positive"]} for i, row in enumerate(rows)]
    half = len(rows) // 2
    write_lines(folder / "train.jsonl", rows[:half])
    write_lines(folder / "rest.jsonl", rows[half:])
    write_lines(folder / "pool.jsonl", [{k: v for k, v in row.items() if k not in labels} for row in rows[half:]])
    multi = {"multi_label": True} if case == "several labels" else {}
    return {
        "task": task,
        "method": method,
        "model": "student",
        "reference": "teacher",
        "objective": {"weight": WEIGHT},
        "data": {"train": "train.jsonl", "unlabeled": "pool.jsonl", **multi, **data},
        "training": {"max_steps": 3, "batch_size": 2, "learning_rate": 1e-2, "precision": "fp32"},
        "output": "out",
        **family.fields,
    }


def job_of(given: dict, folder: Path) -> Job:
    job = build.build(prepare.prepare(recipe.from_dict(given, folder)))
    job.model.eval()
    return job


def trainer_of(job: Job, folder: Path) -> KeelTrainer:
    training = Training(epochs=1, learning_rate=0.1, use_cpu=True)
    arguments = training_arguments(folder, training, batch_size=2, every=None, seed=0)
    return KeelTrainer(job.model, arguments, job.plan, StepLoss(job.material.task, job.objective, job.reference))


def reverse_kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Σ p (log p − log q) in float64; choices that neither side has add nothing."""
    p, q = p.double(), q.double()
    there = p > -torch.inf
    return (p[there].exp() * (p[there] - q[there])).sum()


def steps_of(job: Job) -> list[list[bytes]]:
    """What is read in each step: the key of a recording holds the text that a teacher spelt, if it was asked to."""
    return [[content_of(e) for e in job.plan.micro_batch(0, step, 0)] for step in range(job.plan.steps)]


def pool_of(job: Job) -> list[Any]:
    (stream,) = job.plan.streams
    assert stream.name == "unlabeled"
    return list(stream.examples)


def noted_counts(monkeypatch, task: Any) -> list[tuple[list[str], int, int]]:
    """(keys, n_CE, n_D) of each micro-batch that a run trains on, as it trains on it."""
    noted: list[tuple[list[str], int, int]] = []
    original = KeelTrainer.compute_loss

    def noting(self, model, inputs, *args, **kwargs):
        noted.append((list(inputs["keys"]), *(int(n) for n in task.counts(inputs))))
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(KeelTrainer, "compute_loss", noting)
    return noted


def d_alone_reaches_the_loss(job: Job, folder: Path) -> None:
    """A batch of pool rows alone: the loss is weight · KL by hand over N, its cross-entropy 0, and it moves weights."""
    task = job.material.task
    batch = task.collate(pool_of(job))
    trainer = trainer_of(job, folder)
    _, counts = trainer.get_batch_samples(iter([batch]), 1, "cpu")
    with torch.no_grad():
        student, teacher = (
            task.rows(task.forward(model, batch), batch).log_probs(slice(None))
            for model in (job.model, job.reference.model)
        )
    assert counts.tolist() == [0.0, len(student), len(batch["keys"])]
    loss = trainer.compute_loss(job.model, batch, num_items_in_batch=counts)
    by_hand = WEIGHT * reverse_kl(student, teacher) / len(student)
    assert by_hand > 1e-5
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-4, abs=1e-6), "the loss on the pool"
    assert trainer.training_totals.epoch[0] == 0.0
    loss.backward()
    assert max(p.grad.abs().max().item() for p in job.model.parameters() if p.grad is not None) > 1e-6


@pytest.mark.parametrize(("case", "architecture"), wide.all_but(CASES, FEW))
def test_a_pool_carries_d_alone(tmp_path, monkeypatch, case, architecture):
    """Trap 18, put in at the end: the reference is asked and its answer dropped."""
    job = job_of(spec(tmp_path, case, architecture), tmp_path)
    task, pool = job.material.task, pool_of(job)
    assert len({e.key.partition("#")[0] for e in pool}) == len(job.material.rows["unlabeled"])
    assert all(e.anchored and e.labelled == 0 and set(e.targets) <= {IGNORED} for e in pool)
    if not task.generates:  # N is the same with labels and without
        columns = splits.task_columns(type(task), job.material.recipe.data.multi_label)
        rows, _ = reading.read(DataSource(str(tmp_path / "rest.jsonl")), columns, {})
        assert [e.predictions for row in rows for e in task.encode(row)] == [e.predictions for e in pool]
    elif case != "speech-recognition" or architecture == "whisper":
        assert len(texts_in(tmp_path)) == len(job.material.rows["unlabeled"])
    else:  # every frame of sound is predicted, with a text and without
        assert not (tmp_path / ".cache").exists()
    step = job.plan.micro_batch(0, 0, 0)
    ours = [e for e in step if e.key in {e.key for e in pool}]
    assert len(ours) == 2
    n_ce, n_d = task.counts(task.collate(step))
    assert n_ce == sum(e.labelled for e in step if e not in ours) > 0
    assert n_d == sum(e.predictions for e in step)
    d_alone_reaches_the_loss(job, tmp_path / "trainer")

    def dropped(self, cross_entropy, student, reference=None, anchored=None, *, counts):
        return original(self, cross_entropy, student, None, anchored, counts=counts)

    original = Objective.__call__
    monkeypatch.setattr(Objective, "__call__", dropped)
    with pytest.raises(AssertionError, match="the loss on the pool"):
        d_alone_reaches_the_loss(job, tmp_path / "trap")


def teachers_labels(job: Job, soft: Job) -> list[list[int]]:
    """The targets that the ordinary prediction of the teacher makes of the pool, example by example."""
    task, rows = soft.material.task, soft.material.rows["unlabeled"]
    if task.generates:
        encoded = [task.encode_scored(row, labelled=False) for row in rows]
        said = [p.value for p in prediction.predict(soft.reference.model, task, encoded)]
        return [list(e.targets) for row, text in zip(rows, said, strict=True)
                for e in task.encode(task.with_target(row, text))]  # fmt: skip
    said = prediction.predict(soft.reference.model, task, soft.material.encoded["unlabeled"])
    if task.choices == "positions":
        found = []
        for row, examples, answer in zip(rows, soft.material.encoded["unlabeled"], said, strict=True):
            spans = [_span(row, e.notes, answer) for e in examples]
            assert not answer.value or any(spans)
            found += [list(span or (0, 0)) for span in spans]
        return found
    if job.material.recipe.task == "semantic-role-labeling":
        return [[task.index[tag] for tag in answer.value] for answer in said]
    if task.settings.multi_label:
        return [[int(name in answer.value) for name in task.names] for answer in said]
    return [[task.index[answer.value]] for answer in said]


def _span(row: Row, notes: dict, answer: Any) -> tuple[int, int] | None:
    """The tokens of a stride that are the answer's characters, counted one by one."""
    if not answer.value:
        return None
    assert row.fields["context"][answer.start :].startswith(answer.value)
    end = answer.start + len(answer.value)
    own = [i for i, (a, b) in enumerate(zip(notes["starts"], notes["ends"], strict=True)) if b > a]
    inside = [i for i in own if notes["starts"][i] < end and notes["ends"][i] > answer.start]
    whole = notes["starts"][own[0]] <= answer.start and end <= notes["ends"][own[-1]]
    return (inside[0], inside[-1]) if whole else None


@pytest.mark.parametrize(("case", "architecture"), wide.all_but(CASES, FEW))
def test_a_pool_of_hard_labels_meets_the_same_batches_with_ce_and_no_d(tmp_path, monkeypatch, case, architecture):
    given = spec(tmp_path, case, architecture)
    soft = job_of(given, tmp_path)
    hard = job_of(given | {"data": {**given["data"], "unlabeled_as": "labels"}}, tmp_path)
    assert steps_of(hard) == steps_of(soft)
    pool = pool_of(hard)
    expected = teachers_labels(hard, soft)
    assert [list(e.targets) for e in pool] == expected
    assert not any(e.anchored for e in pool)
    assert any(e.labelled for e in pool)
    task, step = hard.material.task, hard.plan.micro_batch(0, 0, 0)
    n_ce, n_d = task.counts(task.collate(step))
    assert n_ce == sum(e.labelled for e in step)
    assert n_d == sum(e.predictions for e in step if e.key not in {e.key for e in pool})
    if (case, architecture) not in TRAINED:
        return
    noted = noted_counts(monkeypatch, task)
    run = kt.train(recipe.from_dict(given | {"data": {**given["data"], "unlabeled_as": "labels"}}, tmp_path),
                   display=QUIET)  # fmt: skip
    assert run.result["status"] == "completed"
    assert run.result["objective"]["cross_entropy"] > 0
    assert run.result["objective"]["divergence"] > 0
    drawn, trained = {e.key: e for e in pool}, {e.key: e for e in hard.plan.examples}
    assert drawn.keys() & {key for keys, *_ in noted for key in keys}
    for keys, n_ce, n_d in noted:  # the run itself: CE on rows of both kinds, D on the labelled ones alone
        assert n_ce == sum((drawn | trained)[key].labelled for key in keys)
        assert n_d == sum(trained[key].predictions for key in keys if key in trained)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_at_weight_0_the_teacher_is_not_asked_after_it_has_labelled(tiny, tmp_path, monkeypatch, weight):
    folder = runs.make_data(tmp_path)
    given = runs.spec_of("distillation", tiny("bert"), reference=str(tiny("bert", seed=5)))
    given["data"] |= {"unlabeled": "pool.jsonl", "unlabeled_as": "labels"}
    given["objective"] = {"weight": weight}
    asked: list[int] = []
    original, step = Model.rows, KeelTrainer.compute_loss

    def noting(self, *args, **how):
        before = len(asked)
        loss = step(self, *args, **how)
        assert len(asked) - before == (weight > 0)
        return loss

    monkeypatch.setattr(Model, "rows", lambda self, batch: asked.append(len(batch["keys"])) or original(self, batch))
    monkeypatch.setattr(KeelTrainer, "compute_loss", noting)
    result = runs.train(given, folder).result
    assert sum(asked) >= 20  # the pool's texts, labelled
    assert (result["objective"]["divergence"] is None) == (weight == 0)


def test_a_pool_alone_is_learnt_by_its_hard_labels(tiny, tmp_path):
    """No labelled row at all: cross-entropy on the teacher's choices is the whole loss."""
    folder = runs.make_data(tmp_path)
    teacher = undecided(tiny("bert", seed=5), folder / "undecided", folder / "pool.jsonl")
    given = runs.spec_of("distillation", tiny("bert"), reference=str(teacher))
    given["data"] = {"unlabeled": "pool.jsonl", "unlabeled_as": "labels", "validation": "validation.jsonl"}
    result = runs.train(given, folder).result
    assert result["objective"]["divergence"] is None
    entries = [e for e in runs.lines(folder / "out" / "log.jsonl") if "loss" in e]
    assert all(e["loss"] == pytest.approx(e["cross_entropy"]) and e["loss"] > 0 for e in entries)
    job = job_of(given | {"output": "other"}, folder)
    said = kt.predict(teacher, folder / "pool.jsonl", task="sentiment-analysis", display=QUIET)
    names = job.material.task.names
    assert [names[e.targets[0]] for e in job.plan.examples] == [line["prediction"] for line in said]


def undecided(teacher: Path, copy: Path, pool: Path) -> Path:
    """The teacher with a bias at which it gives half of the pool's texts one label, and half the other."""
    shutil.copytree(teacher, copy)
    said = kt.predict(teacher, pool, task="sentiment-analysis", display=QUIET)
    odds = torch.tensor([[line["probabilities"][n] for n in ("negative", "positive")] for line in said]).log()
    stored = load_file(copy / "model.safetensors")
    stored["classifier.bias"][1] -= (odds[:, 1] - odds[:, 0]).sort().values.unfold(0, 2, 1)[len(odds) // 2 - 1].mean()
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_labels_are_those_of_the_teacher_however_it_is_written_down(tiny, tmp_path):
    """Labels in another order, another tokenizer, two of them averaged: the same choices."""
    folder = runs.make_data(tmp_path)
    teacher = undecided(tiny("bert", seed=5), folder / "undecided", folder / "pool.jsonl")
    turned = str(runs.other_order(teacher, folder / "turned"))
    other = str(runs.other_tokenizer(teacher, folder / "other"))
    answers = []
    for reference in (str(teacher), turned, other, [str(teacher), turned]):
        given = runs.spec_of("distillation", tiny("bert"), reference=reference)
        given["data"] = {"train": "train.jsonl", "unlabeled": "pool.jsonl", "unlabeled_as": "labels"}
        answers.append([e.targets for e in pool_of(job_of(given, folder))])
    assert all(answer == answers[0] for answer in answers)
    assert sum(target for (target,) in answers[0]) == len(answers[0]) / 2


def test_the_student_without_its_adapter_labels_too(tiny, tmp_path):
    folder = runs.make_data(tmp_path)
    given = runs.spec_of("cross-domain", tiny("bert"), objective={"weight": WEIGHT})
    given["data"] |= {"unlabeled": "pool.jsonl", "unlabeled_as": "labels"}
    given["training"] |= {"lora": {"rank": 2}}
    job = job_of(given, folder)
    assert job.reference.kind == "adapter-off"
    said = kt.predict(tiny("bert"), folder / "pool.jsonl", task="sentiment-analysis", display=QUIET)
    found = [job.material.task.names[e.targets[0]] for e in pool_of(job)]
    assert found == [line["prediction"] for line in said]


def test_a_word_that_the_teacher_does_not_read_gets_no_label(tmp_path):
    """A teacher of 16 tokens beside a student that reads them all."""
    given = spec(tmp_path, "semantic-role-labeling", "bert", unlabeled_as="labels")
    file = tmp_path / "teacher" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 16}))
    job = job_of(given, tmp_path)
    (name,) = job.material.task.companions
    pool = pool_of(job)
    read = [e.others[name] for e in pool]
    assert sum(len(o.targets) for o in read) < sum(len(e.targets) for e in pool)
    for example, other in zip(pool, read, strict=True):
        words = range(other.notes["first"], other.notes["first"] + len(other.targets))
        assert [t != IGNORED for t in example.targets] == [i in words for i in range(len(example.targets))]


def test_a_text_that_does_not_fit_into_its_recording_is_not_learnt(tmp_path, monkeypatch):
    """CTC: its probability is 0, its loss infinite. The frames stay predictions."""
    given = spec(tmp_path, "speech-recognition", "wav2vec2", unlabeled_as="labels")
    said = ["no", "seven hello " * 30]
    monkeypatch.setattr("keeltune.tasks.architectures.ctc.Ctc.candidates", lambda self, model, examples, *_: [
        [said[i % 2]] for i in range(len(examples))
    ])  # fmt: skip
    pool = pool_of(job_of(given, tmp_path))
    lengths = [sum(t != IGNORED for t in e.targets) for e in pool]
    assert sorted(set(lengths)) == [0, 2]
    assert all(e.predictions > 2 for e in pool)


def test_a_ctc_model_is_held_at_its_old_self_on_a_pool(tmp_path, monkeypatch):
    """Frames need no text, so no teacher has to write one."""
    given = spec(tmp_path, "speech-recognition", "wav2vec2", "cross-domain")
    del given["reference"]
    job = job_of(given, tmp_path)
    pool, trained = {e.key: e for e in pool_of(job)}, {e.key: e for e in job.plan.examples}
    with monkeypatch.context() as patch:
        noted = noted_counts(patch, job.material.task)
        run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["objective"]["divergence"] > 0
    assert run.result["reference"]["models"] == ["../student"]
    assert pool.keys() & {key for keys, *_ in noted for key in keys}
    for keys, n_ce, n_d in noted:  # D on every frame of both kinds, CE on the labelled rows alone
        assert n_d == sum((pool | trained)[key].predictions for key in keys)
        assert n_ce == sum(trained[key].labelled for key in keys if key in trained)
    assert not (tmp_path / ".cache").exists()
    given["data"]["unlabeled_as"] = "labels"
    with pytest.raises(UserError, match="without a teacher no one writes the targets") as refused:
        kt.train(recipe.from_dict(given | {"output": "other"}, tmp_path), display=QUIET)
    assert [p.field for p in refused.value.problems] == ["data.unlabeled"]


def test_drawn_texts_stay_soft_beside_hard_labels(tmp_path):
    given = spec(tmp_path, "translation", "marian", unlabeled_as="labels")
    given["generation"] = {"max_new_tokens": 4, "on_policy": 0.5}
    job = job_of(given, tmp_path)
    drawn = {stream.name: stream.examples for stream in job.plan.streams}["on-policy"]
    assert all(e.anchored and NOTE_SAMPLE in e.notes for e in drawn)


def test_more_answered_rows_do_not_leave_a_reader_without_answers(tmp_path):
    """Question answering: training rows that all have an answer, so the teacher is asked for one to each row too."""
    given = spec(tmp_path, "question-answering", "bert", unlabeled_as="labels")
    rows = [row for row in lines_of(tmp_path / "train.jsonl") if row["answers"]["text"]]
    write_lines(tmp_path / "train.jsonl", rows)
    job = job_of(given, tmp_path)
    assert job.student.model.config.no_answer is False
    by_row: dict[str, list[bool]] = {}
    for e in pool_of(job):
        by_row.setdefault(e.key.partition("#")[0], []).append(tuple(e.targets) != (0, 0))
    assert all(any(strides) for strides in by_row.values())
