"""References that share only some of the student's tokens: another padding of one vocabulary, added or other tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import keeltune as kt
from keeltune import recipe
from keeltune.cli import row_journey
from keeltune.models import initialization, tokenizer_training
from keeltune.objective.derived_predictions import Mixture, Shared
from keeltune.objective.formula import Objective
from keeltune.objective.predictions import Dense, Projected, Rows
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.tasks.common import lm_head
from keeltune.tasks.common.settings import Settings
from keeltune.training import build
from keeltune.training.preparation import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from keeltune.utils.terminal import Terminal
from tests.helpers.tensors import NAMES, normal
from tests.helpers.writers import PAIRS, rows, spec, writer

QUIET = Display(quiet=True)
TEMPERATURES = (1.0, 2.0)
FIRST, SOME = slice(5), torch.tensor([0, 2, 3, 6])
T_1_ONLY = ("total-variation",)  # no temperature but 1


# Rows


def by_hand(student: Tensor, reference: Tensor, kept: slice | Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """T² Σ KL(p ‖ q) over the kept choices and its gradient in the student's logits, from exponentials alone."""
    weights = [(z[:, kept] / temperature).exp() for z in (student, reference)]
    p, q = (w / w.sum(-1, keepdim=True) for w in weights)
    each = (p * (p / q).log()).sum(-1, keepdim=True)
    gradient = torch.zeros_like(student)
    gradient[:, kept] = temperature * p * ((p / q).log() - each)
    return temperature**2 * each.sum(), gradient


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("ours", "theirs", "kept"), [(9, 7, FIRST), (7, 9, FIRST), (5, 8, FIRST), (8, 5, FIRST),
                                                      (8, 7, SOME)])  # fmt: skip
def test_value_and_gradient_are_those_by_hand(ours, theirs, kept, temperature):
    z, w = normal(6, ours, seed=0).requires_grad_(), normal(6, theirs, seed=1)
    value = Objective(temperature=temperature, size=4).total(Dense(z), Shared(Dense(w), kept))
    value.backward()
    expected, gradient = by_hand(z.detach(), w, kept, temperature)
    torch.testing.assert_close(value.detach(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(z.grad, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("ours", "theirs"), [(9, 7), (7, 9)])
def test_equal_up_to_padding_is_0_though_the_padding_has_mass(name, ours, theirs):
    """Trap 5: the rows that one model alone has are neither zeros nor copied; nor is what is left a distribution."""
    tokens, wide = normal(4, 5, seed=2), normal(4, 9, seed=3, scale=4.0)
    z, w = (torch.cat([tokens, 3 + wide[:, 5:size]], -1).requires_grad_() for size in (ours, theirs))
    assert (z.softmax(-1)[:, 5:].sum(-1) > 0.1).all()
    value = Objective(name).total(Dense(z), Shared(Dense(w.detach()), FIRST))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    if name not in T_1_ONLY:  # whose gradient jumps there
        torch.testing.assert_close(z.grad, torch.zeros_like(z), rtol=0, atol=1e-10)


@settings(max_examples=40, deadline=None)
@drawn(seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 1.0, 5.0, 30.0]), name=st.sampled_from(NAMES))
def test_never_negative_and_0_only_where_the_shared_choices_agree(seed, scale, name):
    z, w = normal(3, 8, seed=seed, scale=scale), normal(3, 6, seed=seed + 1, scale=scale)
    assert Objective(name).total(Dense(z), Shared(Dense(w), FIRST)).item() > 0


@pytest.mark.parametrize("kept", [FIRST, SOME])
def test_a_temperature_may_come_before_or_after_the_cut(kept):
    logits = normal(4, 8, seed=4)
    before = Shared(Dense(logits), kept).log_probs(slice(None), 2.0)
    after = (Shared(Dense(logits), kept).log_probs(slice(None)) / 2.0).log_softmax(-1)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-14)
    torch.testing.assert_close(before, (logits[:, kept] / 2.0).log_softmax(-1), rtol=0, atol=1e-14)


