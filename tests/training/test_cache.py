"""The cache of a reference's answers: the same training, the rows' content as key, and nothing else accepted."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import keeltune as kt
from keeltune import recipe
from keeltune.cli import cache
from keeltune.cli.demo_data import make_reviews
from keeltune.data.dataset import Row
from keeltune.objective import divergences
from keeltune.objective.predictions import Coarse, Dense, Projected
from keeltune.objective.references.cached import Cached
from keeltune.objective.stored_predictions import Full, Hidden, TopK
from keeltune.recipe import fields
from keeltune.tasks.common import lm_head
from keeltune.training import build, reference_loading
from keeltune.training.cache import capture, cost, finished, form_choice, identity, shards, stored_head
from keeltune.training.preparation import prepare
from keeltune.utils import disk_space, registry, tensor_store
from keeltune.utils.errors import OutOfResources, StateRefused, Stopped, UserError
from keeltune.utils.progress import Display
from tests.helpers import families, processes, served_teacher, wide
from tests.helpers.command import keeltune
from tests.helpers.families import spec as spec_of
from tests.helpers.families import write_lines
from tests.helpers.interruption import Killed, kill_at, same
from tests.helpers.models import save_tiny

QUIET = Display(quiet=True)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def given(tmp_path) -> dict:
    """A distillation with a pool."""
    save_tiny(tmp_path / "student", "bert", seed=0)
    save_tiny(tmp_path / "teacher", "bert", seed=5)
    rows = make_reviews("films", 40, seed=1)
    write_lines(tmp_path / "train.jsonl", rows[:24])
    write_lines(tmp_path / "pool.jsonl", [{"text": row["text"]} for row in rows[24:]])
    return {
        "task": "sentiment-analysis", "method": "distillation", "model": "student",
        "reference": {"model": "teacher", "from": "cached", "cache": "kept"},
        "data": {"train": "train.jsonl", "unlabeled": "pool.jsonl"},
        "training": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2, "precision": "fp32"}, "output": "out",
    }  # fmt: skip


def made(given: dict, folder: Path, **changes) -> fields.Recipe:
    """The recipe with changes, such as training__seed=3."""
    values = json.loads(json.dumps(given))
    for name, value in changes.items():
        holder = values
        *path, last = name.split("__")
        for step in path:
            holder = holder.setdefault(step, {})
        holder[last] = value
    return recipe.from_dict(values, folder)


def train(given: dict, folder: Path, **changes) -> kt.Run:
    return kt.train(made(given, folder, **changes), display=QUIET)


def filled(given: dict, folder: Path, **changes) -> dict:
    return cache.precompute(made(given, folder, **changes), display=QUIET)


def losses(ran: kt.Run) -> list[float]:
    lines = [json.loads(line) for line in (ran.folder / "log.jsonl").read_text("utf-8").splitlines()]
    return [line[name] for line in lines for name in ("loss", "cross_entropy", "divergence") if name in line]


# The same training


FORMS = [
    (task, family.architectures[0], form)
    for task, family in families.FAMILIES.items()
    for form in (("full", "hidden") if task in ("translation", "text-generation", "image-captioning") else ("full",))
]


FORMS += [("speech-recognition", "whisper", "hidden")]


CELLS = families.by_turns(FORMS, ("distillation", "cross-domain"))
LIKE_OTHERS = {  # (task, form): labels are kept as another task's are, texts as another's that are written alike
    ("sentiment-analysis", "full"), ("token-classification", "full"), ("translation", "hidden"),
    ("summarization", "full"), ("text-generation", "full"), ("image-captioning", "full"),
}  # fmt: skip
FEW = [cell for cell in CELLS[1:] if (cell[0], cell[2]) not in LIKE_OTHERS]


@pytest.mark.parametrize(("task", "architecture", "form", "method"), wide.all_but(CELLS, FEW))
def test_a_whole_run_is_the_same_with_the_cache(tmp_path, task, architecture, form, method):
    """The same losses at each step and the same final weights as with the live reference, to float32 rounding."""
    values = spec_of(tmp_path, task, architecture, method)
    del values["data"]["test"], values["training"]["save_steps"]
    values["training"] |= {"max_steps": 3, "logging_steps": 1}
    values["training"] |= {"optim": "sgd", "learning_rate": 0.1}  # Adam makes much of a rounding
    for name in ("student", "teacher") if task == "regression" else ():
        file = tmp_path / name / "model.safetensors"  # random heads say nearly one number of all rows: answers that
        stored = load_file(file)  # have changed places would not show
        stored["classifier.weight"] *= 10
        save_file(stored, file, metadata={"format": "pt"})
    model = {"model": "teacher" if method == "distillation" else "student"}
    runs = {
        origin: train({**values, "output": origin}, tmp_path, reference={**model, "from": origin, **more})
        for origin, more in (("online", {}), ("cached", {"form": form}))
    }
    found = runs["cached"].result["reference"]
    assert found["kind"] == "cached"
    assert found["cache"]["form"]["name"] == form
    assert found["cache"]["mass_kept"] == 1.0
    assert losses(runs["cached"]) == pytest.approx(losses(runs["online"]), rel=1e-4, abs=2e-6)
    if method == "distillation":
        assert runs["cached"].result["objective"]["divergence"] > 1e-5  # the reference reached the loss (trap 18)
    ours, theirs = (load_file(runs[origin].model / "model.safetensors") for origin in ("cached", "online"))
    assert max((ours[name] - theirs[name]).abs().max().item() for name in theirs) < 1e-5


def test_several_teachers_are_averaged_first(tmp_path, given):
    save_tiny(tmp_path / "second", "bert", seed=9)
    both = {"model": ["teacher", "second"], "weight": [1.0, 3.0]}
    online = train(given, tmp_path, reference={**both, "from": "online"}, output="a")
    cached = train(given, tmp_path, reference={**both, "from": "cached"}, output="b")
    assert losses(cached) == pytest.approx(losses(online), rel=1e-4, abs=1e-6)
    there = str((cached.folder / cached.result["reference"]["cache"]["folder"]).resolve())
    other = {**both, "weight": [3.0, 1.0], "from": "cached", "cache": there}
    with pytest.raises(StateRefused, match="weight"):  # the same members, weighed otherwise
        train(given, tmp_path, output="c", reference=other)


def test_an_adapter_is_held_near_a_cached_start(tmp_path, given):
    """LoRA with no reference named (trap 17): the start is cached before the adapter is there."""
    values = {**given, "method": "cross-domain", "objective": {"weight": 0.5}}
    values["training"] = {**given["training"], "lora": {"rank": 4, "dropout": 0.0}}
    del values["data"]["unlabeled"]
    off = train({**values, "reference": {"from": "adapter-off"}, "output": "off"}, tmp_path)
    kept = train({**values, "reference": {"from": "cached"}, "output": "kept-run"}, tmp_path)
    assert (off.result["reference"]["kind"], kept.result["reference"]["kind"]) == ("adapter-off", "cached")
    assert losses(kept) == pytest.approx(losses(off), rel=1e-4, abs=1e-6)


def test_what_the_teacher_writes_is_cached_as_it_was_written(tmp_path):
    """The key of a written target is that of its text: the data's own target is not taken for it."""
    values = spec_of(tmp_path, "translation", "marian", "distillation")
    values |= {"generation": {"max_new_tokens": 4, "targets": "reference"}}
    del values["data"]["test"], values["training"]["save_steps"]
    values["training"] |= {"max_steps": 2, "logging_steps": 1}
    plain = train({**values, "output": "data"}, tmp_path, generation__targets="data",
                  reference={"model": "teacher", "from": "cached"})  # fmt: skip
    online = train({**values, "output": "a"}, tmp_path, reference={"model": "teacher", "from": "online"})
    cached = train({**values, "output": "b"}, tmp_path, reference={"model": "teacher", "from": "cached"})
    assert losses(cached) == pytest.approx(losses(online), rel=1e-4, abs=2e-6)
    assert losses(cached) != pytest.approx(losses(plain), rel=1e-2)


