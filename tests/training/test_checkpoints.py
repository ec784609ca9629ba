"""Checkpoints hold all that a training is, are verified before they are used, and a broken one costs an interval."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import get_scheduler

from keeltune import recipe
from keeltune.runs import run
from keeltune.training import checkpoints, finite_check, run_identity
from keeltune.training.finite_check import FiniteCheck
from keeltune.training.optimizer_state import group_numbers, load_optimizer_state, optimizer_state
from keeltune.training.trainer import KeelTrainer
from keeltune.utils import manifest, tensor_tree
from keeltune.utils.errors import Diverged, StateRefused, Stopped, UserError
from keeltune.utils.manifest import NotAsWrittenError
from keeltune.utils.progress import Display
from tests.faults import test_resume
from tests.faults.test_resume import train, write_data
from tests.helpers import wide
from tests.helpers.interruption import Killed, copy_at, kill_at, same

PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How a pickle, or the archive in which torch keeps one, begins."""


def spec_of(tiny) -> dict:
    """Its checkpoints stay when it is finished, to be looked at."""
    spec = test_resume.spec_of(tiny)
    return {**spec, "training": {**spec["training"], "keep_checkpoints": True}}


@pytest.fixture
def spec(tiny, tmp_path):
    write_data(tmp_path)
    return spec_of(tiny)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The run of `spec_of`, and as `left` what a kill in the middle of step 9 leaves: checkpoints 6 and 8."""
    folder = tmp_path_factory.mktemp("whole")
    write_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        copy_at(patch, {9: (folder / "whole", folder / "left")})
        spec = spec_of(tiny)
        spec["training"]["save_steps"] = 2
        finished = train(spec, folder, "whole")
    return spec, finished


@pytest.fixture
def left(whole, tmp_path):
    write_data(tmp_path)
    return shutil.copytree(whole[1].folder.parent / "left", tmp_path / "out")


def log_of(folder: Path) -> str:
    return (folder / "log.jsonl").read_text()


def stop_at(patch, step: int) -> None:
    """Asks for a stop while step `step` is trained, as a signal does."""
    original = KeelTrainer.get_batch_samples

    def asked(self, *given):
        self.training_totals.stop_asked |= self.state.global_step == step - 1
        return original(self, *given)

    patch.setattr(KeelTrainer, "get_batch_samples", asked)


def a_stop_loses_nothing(spec: dict, folder: Path, step: int) -> None:
    whole = train(spec, folder, "whole")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stopped):
            train(spec, folder, "out")
    again = train(spec, folder, "out", resume=True)
    assert same(whole.folder, again.folder)
    assert log_of(whole.folder) == log_of(again.folder)
    assert whole.result["metrics"] == again.result["metrics"]
    assert whole.result["objective"] == again.result["objective"]


STOPS = [(1, {}), (8, {}), (5, {"every": 2}), (8, {"every": 2}), (5, {"every": 2, "patience": "auto"})]


@pytest.mark.parametrize(
    ("step", "evaluation"),
    wide.all_but(STOPS, [(1, {}), (5, {"every": 2}), (5, {"every": 2, "patience": "auto"})]),
    ids=str,
)
def test_a_stop_at_any_step_loses_nothing(spec, tmp_path, step, evaluation):
    """Five steps are an epoch: its evaluation comes before that step is saved, or it is never made up."""
    spec["evaluation"] = evaluation
    spec["training"]["regularizers"] = {"weight_average": 0.9} if step % 2 else {}
    a_stop_loses_nothing(spec, tmp_path, step)


def test_a_run_that_ends_in_the_middle_of_an_epoch_trains_no_step_too_many(spec, tmp_path, monkeypatch):
    spec["training"] |= {"epochs": None, "max_steps": 7}
    finished = train(spec, tmp_path, "whole")
    shutil.copytree(finished.folder, tmp_path / "out")
    (tmp_path / "out" / "result.json").unlink()
    again = train(spec, tmp_path, "out", resume=True)
    assert again.result["training"]["steps"] == 7
    assert same(finished.folder, again.folder)


# ------------------------------------------------------------------------------------------------- what is in one


def test_nothing_is_pickled(whole):
    files = [path for path in whole[1].folder.rglob("*") if path.is_file()]
    assert not [file for file in files if file.read_bytes()[:4].startswith(PICKLES)]
    assert {file.suffix for file in files} == {".json", ".jsonl", ".safetensors", ".html", ".md", ".yaml", ".txt"} & {
        file.suffix for file in files
    }


def test_each_checkpoint_is_whole_and_only_those_that_are_kept_are_there(whole):
    place = whole[1].folder / checkpoints.FOLDER
    assert [step for step, _ in checkpoints.found(place)] == [10, 8]
    named = {checkpoints.verified(folder)["best"]["file"] for _, folder in checkpoints.found(place)}
    assert {path.name for path in place.iterdir()} == {"run.json", "checkpoint-10", "checkpoint-8", *named}


@pytest.mark.parametrize("name", ["rank-0.safetensors", "trainer_state.json", "manifest.json", "best"])
def test_every_flipped_bit_and_every_cut_is_found(left, name):
    folder = checkpoints.found(left / checkpoints.FOLDER)[0][1]
    best = folder.parent / checkpoints.verified(folder)["best"]["file"]
    file, rng = best if name == "best" else folder / name, random.Random(name)
    content = file.read_bytes()
    for number in range(60):
        broken = bytearray(content)
        if number % 3:
            bit = rng.randrange(8 * len(content))
            broken[bit // 8] ^= 1 << bit % 8
        else:
            del broken[rng.randrange(len(content)) :]
        file.write_bytes(bytes(broken))
        with pytest.raises(NotAsWrittenError, match=file.name):
            checkpoints.verified(folder)
    file.unlink()
    with pytest.raises(NotAsWrittenError, match=f"{file.name} is missing"):
        checkpoints.verified(folder)


class Listening(Display):
    def __init__(self):
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


HARMS = [
    ("rank-0.safetensors", flip), ("trainer_state.json", cut), ("manifest.json", Path.unlink), ("best", flip),
    ("run.json", cut), ("every one", flip),
]  # fmt: skip
MISSING = [(name, Path.unlink) for name in ("rank-0.safetensors", "best", "run.json")]


@pytest.mark.parametrize(("name", "harm"), wide.all_but(HARMS + MISSING, HARMS))
def test_a_broken_file_is_named_and_costs_an_interval(whole, left, harm, name):
    place = left / checkpoints.FOLDER
    (_, newest), (_, other) = checkpoints.found(place)
    best = place / checkpoints.verified(newest)["best"]["file"]
    files = {"best": [best], "run.json": [place / "run.json"]}.get(name, [newest / name])
    for file in [newest / "manifest.json", other / "rank-0.safetensors"] if name == "every one" else files:
        harm(file)
    display = Listening()
    again = run.train(recipe.from_dict({**whole[0], "output": "out"}, left.parent), resume=True, display=display)
    said = "\n".join(display.lines)
    assert same(whole[1].folder, again.folder)
    assert log_of(whole[1].folder) == log_of(again.folder)
    assert (f"skipping {newest.name}: " in said) == (name != "run.json")
    assert f"{files[0].name if name != 'every one' else 'manifest.json'} " in said
    assert ("from the beginning" in said) == (
        name == "every one" or (name == "best" and "skipping checkpoint-6" in said)
    )
    assert not [*place.glob(".*")]


def test_the_best_weights_are_verified_before_they_become_the_model(whole, left, monkeypatch):
    """Broken after the last resumption: training goes back to before they were written."""
    original, broken = KeelTrainer.load_best, []

    def breaking(self):
        if not broken:
            broken.append(self.best.place / self.best.kept["file"])
            flip(broken[0])
        original(self)

    monkeypatch.setattr(KeelTrainer, "load_best", breaking)
    with pytest.raises(StateRefused, match="--resume") as refused:
        train(whole[0], left.parent, "out", resume=True)
    assert broken[0].name in str(refused.value)
    assert same(whole[1].folder, train(whole[0], left.parent, "out", resume=True).folder)


def test_what_a_killed_writer_left_is_taken_away(whole, left):
    place = left / checkpoints.FOLDER
    shutil.copytree(place / "checkpoint-8", place / ".staging-checkpoint-10")
    shutil.copytree(place / "checkpoint-8", place / ".trash-checkpoint-4")
    (place / ".staging-best-8.safetensors").mkdir()
    (place / ".staging-best-8.safetensors" / ".tmpFPPZv4").touch()
    assert same(whole[1].folder, train(whole[0], left.parent, "out", resume=True).folder)
    assert not [*place.glob(".*")]


def test_rotation_goes_by_the_step_and_spares_what_is_whole(whole, left):
    """A broken checkpoint of a later step is in nobody's way: the only whole one is not removed for its sake."""
    place = left / checkpoints.FOLDER
    flip(place / "checkpoint-8" / "rank-0.safetensors")
    (place / "checkpoint-6").touch()  # the clock says that it is the newest
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 7)
        spec = {**whole[0], "training": {**whole[0]["training"], "save_total_limit": 1}}
        with pytest.raises(StateRefused, match=r"--allow-change training\.save_total_limit"):
            train(spec, left.parent, "out", resume=True)
        with pytest.raises(Killed):
            train(spec, left.parent, "out", resume=True, allow_change=["training.save_total_limit"])
    assert [step for step, _ in checkpoints.found(place)] == [6]
    assert same(whole[1].folder, train(spec, left.parent, "out", resume=True).folder)
    assert [step for step, _ in checkpoints.found(place)] == [10]