def kept_otherwise(kind: str, kept: slice | Tensor) -> Rows:
    """The same distributions over the kept choices, kept in another way."""
    torch.manual_seed(0)
    head, hidden, other = nn.Linear(4, 8).double().requires_grad_(False), normal(10, 4, seed=5), normal(10, 8, seed=6)
    dense, projected = Dense(head(hidden)), Projected(hidden, head)
    return {
        "dense": lambda: Shared(dense, kept),
        "projected": lambda: Shared(projected, kept),
        "mixture of them": lambda: Mixture([Shared(projected, kept), Shared(Dense(other), kept)], [-0.5, -0.9]),
        "of a mixture": lambda: Shared(Mixture([projected, Dense(other)], [-0.5, -0.9]), kept),
    }[kind]()


@pytest.mark.parametrize("kept", [FIRST, SOME])
@pytest.mark.parametrize("kind", ["dense", "projected", "mixture of them", "of a mixture"])
@pytest.mark.parametrize("name", NAMES)
def test_a_projected_student_is_a_dense_one_against_every_kind(name, kind, kept):
    torch.manual_seed(1)
    head, hidden, reference = nn.Linear(6, 9).double(), normal(10, 6, seed=7), kept_otherwise(kind, kept)
    temperature = 1.0 if name in T_1_ONLY else 2.0
    assert len(reference) == 10
    assert reference.log_probs(slice(0, 3)).shape == (3, reference.choices)

    def step(make) -> list[Tensor]:
        head.zero_grad()
        h = hidden.clone().requires_grad_()
        loss = Objective(name, temperature=temperature, size=4).total(make(h), reference)
        loss.backward()
        return [loss.detach(), h.grad, head.weight.grad.clone(), head.bias.grad.clone()]

    found = step(lambda h: Projected(h, head))
    for a, b in zip(found, step(lambda h: Dense(head(h))), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    theirs = reference.log_probs(slice(None), temperature)
    ours = (head(hidden).detach()[:, kept] / temperature).log_softmax(-1)
    value = Objective(name).function(ours, theirs).sum() * temperature**2
    torch.testing.assert_close(found[0], value, rtol=1e-12, atol=1e-12)


def test_the_two_ways_of_a_projected_reference_agree_and_use_is_log_probs():
    dense, projected = kept_otherwise("dense", FIRST), kept_otherwise("projected", FIRST)
    part = slice(2, 7)
    torch.testing.assert_close(dense.log_probs(part), projected.log_probs(part), rtol=0, atol=1e-14)
    for each in (dense, projected):
        assert torch.equal(each.use(part, lambda x: x.square().sum(), 2.0), each.log_probs(part, 2.0).square().sum())


# Runs


def train(given: dict, folder: Path, output: str = "out", **how) -> kt.Run:
    return kt.train(recipe.from_dict({**given, "output": output}, folder), display=QUIET, **how)


def pair(folder: Path, architecture: str = "llama") -> dict:
    """A recipe of two equal tokenizers and as many rows as tokens."""
    given = spec(folder, "text-generation" if architecture == "llama" else "translation", architecture, "distillation")
    given["objective"] = {"temperature": 2.0, "weight": 1.0}
    return given


def padded(folder: Path, rows: int, bias: float = 0.0) -> Path:
    """The model of a folder with rows beyond its tokens, whose logits are of the size of the others'."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    old = model.config.vocab_size
    torch.manual_seed(9)
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            weight[old:] = 0.3 * torch.randn(rows - old, weight.shape[1]) + bias
    model.save_pretrained(folder)
    return folder


def weights(run: kt.Run) -> dict[str, Tensor]:
    return load_file(run.model / "model.safetensors")


def furthest(one: kt.Run, other: kt.Run, rows: int) -> float:
    """The largest difference of two runs' weights, on the rows of the vocabulary that both have."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    vocabularies = [name for name in a if "embed" in name or "lm_head" in name]
    pairs = [(a[name][:rows], b[name][:rows]) if name in vocabularies else (a[name], b[name]) for name in a]
    return max((x - y).abs().max().item() for x, y in pairs)


@pytest.fixture
def tokens() -> int:
    return len(writer("llama", task="text-generation")[1].tokenizer)


def test_padded_rows_of_the_teacher_change_nothing(tmp_path, tokens):
    """Renormalised over the tokens, a teacher of 320 rows is the teacher of 300 that it was before."""
    given = pair(tmp_path)
    plain = train(given, tmp_path, "plain")
    padded(tmp_path / "teacher", tokens + 20)
    found = train(given, tmp_path, "padded")
    assert plain.result["objective"]["divergence"] > 0.01
    assert found.result["objective"]["divergence"] == pytest.approx(plain.result["objective"]["divergence"], rel=1e-4)
    assert furthest(plain, found, tokens) < 1e-5


def test_a_padded_student_stays_where_its_unpadded_teacher_is(tmp_path, tokens):
    """Student = teacher up to padding: D is 0 at the first step, and its gradient too, though the padding has mass."""
    given = pair(tmp_path)
    for file in ("model.safetensors", "config.json"):
        (tmp_path / "student" / file).write_bytes((tmp_path / "teacher" / file).read_bytes())
    padded(tmp_path / "student", tokens + 20)
    material = prepare.prepare(recipe.from_dict(given, tmp_path))
    (notice,) = [n for n in material.notices if "shares" in n]
    assert f"shares {tokens} tokens with the student, of its {tokens} choices and the student's {tokens + 20}" in notice
    job = build.build(material)
    batch = material.task.collate(job.plan.micro_batch(0, 0, 0))
    student = material.task.rows(material.task.forward(job.model.eval().cpu(), batch), batch)
    assert (student.log_probs(slice(None))[:, tokens:].exp().sum(-1) > 1e-3).all()
    job.reference.model.cpu()
    value = Objective(temperature=2.0).total(student, job.reference.rows(batch))
    value.backward()
    assert abs(value.item()) / len(student) < 1e-6
    assert max(p.grad.abs().max().item() for p in job.model.parameters() if p.grad is not None) < 1e-4
    run = train(given, tmp_path)
    assert run.result["objective"]["divergence"] > 0  # cross-entropy moves it
    kept = AutoModelForCausalLM.from_pretrained(run.model)
    assert kept.config.vocab_size == tokens + 20


@pytest.mark.parametrize(("ours", "theirs"), [(20, 0), (0, 20), (8, 20)])
def test_heads_in_slices_train_as_whole_ones(tmp_path, tokens, monkeypatch, ours, theirs):
    given = pair(tmp_path)
    for name, more in (("student", ours), ("teacher", theirs)):
        padded(tmp_path / name, tokens + more)
    whole = train(given, tmp_path, "whole")
    seen: list[type] = []
    original = Shared.log_probs

    def noting(self, *args):
        seen.append(type(self.rows))
        return original(self, *args)

    monkeypatch.setattr(lm_head, "LARGE", 0)
    monkeypatch.setattr(Shared, "log_probs", noting)
    sliced = train(given, tmp_path, "sliced")
    assert set(seen) == {Projected}
    assert furthest(whole, sliced, tokens + ours) < 1e-5


def test_several_teachers_are_compared_on_what_all_share(tmp_path, tokens):
    """The mean of a teacher and of the same padded is that teacher."""
    given = pair(tmp_path)
    plain = train(given, tmp_path, "plain")
    (tmp_path / "wide").mkdir()
    for file in (tmp_path / "teacher").iterdir():
        (tmp_path / "wide" / file.name).write_bytes(file.read_bytes())
    padded(tmp_path / "wide", tokens + 20)
    both = train({**given, "reference": ["teacher", "wide"]}, tmp_path, "both")
    assert both.result["reference"]["kind"] == "ensemble"
    assert furthest(plain, both, tokens) < 1e-5


def with_tool(folder: Path) -> None:
    """The model of a folder with one more token, at the end."""
    words = AutoTokenizer.from_pretrained(folder)
    words.add_tokens(["<tool>"])
    words.save_pretrained(folder)
    padded(folder, len(words))


@pytest.mark.parametrize("wider", ["student", "teacher"])
def test_an_added_token_is_left_out(tmp_path, tokens, wider):
    given = pair(tmp_path)
    plain = train(given, tmp_path, "plain")
    with_tool(tmp_path / wider)
    material = prepare.prepare(recipe.from_dict(given, tmp_path))
    (notice,) = [n for n in material.notices if "shares" in n]
    sizes = (tokens, tokens + 1) if wider == "student" else (tokens + 1, tokens)
    assert f"shares {tokens} tokens with the student, of its {sizes[0]} choices and the student's {sizes[1]}" in notice
    assert "no token for the rest" in notice
    found = train(given, tmp_path, "found")
    if wider == "teacher":
        assert furthest(plain, found, tokens) < 1e-5
    assert 0 < found.result["objective"]["divergence"] < 100


@pytest.mark.parametrize("given_since", [False, True])
def test_a_padding_token_that_one_was_given_is_no_difference(tmp_path, tokens, given_since):
    """Student and teacher came without one; the teacher was given another one since, or not."""
    given = pair(tmp_path)
    for name in ("student", "teacher"):
        for file, key in (("config.json", "pad_token_id"), ("tokenizer_config.json", "pad_token")):
            stored = json.loads((tmp_path / name / file).read_text())
            (tmp_path / name / file).write_text(json.dumps({**stored, key: None}))
    if given_since:
        words = AutoTokenizer.from_pretrained(tmp_path / "teacher")
        words.add_special_tokens({"pad_token": "[PAD]"})
        words.save_pretrained(tmp_path / "teacher")
        padded(tmp_path / "teacher", len(words))
    material = prepare.prepare(recipe.from_dict(given, tmp_path))
    assert material.task.tokenizer.pad_token == material.task.tokenizer.eos_token
    assert [files.shared and len(files.shared) for files in material.references] == [tokens if given_since else None]
    run = train(given, tmp_path)
    assert 0 < run.result["objective"]["divergence"] < 100
    assert AutoModelForCausalLM.from_pretrained(run.model).config.vocab_size == tokens


def test_a_target_with_a_token_that_the_teacher_lacks_is_refused_by_its_row(tmp_path):
    given = pair(tmp_path)
    with_tool(tmp_path / "student")
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    row = json.dumps({"prompt": "the film", "completion": "is <tool> good"})
    read = json.dumps({"prompt": "the <tool>", "completion": "is good"})
    (tmp_path / "train.jsonl").write_text("\n".join([*lines, read, row]) + "\n")
    with pytest.raises(UserError) as refused:
        train(given, tmp_path)
    (problem,) = refused.value.problems
    assert problem.where.endswith(f"train.jsonl:{len(lines) + 2}")  # in a prompt it may be read otherwise
    assert "cuts into other tokens" in problem.found
    given["data"]["bad_rows"] = "skip"
    assert train(given, tmp_path).result["data"]["skipped"] == 1


def test_targets_that_the_teacher_writes_are_read_in_its_own_encoding(tmp_path):
    given = pair(tmp_path)
    with_tool(tmp_path / "student")
    given["generation"] |= {"targets": "reference"}
    assert train(given, tmp_path).result["objective"]["divergence"] > 0


def test_other_tokens_are_refused_with_the_first_that_differ_and_what_is_legal(tmp_path):
    """Trap 6: as many tokens, and others."""
    given = pair(tmp_path)
    file = tmp_path / "teacher" / "tokenizer.json"
    made = json.loads(file.read_text())
    words = sorted(made["model"]["vocab"], key=made["model"]["vocab"].get)
    words[100:107] = [*words[101:107], words[100]]
    made["model"]["vocab"] = {word: i for i, word in enumerate(words)}
    file.write_text(json.dumps(made))
    ours, theirs = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("student", "teacher"))
    assert len(ours) == len(theirs)
    with pytest.raises(UserError) as refused:
        train(given, tmp_path)
    (problem,) = refused.value.problems
    assert refused.value.exit_status == 2
    assert "other tokens at the ids 100, 101, 102, 103, 104 (100: b'" in problem.found
    assert "7 ids differ" in problem.found
    for way in ("generation: {targets: reference}", "objective: {weight: 0}", "classes"):
        assert way in problem.fix