def test_training_does_not_load_the_teacher_again(tmp_path, given, monkeypatch):
    filled(given, tmp_path)
    loads: list[str] = []
    original = reference_loading.load_models
    monkeypatch.setattr(reference_loading, "load_models", lambda *args: loads.append("loaded") or original(*args))
    first = train(given, tmp_path)
    second = train(given, tmp_path, output="second", training__seed=3)  # two runs share one cache
    assert loads == []
    train(given, tmp_path, output="third", reference__from="online", reference__cache=None)
    assert loads == ["loaded"]
    assert first.result["reference"]["cache"]["digest"] == second.result["reference"]["cache"]["digest"]


# What is stored depends on the rows alone


def test_order_seed_batch_and_file_change_nothing(tmp_path, given):
    digest = filled(given, tmp_path)["digest"]
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    random.Random(1).shuffle(lines)
    (tmp_path / "again.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")
    changes = {
        "data__train": "again.jsonl",
        "training__seed": 7,
        "training__batch_size": 3,
        "reference__cache": "other",
    }
    assert filled(given, tmp_path, **changes)["digest"] == digest


def precompute_in_small_shards(file: str) -> None:
    shards.SHARD_EXAMPLES = 8
    cache.precompute(recipe.load(file))


def test_several_processes_write_the_same_cache(tmp_path, given, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_EXAMPLES", 8)
    digest = filled(given, tmp_path)["digest"]
    values = {**given, "reference": {**given["reference"], "cache": "shared"}}
    (tmp_path / "r.yaml").write_text(json.dumps(values))
    done = processes.ranks(precompute_in_small_shards, str(tmp_path / "r.yaml"), folder=tmp_path)
    assert [one.process.exitcode for one in done] == [0, 0], [one.text for one in done]
    assert json.loads((tmp_path / "shared" / tensor_store.MANIFEST).read_text())["digest"] == digest


# Never wrong


def test_each_mismatch_is_refused_with_the_field_and_both_values(tmp_path, given):
    values = {**given, "reference": {**given["reference"], "form": "top-k", "k": 2}}
    filled(values, tmp_path)
    save_tiny(tmp_path / "another", "bert", seed=6)
    tokenizer = json.loads((tmp_path / "teacher" / "tokenizer.json").read_text())
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    write_lines(tmp_path / "revised.jsonl", [json.loads(lines[0]) | {"text": "good"}, *map(json.loads, lines[1:])])
    for name in ("student", "teacher"):
        folder = tmp_path / f"{name}-other-tokens"
        save_tiny(folder, "bert", seed={"student": 0, "teacher": 5}[name])
        words = tokenizer["model"]["vocab"]
        swapped = {**words, "good": words["bad"], "bad": words["good"]}
        (folder / "tokenizer.json").write_text(
            json.dumps({**tokenizer, "model": {**tokenizer["model"], "vocab": swapped}})
        )
    mismatches = {
        "reference": {"reference__model": "another"},
        "tokenizer": {"model": "student-other-tokens", "reference__model": "teacher-other-tokens"},
        "max_length": {"max_length": 8},
        "data.train": {"data__train": "revised.jsonl"},
        "form.k": {"reference__k": 1},
        "form.temperature": {"objective__temperature": 2.0},
        "form.dtype": {"reference__dtype": "float32"},
        "form.name": {"reference__form": "full"},
        "precision": {"training__precision": "bf16"},
    }
    for field, change in mismatches.items():
        for call in (filled, train) if field == "reference" else (filled,):  # both look for it by one function
            with pytest.raises(StateRefused) as refused:
                call(values, tmp_path, **change)
            assert any(field in problem.field for problem in refused.value.problems), (field, str(refused.value))
            (problem, *_) = [p for p in refused.value.problems if field in p.field]
            assert problem.found.endswith("in the cache")
            assert problem.expected != problem.found
            assert "keeltune cache" in problem.fix
    assert not (tmp_path / "out" / "model").exists()
    filled(values, tmp_path)  # and what is there is still good


def test_a_template_of_another_kind_is_refused(tmp_path):
    values = spec_of(tmp_path, "text-generation", "gpt2", "distillation")
    values |= {"reference": {"model": "teacher", "from": "cached", "cache": "kept"}, "output": "out"}
    filled(values, tmp_path)
    for name in ("student", "teacher"):
        (tmp_path / name / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(StateRefused, match="template"):
        filled(values, tmp_path)


def test_every_flipped_bit_is_found(tmp_path, given):
    filled(given, tmp_path)
    files = [p for p in (tmp_path / "kept").iterdir() if p.is_file()]
    assert {p.suffix for p in files} == {".json", ".safetensors"}
    dice = random.Random(0)
    want = wanted(given, tmp_path)
    for trial in range(200):
        file = files[trial % len(files)]
        sound = file.read_bytes()
        broken = bytearray(sound)
        ends = (0, len(broken) - 1)  # of each file, then anywhere in it
        place = ends[trial // len(files)] if trial < 2 * len(files) else dice.randrange(len(broken))
        broken[place] ^= 1 << dice.randrange(8)
        file.write_bytes(broken)
        with pytest.raises(StateRefused) as refused:
            finished.find_finished(want)
        (problem,) = refused.value.problems
        assert problem.field == ("digest" if file.name == tensor_store.MANIFEST else "shards")
        assert file.name in problem.found
        file.write_bytes(sound)
    assert finished.find_finished(want) is not None


@pytest.mark.parametrize("form", ["full", "hidden"])
def test_what_is_broken_of_a_cache_is_computed_again(tmp_path, given, monkeypatch, form):
    """Flipped, cut or missing: `--verify` says whose answers are lost, and a run computes those shards and no other."""
    if form == "hidden":
        given = spec_of(tmp_path, "text-generation", "gpt2", "distillation") | {"output": "out"}
        given["reference"] = {"model": "teacher", "from": "cached", "cache": "kept", "form": "hidden"}
        given["training"] |= {"max_steps": 2}
        del given["data"]["test"]
    monkeypatch.setattr(shards, "SHARD_EXAMPLES", 4)
    facts = filled(given, tmp_path)
    kept = tmp_path / "kept"
    sound = {path.name: path.read_bytes() for path in kept.iterdir()}
    whole = train(given, tmp_path, output="whole")
    written, original = [], tensor_store.Writer.write
    monkeypatch.setattr(
        tensor_store.Writer,
        "write",
        lambda self, number, *rest: (written.append(number), original(self, number, *rest)),
    )
    names = [tensor_store.shard_name(0), tensor_store.shard_name(1)]
    if form == "hidden":
        names = [stored_head.HEAD_FILE, *names]
    dice = random.Random(1)

    def harm(name: str, *, cut: bool) -> None:
        content = bytearray(sound[name])
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        (kept / name).write_bytes(content[: len(content) // 2] if cut else content)

    for number, name in enumerate(names * 2):
        harm(name, cut=number % 2 == 0)
        with pytest.raises(StateRefused) as refused:
            cache.precompute(made(given, tmp_path), verify=True, display=QUIET)
        (problem,) = refused.value.problems
        assert name in problem.found
        assert name == stored_head.HEAD_FILE or re.search(r"answers to \d rows: \S+jsonl:\d+, ", problem.found)
        assert "keeltune cache" in problem.fix
        (kept / name).write_bytes(sound[name])
    written.clear()
    for group in (names[:-2], names[-2:]):  # the head alone where there is one, then both shards
        for number, name in enumerate(group):
            harm(name, cut=number % 2 == 0)
        again = train(given, tmp_path, output=f"again-{len(group)}")
        assert again.result["reference"]["cache"]["digest"] == facts["digest"]
        assert {path.name: path.read_bytes() for path in kept.iterdir() if "gate" not in path.name} == sound
        assert same(again.folder, whole.folder)
    assert written == [0, 1]
    (kept / names[-1]).unlink()
    assert filled(given, tmp_path)["digest"] == facts["digest"]


def test_a_shard_that_changes_while_it_is_read_is_refused(tmp_path, given, monkeypatch):
    """In the middle of training, when it has been verified and mapped."""
    digest = filled(given, tmp_path)["digest"]
    shard = tmp_path / "kept" / tensor_store.shard_name(0)
    original, steps = Cached.rows, []

    def rows(self, batch):
        steps.append(1)
        if len(steps) == 3:
            with shard.open("r+b") as stream:
                stream.seek(-1, os.SEEK_END)
                last = stream.read(1)[0]
                stream.seek(-1, os.SEEK_END)
                stream.write(bytes([last ^ 1]))
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Cached, "rows", rows)
        with pytest.raises(StateRefused, match="shard-00000") as refused:
            train(given, tmp_path)
    assert refused.value.exit_status == 3
    assert len(steps) == 3
    assert train(given, tmp_path, output="b").result["reference"]["cache"]["digest"] == digest


def test_a_teacher_that_is_another_one_mends_nothing(tmp_path, given):
    """What a server says it is has changed: its answers do not go among those of the other."""
    filled(given, tmp_path)
    want = wanted(given, tmp_path)
    head = {name: value for name, value in tensor_store.Store(want.folder, "").manifest.items() if name != "shards"}
    with pytest.raises(StateRefused, match="served"):
        tensor_store.Writer(want.folder, {**head, "served": {"model": "another"}}, 1, "")


def wanted(given: dict, folder: Path) -> identity.CacheRequest:
    material = prepare.prepare(made(given, folder))
    base = build.prepared(material, QUIET)
    return identity.cache_request(material, base.precision, base.plan.anchored_examples())


def test_a_row_that_is_read_otherwise_is_refused(tmp_path, given):
    """The content of each row stands beside its key: no field of the manifest needs to know why it changed."""
    filled(given, tmp_path)
    want = wanted(given, tmp_path)
    other = {**want.contents, want.examples[3].key: bytes(32)}
    with pytest.raises(StateRefused, match="another encoding of the row"):
        finished.find_finished(
            identity.CacheRequest(want.identity, want.form, want.folder, want.examples, other, want.command)
        )


def test_pictures_are_part_of_what_was_answered(tmp_path):
    values = spec_of(
        tmp_path, "image-captioning", families.FAMILIES["image-captioning"].architectures[0], "distillation"
    )
    values |= {"reference": {"model": "teacher", "from": "cached", "cache": "kept"}, "output": "out"}
    filled(values, tmp_path)
    pictures = sorted((tmp_path).rglob("*.png"))
    first, second = pictures[0].read_bytes(), pictures[1].read_bytes()
    pictures[0].write_bytes(second)
    pictures[1].write_bytes(first)
    with pytest.raises(StateRefused, match="data"):
        filled(values, tmp_path)


def test_a_full_disk_ends_clearly_and_nothing_is_lost(tmp_path, given, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_EXAMPLES", 8)
    digest = filled(given, tmp_path)["digest"]
    finished.remove(tmp_path / "kept")
    syncs: list[int] = []
    real = os.fsync

    def full(fd: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{fd}")).is_relative_to(tmp_path / "kept"):
            syncs.append(fd)
        if len(syncs) >= 7:
            raise OSError(28, "No space left on device")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutOfResources, match="the disk of"):
            train(given, tmp_path)
    there = list((tmp_path / "kept").glob("shard-*.safetensors"))
    assert len(there) == 1
    assert not list((tmp_path / "kept").glob(".staging-*"))
    before = there[0].stat().st_mtime_ns
    assert filled(given, tmp_path)["digest"] == digest
    assert there[0].stat().st_mtime_ns == before  # it was not written again
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: type("Free", (), {"free": 10})())
    with pytest.raises(OutOfResources, match="and the disk has 10 free"):
        filled(given, tmp_path, reference__cache="other")


# Forms


def distributions(seed: int, n: int = 40, choices: int = 50, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, choices, generator=generator)


def kept(form, rows, n: int, choices: int):
    """What comes back of rows that were written in a form, as one example of each prediction."""
    columns = form.write(rows, [1] * n, [choices] * n)
    return form.read(columns, [1] * n, [choices] * n), columns


@pytest.mark.parametrize("name", sorted(set(registry.names("divergences")) - {"logit-mse"}))
@pytest.mark.parametrize("seed", range(5))
def test_top_k_is_at_most_the_full_divergence_and_grows_with_k(seed, name):
    teacher, student = Dense(distributions(seed)), Dense(distributions(seed + 100))
    function = registry.find("divergences", name)
    whole = function(student.log_probs(slice(None)), teacher.log_probs(slice(None)))
    below = torch.zeros(40)
    for k in (1, 2, 8, 20, 49, 50):
        coarse, _ = kept(TopK(k, dtype=torch.float32), teacher, 40, 50)
        value = function(coarse.comparable(student.log_probs(slice(None)), slice(None)), coarse.log_probs(slice(None)))
        assert (value >= 0).all()
        assert (value >= below - 1e-5).all()
        assert (value <= whole + 1e-5).all()
        below = value
    torch.testing.assert_close(below, whole, rtol=1e-4, atol=1e-5)
    itself, _ = kept(TopK(8, dtype=torch.float32), teacher, 40, 50)
    none = function(itself.comparable(teacher.log_probs(slice(None)), slice(None)), itself.log_probs(slice(None)))
    assert none.abs().max() < 1e-6  # zero where they agree on the coarse-graining


@pytest.mark.parametrize("k", [1, 8, 64])
def test_half_precision_keeps_a_distribution_and_loses_little(k):
    teacher, student = Dense(distributions(3, choices=200, scale=6.0)), Dense(distributions(4, choices=200))
    exact, _ = kept(TopK(k, dtype=torch.float32), teacher, 40, 200)
    half, columns = kept(TopK(k), teacher, 40, 200)
    assert columns["log_probs"].dtype == torch.float16
    assert half.log_probs(slice(None)).exp().sum(-1) == pytest.approx(torch.ones(40), abs=1e-6)
    values = [
        divergences.reverse_kl(c.comparable(student.log_probs(slice(None)), slice(None)), c.log_probs(slice(None)))
        for c in (exact, half)
    ]
    assert (values[1] >= 0).all()
    torch.testing.assert_close(values[0], values[1], rtol=2e-3, atol=2e-3)


def test_ids_of_any_size_are_kept():
    """Trap 15: ids above 2^17, and above 2^15 where two bytes end."""
    choices = 2**18
    logits = torch.zeros(2, choices)
    logits[0, 2**17 + 5], logits[1, 40_000] = 20.0, 20.0
    coarse, columns = kept(TopK(1), Dense(logits), 2, choices)
    assert isinstance(coarse, Coarse)
    assert coarse.ids[:, 0].tolist() == [2**17 + 5, 40_000]
    assert columns["ids"].dtype == torch.int32
    small, columns = kept(TopK(1), Dense(logits[:, : 2**15].contiguous()), 2, 2**15)
    assert columns["ids"].dtype == torch.int16
    assert (small.ids >= 0).all()


def test_texts_of_different_length_keep_their_own_places():
    table = torch.full((4, 6), -torch.inf)
    table[:2, :3], table[2:, :6] = distributions(1, 2, 3), distributions(2, 2, 6)
    form = Full()
    columns = form.write(Dense(table), [2, 2], [3, 6])
    assert columns["log_probs"].numel() == 2 * 3 + 2 * 6
    again = form.read(columns, [2, 2], [3, 6]).log_probs(slice(None))
    torch.testing.assert_close(again, Dense(table).log_probs(slice(None)))


def test_eight_bit_rows_lose_what_they_say():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(30, 16, generator=generator), torch.randn(50, 16, generator=generator)
    head = stored_head.Head(weight, None, [])
    whole = Projected(hidden, head, 50)
    exact, eight = (kept(Hidden(16, dtype, head, 50), whole, 30, 50)[0] for dtype in (torch.float32, torch.int8))
    torch.testing.assert_close(exact.log_probs(slice(None)), whole.log_probs(slice(None)))
    lost = divergences.reverse_kl(whole.log_probs(slice(None)), eight.log_probs(slice(None)))
    assert 0 < lost.max() < 0.02
    bound = hidden.abs().amax(-1, keepdim=True) / 254
    assert ((eight.hidden - hidden).abs() <= bound + 1e-7).all()


@pytest.mark.parametrize(
    ("architecture", "steps"), [("gemma2", ["div", "tanh", "mul"]), ("llama", []), ("cohere", ["mul"]), ("gpt2", [])]
)
def test_the_head_is_kept_with_what_is_behind_it(architecture, steps):
    import transformers

    sizes = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 2, "intermediate_size": 32, "eos_token_id": 1, "bos_token_id": 1}  # fmt: skip
    config = transformers.AutoConfig.for_model(architecture, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(5, 300, (2, 6))
    batch = {"inputs": {"input_ids": ids}, "predicted": torch.ones(2, 6, dtype=torch.bool)}
    with torch.no_grad(), lm_head.sliced_from(0):
        rows = lm_head.forward(model, batch).rows
        logits = model(ids).logits.flatten(0, 1)
    head = stored_head.Head.of(rows.head)
    assert head is not None
    assert [name for name, _ in head.steps] == steps
    torch.testing.assert_close(head(rows.hidden), logits)


def test_the_sizes_choose_the_form(tmp_path, monkeypatch):
    """Few choices: all. Many: the k likeliest where they hold the probability, the head's input where they do not."""
    values = spec_of(tmp_path, "translation", "marian", "distillation")
    values |= {"reference": {"model": "teacher", "from": "cached"}, "output": "out"}
    assert filled(values, tmp_path)["form"]["name"] == "full"
    monkeypatch.setattr(identity, "EXACT", 10)
    monkeypatch.setattr(form_choice, "MASS", 0.0)
    top = filled(values, tmp_path, reference__k=16)
    assert (top["form"]["name"], top["form"]["k"]) == ("top-k", 16)
    assert 0 < top["mass_kept"] < 1
    monkeypatch.setattr(form_choice, "MASS", 1.1)
    hidden = filled(values, tmp_path, reference__k=17)
    assert hidden["form"]["name"] == "hidden"
    assert hidden["divergence"] < 1e-6


# What `from: auto` chooses


def test_auto_takes_a_cache_where_it_saves_time_and_keeps_its_choice(tmp_path, given, monkeypatch):
    auto = {**given, "reference": {"model": "teacher"}}
    plain = train(auto, tmp_path, output="plain")
    assert plain.result["reference"]["kind"] == "model"
    assert "would save" in plain.result["reference"]["reason"]
    assert not (tmp_path / ".cache").exists()
    monkeypatch.setattr(cost, "WORTH", -1e9)
    monkeypatch.setattr(cost, "seconds_a_byte", lambda folder: 0.0)
    monkeypatch.setattr(cost.time, "perf_counter", iter(range(10**9)).__next__)
    whole = train(auto, tmp_path, output="whole", training__save_steps=3)
    assert whole.result["reference"]["kind"] == "cached"
    assert "once" in whole.result["reference"]["reason"]
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            train(auto, tmp_path, output="cut", training__save_steps=3)
    monkeypatch.setattr(cost, "worth", lambda *args: pytest.fail("it was decided when the run began"))
    again = kt.train(made(auto, tmp_path, output="cut", training__save_steps=3), display=QUIET, resume=True)
    assert same(whole.folder, again.folder)


def test_a_run_goes_on_with_the_answers_it_began_with(tmp_path, given, monkeypatch):
    values = {**given, "reference": {"model": "teacher", "from": "cached", "cache": "kept"}}
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            train(values, tmp_path, training__save_steps=3)
    finished.remove(tmp_path / "kept")
    monkeypatch.setattr(shards, "BATCH", 3)
    monkeypatch.setattr(shards, "SHARD_EXAMPLES", 5)  # another file with the same answers, all but the last digits
    with pytest.raises(StateRefused, match=r"digest\n.* in the run"):
        kt.train(made(values, tmp_path, training__save_steps=3), display=QUIET, resume=True)


# The command and the recipe


def test_the_command_fills_verifies_and_refuses(tmp_path, given, monkeypatch, capsys):
    (tmp_path / "r.yaml").write_text(json.dumps(given))
    file = str(tmp_path / "r.yaml")

    def command(*arguments: str) -> tuple[int, str, str]:
        status = keeltune(monkeypatch, "cache", file, *arguments)
        return status, *capsys.readouterr()

    status, _, said = command("--verify")
    assert (status, "no finished cache" in said) == (3, True)
    status, told, said = command()
    assert status == 0, said
    assert "divergence from the live reference" in told
    assert not (tmp_path / "out").exists()
    assert command("--verify")[0] == 0
    status, _, said = command("max_length=9")
    assert (status, "Traceback" in said) == (3, False)
    status, _, said = command("max_length=9", "--overwrite")
    assert status == 0, said
    status, _, said = command("method=fine-tuning", "reference=null", "data.unlabeled=null")
    assert (status, "no reference whose answers" in said) == (2, True)


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"reference__from": "online"}, "caches nothing"),
        ({"reference__form": "top-k", "objective__divergence": "logit-mse"}, "needs every choice's logit"),
        ({"reference__dtype": "int8"}, "only the head's input"),
        ({"objective__matching": {"hidden-states": 1.0}}, "compares the layers"),
        ({"reference__k": 0}, "greater than 0"),
        ({"reference__form": "hidden"}, "vocabulary head cannot be kept apart"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, given, changes, needle):
    with pytest.raises(UserError, match=needle):
        train(given, tmp_path, **changes)
    assert not (tmp_path / "out" / "model").exists()


def test_a_row_that_is_not_there_is_an_error_not_a_guess(tmp_path, given):
    filled(given, tmp_path)
    store = tensor_store.Store(tmp_path / "kept", "")
    task = prepare.prepare(made(given, tmp_path)).task
    (example, *_) = task.encode(Row({"text": "never seen", "label": "positive"}, "f", 1, "k"))
    with pytest.raises(KeyError, match="no distribution of the row k"):
        Cached(store, Full()).rows(task.collate([example]))


def test_the_divergence_is_computed_on_the_cached_rows(tmp_path, given, monkeypatch):
    """Trap 14: two rows that change places in the file change places in the answers too, and only there."""
    filled(given, tmp_path)
    seen: list[tuple[list[str], torch.Tensor]] = []
    original = Cached.rows

    def noting(self, batch):
        rows = original(self, batch)
        seen.append((list(batch["keys"]), rows.log_probs(slice(None))))
        return rows

    monkeypatch.setattr(Cached, "rows", noting)
    train(given, tmp_path)
    train(given, tmp_path, output="second", training__seed=11, training__batch_size=3)
    answers: dict[str, torch.Tensor] = {}
    for keys, table in seen:
        for key, line in zip(keys, table, strict=True):
            assert answers.setdefault(key, line).equal(line)
    assert len(answers) == 40
    assert len({tuple(line.tolist()) for line in answers.values()}) > 30


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_heads_input_is_kept_of_a_reference_in_bf16(tmp_path, architecture):
    """The kept head multiplies in bf16 as its model did: held to float32's products it would look like another head."""
    values = spec_of(tmp_path, "text-generation", architecture, "distillation") | {"output": "out"}
    values["training"] |= {"precision": "bf16"}
    values["reference"] = {"model": "teacher", "from": "cached", "form": "hidden"}
    facts = filled(values, tmp_path)
    assert facts["form"]["name"] == "hidden"
    assert abs(facts["divergence"]) < 1e-5
    assert train(values, tmp_path).result["reference"]["kind"] == "cached"


# A teacher behind a server


@pytest.fixture
def served(tmp_path):
    """A recipe whose teacher is served by a real process, and the same teacher as a folder."""
    values = spec_of(tmp_path, "text-generation", "gpt2", "distillation") | {"output": "out"}
    with served_teacher.serving(str(tmp_path / "teacher")) as (port, process):
        values["reference"] = {"model": "teacher", "from": "served", "k": 20, "dtype": "float32",
                               "url": f"http://127.0.0.1:{port}/right/1"}  # fmt: skip
        yield values, process


def test_a_served_teacher_fills_the_cache_and_training_does_not_wait_for_it(tmp_path, served):
    """The same top-k as the folder gives, and then the same training, with the server gone."""
    values, process = served
    facts = filled(values, tmp_path)
    assert facts["form"]["name"] == "top-k"
    process.kill()
    process.join(10)
    by_server = train(values, tmp_path)
    assert by_server.result["reference"]["kind"] == "served"
    assert by_server.result["reference"]["models"] == ["teacher"]
    kept_here = {"model": "teacher", "from": "cached", "form": "top-k", "k": 20, "dtype": "float32"}
    by_folder = train(values, tmp_path, reference=kept_here, output="b")
    assert losses(by_server) == pytest.approx(losses(by_folder), rel=1e-4, abs=1e-6)
    assert facts["mass_kept"] == pytest.approx(by_folder.result["reference"]["cache"]["mass_kept"], abs=1e-6)
    assert by_server.result["objective"]["divergence"] > 1e-5


def test_a_server_that_goes_away_is_waited_for_and_then_left_with_all_that_is_done(tmp_path, served, monkeypatch):
    values, process = served
    monkeypatch.setattr(shards, "SHARD_EXAMPLES", 2)
    monkeypatch.setattr("keeltune.utils.http_client.time.sleep", lambda seconds: None)
    original, shards_of = capture.shard_of, []

    def dying(*args, **kwargs):
        if len(shards_of) == 2:
            process.kill()
            process.join(10)
        shards_of.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(capture, "shard_of", dying)
    with pytest.raises(Stopped):
        filled(values, tmp_path)
    assert len(list(tmp_path.glob(".cache/*/shard-*.safetensors"))) == 2


def test_a_broken_shard_of_a_server_that_is_gone_is_refused(tmp_path, served, monkeypatch):
    values, process = served
    monkeypatch.setattr("keeltune.utils.http_client.time.sleep", lambda seconds: None)
    filled(values, tmp_path)
    process.kill()
    process.join(10)
    (shard,) = tmp_path.glob(".cache/*/shard-00000.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StateRefused, match=r"shard-00000.safetensors has \d+ bytes.* rows: \S+jsonl:\d+, "):
        train(values, tmp_path)


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"reference__url": None}, "where the server is"),
        ({"objective__temperature": 2.0}, "at temperature 1"),
        ({"reference__form": "hidden"}, "a server gives the likeliest tokens"),
        ({"reference__from": "cached"}, "without from: served"),
        ({"reference__url": "http://user:secret@127.0.0.1:1"}, "user"),
        ({"reference__url": "http://10.1.2.3"}, "allow_host"),
    ],
)
def test_what_a_server_cannot_do_is_refused(tmp_path, changes, needle):
    values = spec_of(tmp_path, "text-generation", "gpt2", "distillation") | {"output": "out"}
    values["reference"] = {"model": "teacher", "from": "served", "url": "http://127.0.0.1:9"}
    with pytest.raises(UserError, match=needle):
        filled(values, tmp_path, **changes)


def test_classes_are_not_asked_of_a_server(tmp_path, given):
    reference = {"model": "teacher", "from": "served", "url": "http://127.0.0.1:9"}
    with pytest.raises(UserError, match="a decoder's text alone"):
        train(given, tmp_path, reference=reference)


@pytest.mark.slow  # some 100 captures in forks
def test_a_killed_capture_goes_on_to_the_same_digest(tmp_path, given, faults_library):
    """At every file call of its writing, and torn in the middle of every write."""
    (tmp_path / "r.yaml").write_text(json.dumps(given))
    places = [str(tmp_path / name) for name in ("r.yaml", "kept", "log")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.crash_points", *places], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(faults_library), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["calls"] >= 30 and found["writes"] >= 5