def test_a_checkpoint_of_another_run_is_passed_over(whole, left, tmp_path):
    spec = {**whole[0], "training": {**whole[0]["training"], "seed": 3}}
    other = train(spec, tmp_path, "other")
    place = left / checkpoints.FOLDER
    shutil.copytree(other.folder / checkpoints.FOLDER / "checkpoint-10", place / "checkpoint-10")
    for best in (other.folder / checkpoints.FOLDER).glob("best-*"):
        shutil.copy(best, place)
    again = train(whole[0], left.parent, "out", resume=True)
    assert same(whole[1].folder, again.folder)


# -------------------------------------------------------------------------------------------- no poison is saved


def test_a_gradient_that_is_no_number_makes_no_update_and_no_checkpoint(spec, tmp_path, monkeypatch):
    spec["training"] |= {"save_steps": 1}
    original = FiniteCheck.refuse_broken

    def poisoned(self, model, step):
        if step == 4:
            name, weight = next((n, w) for n, w in model.named_parameters() if "layer.1" in n and w.grad is not None)
            weight.grad.view(-1)[3] = float("nan")
            self.before = {n: w.detach().clone() for n, w in model.named_parameters()}
            poisoned.model, poisoned.name = model, name
        original(self, model, step)

    with monkeypatch.context() as patch:
        patch.setattr(finite_check.FiniteCheck, "refuse_broken", poisoned)
        with pytest.raises(
            Diverged, match=r"step 4: the gradient of .*layer\.1.*no update was made. Rows: \w{12}"
        ) as said:
            train(spec, tmp_path, "out")
    assert poisoned.name in str(said.value)
    assert [step for step, _ in checkpoints.found(tmp_path / "out" / checkpoints.FOLDER)] == [3, 2]
    again = train(spec, tmp_path, "out", resume=True)
    assert same(train(spec, tmp_path, "whole").folder, again.folder)