def test_another_decoder_start_is_refused(tmp_path):
    given = pair(tmp_path, "marian")
    file = tmp_path / "teacher" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "decoder_start_token_id": config["decoder_start_token_id"] + 1}))
    with pytest.raises(UserError, match="whose decoder starts from token"):
        train(given, tmp_path)


# A teacher that only writes


def other_tokenizer(folder: Path, architecture: str) -> tuple:
    """A teacher with a tokenizer of its own kind in the folder: (model, task)."""
    made, task = writer(architecture, seed=1)
    words = tokenizer_training.train(
        TrainTokenizer(train="unigram", size=120), [t for p in PAIRS for t in p], ends=False
    )
    config = made.config
    initialization._fit_vocabulary(config, words, {})
    torch.manual_seed(3)
    model = type(made)(config)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").unlink(missing_ok=True)
    words.save_pretrained(folder)
    limits = Settings(config=config, auto_model=task.settings.auto_model, max_new_tokens=8, max_length=64)
    return model.eval(), type(task)(words, limits)


@pytest.mark.parametrize("student", ["marian", "llama"])
def test_a_teacher_of_another_tokenizer_writes_targets(tmp_path, student):
    """What the student learns is what the teacher writes in its own tokens, read in the student's."""
    given = spec(tmp_path, "translation", student, "distillation")
    for file in (tmp_path / "teacher").iterdir():
        file.unlink()
    model, task = other_tokenizer(tmp_path / "teacher", "llama")
    given |= {"max_length": 64, "objective": {"weight": 0.0}}
    given["generation"] |= {"targets": "reference"}
    run = train(given, tmp_path)
    assert run.result["status"] == "completed"
    found = run.result["reference"]
    assert (found["kind"], found["models"], found["cache"]) == ("none", ["../teacher"], None)
    assert run.result["objective"]["divergence"] is None
    (file,) = (tmp_path / ".cache").glob("*/targets.jsonl")
    found = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()[1:]]
    said = [p.value for row in rows() for p in task.predict(model, task.encode_scored(row, labelled=False))]
    assert sorted(found) == sorted(said)
    assert any(said)
    learnt = json.loads((run.folder / "log.jsonl").read_text().splitlines()[0])
    assert "divergence" not in learnt

    given["objective"] = {"weight": 0.1}
    with pytest.raises(UserError, match="other tokens at the ids"):
        train(given, tmp_path, "held")


# Texts that the student draws


@pytest.mark.parametrize(("ours", "theirs", "fits"), [(0, 20, True), (20, 0, False)])
def test_the_reference_must_know_every_id_that_the_student_draws(tmp_path, tokens, ours, theirs, fits):
    given = pair(tmp_path)
    for name, more in (("student", ours), ("teacher", theirs)):
        padded(tmp_path / name, tokens + more)
    given["generation"] |= {"on_policy": 0.5}
    if fits:
        assert train(given, tmp_path).result["objective"]["divergence"] > 0
        return
    with pytest.raises(UserError) as refused:
        train(given, tmp_path)
    assert [p.field for p in refused.value.problems] == ["generation.on_policy"]


# What `show` prints


def test_show_says_where_the_reference_has_no_such_choice(tmp_path, tokens):
    given = pair(tmp_path)
    padded(tmp_path / "student", tokens + 20, bias=1.0)
    console = Terminal(record=True, width=120)
    row_journey.show_row(recipe.from_dict(given, tmp_path), 1, console)
    printed = console.export_text()
    assert "reference" in printed
    assert "nan" in printed
