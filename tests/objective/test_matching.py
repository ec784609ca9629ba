"""Hidden states and attention held near the teacher's: their values, pairing, masks, counts, and what is saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import keeltune as kt
from keeltune import recipe
from keeltune.cli.demo_data import make_reviews
from keeltune.objective.matching.matching import Matching, Unmatched, real, requesting
from keeltune.runs import inference
from keeltune.training import build
from keeltune.training.preparation import prepare
from keeltune.utils import registry
from keeltune.utils.errors import Stopped, UserError
from keeltune.utils.progress import Display
from tests.helpers import captioners, exact, families, processes, speakers, writers
from tests.helpers.exact import error_of_accumulation

QUIET = Display(quiet=True)
NAMES = registry.names("matching")
HIDDEN, ATTENTION = (registry.find("matching", name)() for name in ("hidden-states", "attention"))


def layers(term: Any, *, batch: int = 3, length: int = 5, size: int = 4, seed: int = 0) -> torch.Tensor:
    z = torch.randn(batch, length, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if term.output == "hidden_states":
        return z
    return torch.randn(batch, 2, length, length, generator=torch.Generator().manual_seed(seed)).double().softmax(-1)


@pytest.mark.parametrize("name", NAMES)
def test_a_term_keeps_its_contract(name):
    term = registry.find("matching", name)()
    a, b = layers(term), layers(term, seed=1).requires_grad_()
    every = torch.ones(3, 5, dtype=torch.bool)
    assert term.distance(a, a, every).abs().max() < 1e-14
    value = term.distance(b, a, every)
    assert value.shape == (3,)
    assert (value > 0).all()
    assert value.dtype == torch.float64
    alone = torch.stack([term.distance(b[i : i + 1], a[i : i + 1], every[:1])[0] for i in range(3)])
    torch.testing.assert_close(alone, value, rtol=1e-12, atol=0)
    short = every.clone()
    short[:, 3:] = False
    moved = b.detach().clone()
    moved[..., 3:, :] += 1.0  # what stands at padded positions does not matter
    torch.testing.assert_close(term.distance(moved, a, short), term.distance(b, a, short), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(value.sum(), b)
    assert (term.distance(b - 1e-3 * gradient, a, every) < value).all()
    assert "Source: " in (type(term).__doc__ or "")


def test_the_values_are_those_of_the_formulas():
    every = torch.tensor([[True, True, False]])
    a, b = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 3.0], [2.0, 0.0], [9.0, 9.0]]])
    assert HIDDEN.distance(b, a, every).item() == pytest.approx((1 + 9 + 4 + 0) / 2 / 2)
    s, r = torch.tensor([[[[0.5, 0.5, 0.0]]]]), torch.tensor([[[[0.25, 0.75, 0.0]]]])
    one = torch.tensor([[True]])
    by_hand = torch.nn.functional.kl_div(s[..., :2].log(), r[..., :2], reduction="sum")
    assert ATTENTION.distance(s, r, one).item() == pytest.approx(by_hand.item(), rel=1e-6)
    two = torch.cat([s, r], 1)  # two heads beside one: their mean
    mean = torch.tensor([0.375, 0.625])
    by_hand = (torch.tensor([0.25, 0.75]) * (torch.tensor([0.25, 0.75]) / mean).log()).sum()
    assert ATTENTION.distance(two, r, one).item() == pytest.approx(by_hand.item(), rel=1e-5)


def outputs(count: int, width: int = 2, **more: Any) -> Any:
    states = tuple(torch.full((1, 3, width), float(i)) for i in range(count + 1))
    return SimpleNamespace(hidden_states=states, **more)


def test_the_last_layer_stands_beside_the_last_and_the_embeddings_beside_the_embeddings():
    batch = {"inputs": {"attention_mask": torch.ones(1, 3)}}
    matching = Matching({HIDDEN: 1.0}, outputs(2), outputs(6))
    # layers 0, 1, 2 of 2 beside 0, 3, 6 of 6: (0 + 4 + 16) / 3
    assert matching(outputs(2), outputs(6), batch).item() == pytest.approx(20 / 3)
    assert not list(matching.parameters())
    weighed = Matching({HIDDEN: 0.5}, outputs(2), outputs(6))
    assert weighed(outputs(2), outputs(6), batch).item() == pytest.approx(10 / 3)


def test_a_narrower_student_learns_a_map_to_the_teachers_width_and_the_teacher_learns_nothing():
    batch = {"inputs": {"attention_mask": torch.ones(1, 3)}}
    student, teacher = outputs(1, 2), outputs(1, 4)
    teacher.hidden_states[1].requires_grad_()
    matching = Matching({HIDDEN: 1.0}, student, teacher)
    assert {name: tuple(p.shape) for name, p in matching.named_parameters()} == {
        "projections.hidden_states_0.weight": (4, 2), "projections.hidden_states_1.weight": (4, 2),
    }  # fmt: skip
    value = matching(student, teacher, batch)
    wanted = [(student.hidden_states[i], teacher.hidden_states[i]) for i in (0, 1)]
    maps = list(matching.projections.values())
    by_hand = sum(((m(s) - t) ** 2).mean() for m, (s, t) in zip(maps, wanted, strict=True)) / 2
    assert value.item() == pytest.approx(by_hand.item())
    value.backward()
    assert all(p.grad is not None for p in matching.projections["hidden_states_1"].parameters())
    assert teacher.hidden_states[1].grad is None


def test_models_that_have_nothing_to_compare_are_refused():
    longer = SimpleNamespace(hidden_states=tuple(torch.zeros(1, 4, 2) for _ in range(2)))
    for theirs, found in ((longer, "as many positions"), (SimpleNamespace(), "no hidden_states")):
        with pytest.raises(Unmatched, match=found):
            Matching({HIDDEN: 1.0}, outputs(1), theirs)


def test_padding_is_no_position_wherever_the_mask_is_found():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    text = {"inputs": {"attention_mask": mask}, "counts": torch.tensor([3, 2])}
    assert real("hidden_states_0", torch.zeros(2, 4, 1), text).tolist() == mask.bool().tolist()
    behind = real("hidden_states_0", torch.zeros(2, 6, 1), text)  # two positions of a picture before the text
    assert behind.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert real("hidden_states_0", torch.zeros(2, 3, 1), text).tolist() == [[True] * 3, [True, True, False]]  # frames
    half = real("encoder_hidden_states_0", torch.zeros(2, 2, 1), {"inputs": {"attention_mask": mask}})
    assert half.tolist() == [[True, True], [True, False]]
    pixels = {
        "inputs": {"pixel_values": torch.zeros(2, 3, 4, 4)},
        "predicted": torch.tensor([[True, True], [True, False]]),
    }
    assert real("encoder_hidden_states_0", torch.zeros(2, 4, 1), pixels).all()
    assert real("decoder_hidden_states_0", torch.zeros(2, 2, 1), pixels).tolist() == [[True, True], [True, False]]


def made(kind: str, folder: Path) -> tuple[Any, Any, list[Any]]:
    if kind in speakers.KINDS:
        model, task = speakers.speaker(kind)
        rows = [speakers.row_of(folder / speakers.save_sound(folder, i), speakers.TEXTS[i], i) for i in range(8)]
    elif kind in captioners.KINDS:
        model, task = captioners.captioner(kind)
        rows = captioners.rows(folder, 8)
    else:
        model, task = writers.writer(kind)
        rows = writers.rows()
    examples = [example for row in rows for example in task.encode(row)]
    return model.double(), task, [e for e in examples if e.predictions][:8]


WIDE = ["marian", "t5", "llama", "vit gpt2", "git", "llava", "wav2vec2", "whisper"]


@pytest.mark.parametrize("kind", WIDE)
def test_neither_padding_nor_the_cut_of_a_step_changes_the_terms(kind, tmp_path):
    model, task, examples = made(kind, tmp_path)
    model.set_attn_implementation("eager")
    terms = {HIDDEN: 0.7, ATTENTION: 0.3}
    other = made(kind, tmp_path)[0]
    other.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))

    def value(some: list[Any]) -> float:
        batch = requesting(terms, {**task.collate(some)})
        batch["inputs"] = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v
                           for k, v in batch["inputs"].items()}  # fmt: skip
        with torch.no_grad():
            ours, theirs = task.forward(model, batch), task.forward(other, batch)
            return float(Matching(terms, ours, theirs)(ours, theirs, batch))

    together = value(examples[:5])
    assert together > 0.01
    assert sum(value([example]) for example in examples[:5]) == pytest.approx(together, rel=1e-5)


@pytest.mark.parametrize(("task", "kind"), [("translation", "marian"), ("text-generation", "llama")])
def test_four_rows_are_two_by_two_with_matching_too(task, kind, tmp_path):
    given = families.spec(tmp_path, task, kind, "distillation")
    given |= {"objective": {"matching": {"hidden-states": 0.7, "attention": 0.3}}, "output": "out"}
    job = build.build(prepare.prepare(recipe.from_dict(given, tmp_path)))
    assert job.matching is not None
    assert error_of_accumulation(job, tmp_path, epochs=1) < 1e-6
    with_terms = exact.gradients(job, tmp_path / "with", batch=4, accumulation=1, epochs=1)[0]
    for term in ("hidden-states", "attention"):  # each of them is in what was compared
        fewer = {"hidden-states": 0.7, "attention": 0.3}
        del fewer[term]
        given |= {"objective": {"matching": fewer}}
        without = build.build(prepare.prepare(recipe.from_dict(given, tmp_path)))
        left = exact.gradients(without, tmp_path / f"no-{term}", batch=4, accumulation=1, epochs=1)[0]
        assert float((with_terms - left).norm() / with_terms.norm()) > 1e-3


# Whole runs


@pytest.fixture
def spec(tiny, tmp_path) -> dict[str, Any]:
    rows = make_reviews("films", 40, seed=2)
    for name, part in (("train", rows[:24]), ("validation", rows[24:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    narrow = transformers.AutoConfig.from_pretrained(tiny("bert"))
    narrow.hidden_size, narrow.num_hidden_layers = 16, 1
    torch.manual_seed(5)
    transformers.AutoModelForSequenceClassification.from_config(narrow).save_pretrained(tmp_path / "narrow")
    transformers.AutoTokenizer.from_pretrained(tiny("bert")).save_pretrained(tmp_path / "narrow")
    return {
        "task": "sentiment-analysis", "method": "distillation", "model": "narrow", "reference": str(tiny("bert")),
        "data": {"train": "train.jsonl", "validation": "validation.jsonl"},
        "objective": {"matching": {"hidden-states": 1.0, "attention": 0.5}},
        "training": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "precision": "fp32", "save_steps": 2,
                     "save_strategy": "steps", "logging_steps": 1},
        "output": "out",
    }  # fmt: skip


def logged(folder: Path, name: str) -> list[float]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry[name] for entry in entries if name in entry]


def test_a_run_brings_the_student_nearer_saves_no_projection_and_reports_the_terms(spec, tmp_path):
    finished = kt.train(recipe.from_dict(spec, tmp_path), display=QUIET)
    values, losses = logged(finished.folder, "matching"), logged(finished.folder, "loss")
    assert values[-1] < 0.7 * values[0]
    terms = zip(logged(finished.folder, "cross_entropy"), logged(finished.folder, "divergence"), values, strict=True)
    assert [sum(parts) for parts in terms] == pytest.approx(losses, rel=1e-5)
    assert 0 < finished.result["objective"]["matching"] < values[0]
    stored = load_file(finished.model / "model.safetensors")
    assert not [name for name in stored if "matching" in name]
    stock, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        finished.model, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert stock.config.hidden_size == 16
    assert finished.result["training"]["parameters"] == sum(p.numel() for p in stock.parameters())
    rows = inference.predict(finished.folder, tmp_path / "validation.jsonl", display=QUIET)
    kept = (finished.folder / "predictions" / "validation.jsonl").read_text().splitlines()
    assert [row["prediction"] for row in rows] == [json.loads(line)["prediction"] for line in kept]


def test_a_stopped_run_goes_on_with_its_projections_to_the_bit(spec, tmp_path, monkeypatch):
    whole = kt.train(recipe.from_dict(spec, tmp_path), display=QUIET)
    from keeltune.training.callbacks import TrainingTotals

    original = TrainingTotals.on_step_end

    def stop(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stopping = self.stop_asked = state.global_step == 5
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(TrainingTotals, "on_step_end", stop)
    again = recipe.from_dict({**spec, "output": "again"}, tmp_path)
    with pytest.raises(Stopped):
        kt.train(again, display=QUIET)
    monkeypatch.undo()
    resumed = kt.train(again, resume=True, display=QUIET)
    a, b = (load_file(run.model / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert logged(whole.folder, "matching") == logged(resumed.folder, "matching")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"objective": {"matching": {"hidden-state": 1.0}}}, 'did you mean "hidden-states"|hidden-states'),
        ({"method": "cross-domain"}, "a term of distillation"),
        ({"training": {"lora": {}}}, "all weights of the student"),
    ],
)
def test_what_cannot_be_matched_is_refused_with_its_field(spec, tmp_path, change, found):
    with pytest.raises(UserError, match=found) as error:
        kt.train(recipe.from_dict({**spec, **change}, tmp_path), display=QUIET)
    assert "objective.matching" in str(error.value)


def test_a_teacher_that_reads_other_tokens_is_refused(spec, tmp_path, tiny):
    other = tiny("bert", seed=3)
    from tests.helpers.models import WORDS, word_tokenizer

    folder = tmp_path / "other"
    transformers.AutoModelForSequenceClassification.from_pretrained(other).save_pretrained(folder)
    word_tokenizer(words=WORDS[::-1]).save_pretrained(folder)
    with pytest.raises(UserError, match="another tokenizer"):
        kt.train(recipe.from_dict({**spec, "reference": str(folder)}, tmp_path), display=QUIET)


def test_recordings_that_cannot_share_a_batch_are_refused(tmp_path):
    model, task, examples = made("wav2vec2 group", tmp_path)
    batch = requesting({HIDDEN: 1.0}, task.collate(examples))
    with torch.no_grad():
        found = task.forward(model.float(), batch)
    with pytest.raises(Unmatched, match="no hidden_states"):
        Matching({HIDDEN: 1.0}, found, found)


def test_attention_dropout_is_switched_off_and_a_student_that_keeps_it_is_refused(spec, tmp_path, monkeypatch):
    from keeltune.models import surgery

    model, task, examples = made("marian", tmp_path)
    model.set_attn_implementation("eager")
    for module in model.modules():
        if type(module).__name__ == "MarianAttention":
            module.dropout = 0.5
    model.train()
    batch = requesting({ATTENTION: 1.0}, task.collate(examples[:2]))
    with torch.no_grad():
        noisy = task.forward(model, batch)
        matching = Matching({ATTENTION: 1.0}, noisy, noisy)
        assert not matching.attentions_sum_to_one(noisy)
        surgery.no_attention_dropout(model)
        assert matching.attentions_sum_to_one(task.forward(model, batch))
    monkeypatch.setattr(surgery, "no_attention_dropout", lambda model: None)
    with pytest.raises(UserError, match="cannot be switched off"):
        kt.train(recipe.from_dict(spec, tmp_path), display=QUIET)


def test_two_processes_learn_one_projection(spec, tmp_path):
    for name in ("narrow", "teacher"):
        folder = tmp_path / name
        if name == "teacher":
            shutil.copytree(spec["reference"], folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # masks differ with the batch
        (folder / "config.json").write_text(json.dumps(config))
    spec |= {"reference": "teacher"}
    spec["training"] |= {"optim": "sgd", "learning_rate": 0.1}
    (tmp_path / "recipe.yaml").write_text(json.dumps({**spec, "output": "two"}))
    done = processes.ranks(processes.command, "train", str(tmp_path / "recipe.yaml"), folder=tmp_path)
    assert [one.process.exitcode for one in done] == [0, 0], "\n".join(one.text[-3000:] for one in done)
    spec["training"] |= {"batch_size": 8}
    alone = kt.train(recipe.from_dict(spec, tmp_path), display=QUIET)
    assert logged(tmp_path / "two", "matching") == pytest.approx(logged(alone.folder, "matching"), rel=1e-5)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (alone.folder, tmp_path / "two"))
    assert all(torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-6) for name in one)