def test_a_weight_that_is_no_number_is_not_saved(spec, tmp_path, monkeypatch):
    spec["training"] |= {"save_steps": 1}
    original = checkpoints.save

    def poisoned(training):
        if training.state.global_step == 3:
            next(iter(training.model.parameters())).data.view(-1)[0] = float("inf")
        original(training)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", poisoned)
        with pytest.raises(Diverged, match=r"after step 3 not all numbers of .*word_embeddings.*are finite"):
            train(spec, tmp_path, "out")
    assert [step for step, _ in checkpoints.found(tmp_path / "out" / checkpoints.FOLDER)] == [2, 1]
    assert not [*(tmp_path / "out" / checkpoints.FOLDER).glob(".*")]
    assert same(train(spec, tmp_path, "whole").folder, train(spec, tmp_path, "out", resume=True).folder)


def test_squares_too_large_for_a_float_are_no_fault():
    model = nn.Linear(2, 1)
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 1e30)
    FiniteCheck().refuse_broken(model, 1)


# ----------------------------------------------------------------------------------------------- what may change


def rates(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in log_of(folder).splitlines()]
    return {line["step"]: line["learning_rate"] for line in lines if "learning_rate" in line}


def test_a_learning_rate_that_may_change_takes_effect_in_the_next_step(whole, left):
    """The rate of a step is base · share of the step: another base, the same share."""
    place = left / checkpoints.FOLDER
    newest = checkpoints.found(place)[0][1]
    before = tensor_tree.load(newest / "rank-0.safetensors")["weights"]
    spec = {**whole[0], "training": {**whole[0]["training"], "learning_rate": 1e-30, "logging_steps": 1}}
    allowed = ["training.learning_rate", "training.logging_steps"]
    with pytest.raises(StateRefused, match=r"--allow-change training\.learning_rate"):
        train(spec, left.parent, "out", resume=True, allow_change=allowed[1:])
    again = train(spec, left.parent, "out", resume=True, allow_change=allowed)
    after = tensor_tree.load(place / "checkpoint-10" / "rank-0.safetensors")["weights"]
    assert all(before[name].equal(after[name]) for name in before)
    assert rates(again.folder)[10] == pytest.approx(rates(whole[1].folder)[10] * 1e-30 / 1e-3)
    assert again.result["training"]["steps"] == 10


def test_more_epochs_go_on_by_the_longer_schedule(whole, left):
    spec = {**whole[0], "training": {**whole[0]["training"], "epochs": 4, "logging_steps": 1}}
    again = train(spec, left.parent, "out", resume=True, allow_change=["training.epochs", "training.logging_steps"])
    assert again.result["training"]["steps"] == 20
    for step in (10, 15, 20):  # linear from 1e-3 after 2 of 20 steps of warm-up to 0
        assert rates(again.folder)[step] == pytest.approx(1e-3 * (20 - step + 1) / 18)


def test_a_field_that_shapes_what_is_stored_may_not_change(whole, left):
    with pytest.raises(UserError, match=r"training\.lora") as refused:
        train(whole[0], left.parent, "out", resume=True, allow_change=["training.lora"])
    assert refused.value.exit_status == 2


def test_a_step_may_be_cut_otherwise(tiny, tmp_path, monkeypatch):
    """As the message of a full memory advises: half the rows, twice the passes, the same steps."""
    write_data(tmp_path)
    spec = spec_of(tiny)
    plain = shutil.copytree(spec["model"], tmp_path / "plain")
    config = json.loads((plain / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # masks differ with the batch
    (plain / "config.json").write_text(json.dumps(config))
    spec |= {"model": str(plain), "reference": str(plain)}
    whole = train(spec, tmp_path, "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 7)
        with pytest.raises(Killed):
            train(spec, tmp_path, "out")
    cut = {**spec, "training": {**spec["training"], "batch_size": 2, "gradient_accumulation_steps": 4}}
    other = {**spec, "training": {**spec["training"], "batch_size": 2}}
    with pytest.raises(StateRefused, match=r"training\.batch_size"):
        train(other, tmp_path, "out", resume=True)
    again = train(cut, tmp_path, "out", resume=True)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (whole.folder, again.folder))
    start = load_file(plain / "model.safetensors")
    moved = sum(float((one[name] - start[name]).norm() ** 2) for name in start)
    assert (sum(float((one[name] - two[name]).norm() ** 2) for name in start) / moved) ** 0.5 < 0.01


def test_another_machine_is_said(whole, left, monkeypatch):
    monkeypatch.setattr(run_identity, "versions", lambda: {**run_identity.run_of(left)["versions"], "torch": "9.9"})
    display = Listening()
    run.train(recipe.from_dict({**whole[0], "output": "out"}, left.parent), resume=True, display=display)
    assert f"torch {torch.__version__}, now 9.9" in "\n".join(display.lines)


# ---------------------------------------------------------------------------------------- optimizers, trees, buffers


def made(kind: str, model: nn.Module):
    groups = [
        {"params": [model[0].weight, model[2].weight], "weight_decay": 0.1},
        {"params": [model[0].bias, model[2].bias], "weight_decay": 0.0, "lr": 3e-3},
    ]
    makers = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=1e-2),
        "fused": lambda: torch.optim.AdamW(groups, lr=1e-2, fused=True),
        "amsgrad": lambda: torch.optim.AdamW(groups, lr=1e-2, amsgrad=True),
        "momentum": lambda: torch.optim.SGD(groups, lr=1e-2, momentum=0.9),
        "plain": lambda: torch.optim.SGD(groups, lr=1e-2),
        "nadam": lambda: torch.optim.NAdam(groups, lr=1e-2),
        "adafactor": lambda: transformers.optimization.Adafactor(
            groups, lr=1e-2, scale_parameter=False, relative_step=False
        ),
    }
    return makers[kind]()


@pytest.mark.parametrize(
    "schedule", ["linear", "cosine_with_restarts", "constant", "inverse_sqrt", "warmup_stable_decay"]
)
@pytest.mark.parametrize("kind", ["adamw", "fused", "amsgrad", "momentum", "plain", "nadam", "adafactor"])
def test_an_optimizer_goes_on_to_the_bit(tmp_path, kind, schedule):
    def start():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        optimizer = made(kind, model)
        begun = group_numbers(optimizer)
        more = {"scheduler_specific_kwargs": {"num_decay_steps": 3}} if schedule == "warmup_stable_decay" else {}
        return model, optimizer, get_scheduler(schedule, optimizer, 2, 9, **more), begun

    def step(model, optimizer, scheduler, number):
        torch.manual_seed(number)
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()

    model, optimizer, scheduler, begun = start()
    for number in range(4):
        step(model, optimizer, scheduler, number)
    state = optimizer_state(optimizer, scheduler, model, begun)
    tensor_tree.save({"model": dict(model.state_dict()), **state}, tmp_path / "file")
    for number in range(4, 8):
        step(model, optimizer, scheduler, number)
    stored = tensor_tree.load(tmp_path / "file")
    again, other, its_scheduler, _ = start()
    again.load_state_dict(stored["model"])
    load_optimizer_state(other, its_scheduler, again, stored)
    for number in range(4, 8):
        step(again, other, its_scheduler, number)
    assert all(one.equal(two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
    assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] for group in other.param_groups]


def test_moments_go_by_the_names_of_their_weights(tmp_path):
    """Another order of the groups' weights gives each weight its own moments still."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    one = torch.optim.AdamW([model[0].weight, model[1].weight], lr=1e-2)
    model(torch.randn(2, 3)).sum().backward()
    one.step()
    schedule = get_scheduler("constant", one)
    state = optimizer_state(one, schedule, model, group_numbers(one))
    two = torch.optim.AdamW([model[1].weight, model[0].weight], lr=1e-2)
    load_optimizer_state(two, get_scheduler("constant", two), model, state)
    for weight in (model[0].weight, model[1].weight):
        assert one.state[weight]["exp_avg"].equal(two.state[weight]["exp_avg"])
    three = torch.optim.AdamW([model[0].weight], lr=1e-2)
    del state["groups"][1:]
    with pytest.raises(ValueError, match=r"1 weights that do not train \(1.weight"):
        load_optimizer_state(three, get_scheduler("constant", three), model, state)


def test_buffers_come_back_also_those_that_grew_and_are_in_no_state_dict():
    class Cache(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.register_buffer("seen", torch.zeros(2))
            self.register_buffer("angles", torch.zeros(2), persistent=False)

    one, two = Cache(), Cache()
    one.angles, one.seen = torch.arange(5.0), torch.ones(2)
    checkpoints.load_tensors(two, {"weight": torch.full((2,), 3.0)}, dict(one.named_buffers()))
    assert two.angles.equal(torch.arange(5.0))
    assert two.seen.equal(torch.ones(2))
    assert two.weight.equal(torch.full((2,), 3.0))
    assert [*dict(two.named_buffers())] == ["seen", "angles"]


def test_a_tree_comes_back_as_it_was(tmp_path):
    table = torch.arange(6.0).reshape(2, 3)
    tree = {"a": table, "same": table, "turned": table.T, "none": None, "rate": 0.1, "huge": float("inf"),
            "no": False, "list": [1, [table[0], "x"]], "half": torch.ones(2, dtype=torch.bfloat16),
            "one": torch.tensor(3)}  # fmt: skip
    tensor_tree.save(tree, tmp_path / "file")
    back = tensor_tree.load(tmp_path / "file")
    assert back["a"].equal(table)
    assert back["same"].equal(table)
    assert back["turned"].equal(table.T)
    assert back["list"][1][0].equal(table[0])
    assert back["half"].dtype == torch.bfloat16
    plain = {name: back[name] for name in ("none", "rate", "huge", "no")}
    assert plain == {"none": None, "rate": 0.1, "huge": float("inf"), "no": False}
    assert back["one"].item() == 3
    for bad in ({"a": object()}, {1: table}, {"a": {1, 2}}):
        with pytest.raises(TypeError, match="expected tensors, numbers, text"):
            tensor_tree.save(bad, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_each_file_has_a_manifest_entry(left):
    folder = checkpoints.found(left / checkpoints.FOLDER)[0][1]
    files = {path.name for path in folder.iterdir()} - {manifest.MANIFEST}
    assert files == {*checkpoints.verified(folder)["files"]} == {"rank-0.safetensors", "trainer_state.json"}


def test_without_checkpoints_one_file_of_best_weights_stays(spec, tmp_path, monkeypatch):
    spec["training"] = {**spec["training"], "save_strategy": "no", "learning_rate": 5e-3, "epochs": 6}
    del spec["training"]["save_steps"]
    spec["evaluation"] = {"every": 3, "patience": None}
    kept, save = [], checkpoints.BestWeights.save

    def saving(self, model, step):
        save(self, model, step)
        kept.append(self.kept["file"])

    monkeypatch.setattr(checkpoints.BestWeights, "save", saving)
    finished = train(spec, tmp_path, "out")
    assert len(kept) > 1
    assert {p.name for p in (finished.folder / checkpoints.FOLDER).iterdir()} == {"run.json", kept[-1]}
