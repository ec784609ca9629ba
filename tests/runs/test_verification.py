"""`keeltune verify`: each thing that a run was made of, or wrote, is named as soon as one bit of it changes."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import keeltune as kt
from keeltune import recipe
from keeltune.models import sealed_model
from keeltune.runs import digests, run
from keeltune.runs.verification import Finding, verify
from keeltune.utils import tensor_store
from keeltune.utils.errors import UserError
from tests.helpers import families
from tests.helpers.command import keeltune
from tests.helpers.interruption import Killed, kill_at
from tests.helpers.models import save_tiny
from tests.helpers.runs import QUIET, make_data, spec_of, train


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A project: data, two models, a cache, and a finished run with an adapter in `out`."""
    folder = make_data(tmp_path_factory.mktemp("project"))
    save_tiny(folder / "student")
    save_tiny(folder / "teacher", seed=5)
    spec = spec_of("distillation", Path("student"), reference={"model": "teacher", "from": "cached"})
    spec["training"] |= {"lora": {"rank": 2}, "save_steps": 1, "keep_checkpoints": True}
    spec["data"] |= {"unlabeled": "pool.jsonl"}
    train(spec, folder)
    return folder


@pytest.fixture
def project(made, tmp_path) -> Path:
    """A copy of it, which may be changed: nothing in it knows where it lies."""
    return Path(shutil.copytree(made, tmp_path / "moved"))


def broken(path: Path) -> list[Finding]:
    return [finding for finding in verify(path) if not finding.is_sound]


@contextmanager
def flipped(file: Path, seed: object = 0) -> Iterator[None]:
    """Within, one bit of a file is another one."""
    content, dice = file.read_bytes(), random.Random(f"{file.name} {seed}")
    changed = bytearray(content)
    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    file.write_bytes(changed)
    try:
        yield
    finally:
        file.write_bytes(content)


def test_all_is_as_written(project):
    found = verify(project / "out")
    assert [finding for finding in found if not finding.is_sound] == []
    names = {finding.name for finding in found}
    assert {
        "result.json", "recipe.yaml", "log.jsonl", "model/model.safetensors", "model/config.json",
        f"model/{sealed_model.MANIFEST}", "adapter/adapter_model.safetensors", "predictions/test.jsonl",
        "predictions/before/validation.jsonl", "checkpoints/run.json", "checkpoints/checkpoint-3",
        "data.train: ../train.jsonl", "data.unlabeled: ../pool.jsonl", "model: ../student/model.safetensors",
        "reference: ../teacher/model.safetensors",
    } <= names  # fmt: skip
    assert any(name.startswith("reference.cache: ") and name.endswith("/shard-00000.safetensors") for name in names)


def things(project: Path) -> list[tuple[str, Path]]:
    """Each file that a run answers for, with the name under which it must be reported."""
    out, found = project / "out", []
    for finding in verify(out):
        name = finding.name.partition(": ")[2] or finding.name
        path = out / name
        if path.is_dir():
            found += [(finding.name, file) for file in path.rglob("*") if file.is_file()]
        else:
            found.append((finding.name, path))
    return found


def test_every_flipped_bit_is_named(project):
    tried = things(project)
    assert len(tried) > 35
    for name, file in tried:
        with flipped(file):
            named = [finding.name for finding in broken(project / "out")]
        assert name in named, file
        if name == "result.json":  # by which everything else is known
            continue
        assert all(one == name or "manifest" in file.name or "run.json" in file.name for one in named), (file, named)
    assert broken(project / "out") == []


def test_a_result_that_is_no_result_any_more_is_named(project):
    file = project / "out" / "result.json"
    content = file.read_bytes()
    for place in (0, content.index(b'"metrics"'), len(content) // 2, len(content) - 2):
        file.write_bytes(content[:place] + b"\0" + content[place + 1 :])
        assert [finding.name for finding in broken(project / "out")] == ["result.json"]
    file.write_bytes(content)
    assert broken(project / "out") == []


def test_every_missing_file_is_named(project):
    for name, file in things(project):
        aside = file.rename(project / "aside")
        states = {finding.name: finding.state for finding in broken(project / "out")}
        aside.rename(file)
        assert states.get(name) in ("missing", "differs"), file
    assert broken(project / "out") == []


def test_a_changed_number_of_the_result_is_found(project):
    file = project / "out" / "result.json"
    result = json.loads(file.read_text())
    result["metrics"]["test"]["accuracy"] += 0.01
    file.write_text(json.dumps(result))
    assert [finding.name for finding in broken(project / "out")] == ["result.json"]


def test_files_that_are_none_of_the_runs_are_named(project):
    (project / "out" / "predictions" / "other.jsonl").write_text("{}\n")
    (project / "out" / "model" / "chat_template.jinja").write_text("x")
    (project / "out" / "model" / "README.md").write_text("# My own words")  # a card is for people to edit
    (project / "out" / "report.html").unlink()  # made again from the result
    added = {finding.name: finding.state for finding in broken(project / "out")}
    assert added == {"predictions/other.jsonl": "added", "model/chat_template.jinja": "added"}


def test_a_model_by_itself(project):
    model = project / "out" / "model"
    assert verify(model)[0].name == sealed_model.MANIFEST
    assert broken(model) == []
    for file in model.iterdir():
        with flipped(file):
            named = [finding.name for finding in broken(model)]
        assert named == ([] if file.suffix == ".md" else [file.name])
    with pytest.raises(UserError, match="nothing says what it should hold"):
        verify(project / "student")


def test_a_cache_by_itself(project):
    (folder,) = (project / ".cache").iterdir()
    names = [finding.name for finding in verify(folder)]
    assert names[:2] == [tensor_store.MANIFEST, "shard-00000.safetensors"]
    for name in names:
        with flipped(folder / name):
            assert [finding.name for finding in broken(folder)] == [name]
    (folder / "shard-00000.safetensors").unlink()
    assert [(finding.name, finding.state) for finding in broken(folder)] == [("shard-00000.safetensors", "missing")]


def test_another_cache_in_its_place_is_found(project):
    (folder,) = (project / ".cache").iterdir()
    shutil.rmtree(folder)
    (finding,) = broken(project / "out")
    assert (finding.name.partition(": ")[0], finding.state) == ("reference.cache", "missing")


def test_the_command_says_it_line_by_line(project, monkeypatch, capsys):
    assert keeltune(monkeypatch, "verify", project / "out") == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) == len(verify(project / "out")) + 1
    assert "all as written" in said.splitlines()[-1]
    with flipped(project / "out" / "model" / "model.safetensors"):
        assert keeltune(monkeypatch, "verify", project / "out") == 3
        said = capsys.readouterr().out
        assert "differs  model/model.safetensors: model.safetensors has the SHA-256" in said
        assert "--resume" in said
        assert "1 of " in said
        assert keeltune(monkeypatch, "verify", project / "out", "--json") == 3
        found = json.loads(capsys.readouterr().out)
    assert found["sound"] is False
    assert [one["name"] for one in found["findings"] if one["state"] != "same"] == ["model/model.safetensors"]
    assert keeltune(monkeypatch, "verify", project / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sound"] is True
    assert keeltune(monkeypatch, "verify", project / "nowhere") == 2
    assert keeltune(monkeypatch, "verify", project) == 2
    assert callable(kt.verify)


def test_what_uses_a_changed_model_refuses_it(project, monkeypatch, capsys):
    """Each of them with status 3, by the file's name and both digests; and all of them take it when it is mended."""
    out, data = project / "out", project / "test.jsonl"
    spec = {**spec_of("fine-tuning", out, output="next"), "reference": None}
    (project / "model.yaml").write_text(json.dumps({n: v for n, v in spec.items() if v is not None}))
    spec |= {"method": "distillation", "model": "student", "reference": "out/model", "output": "taught"}
    (project / "reference.yaml").write_text(json.dumps(spec))
    calls = (
        ("evaluate", out, "--data", data),
        ("evaluate", out / "model", "--data", data, "--task", "sentiment-analysis"),
        ("predict", out, "--input", data, "--output", project / "answers.jsonl"),
        ("check", project / "model.yaml"),
        ("train", project / "reference.yaml"),
        ("compare", out, out, "--output", project / "page.html"),
    )
    for call in calls:
        with flipped(out / "model" / "model.safetensors"):
            assert keeltune(monkeypatch, *call) == 3, call
        said = capsys.readouterr().err
        assert "model.safetensors has the SHA-256 " in said
        assert "was written" in said
        assert "recipe.yaml --resume" in said.replace("\n", "")
    for changed in (out / "predictions" / "test.jsonl", out / "model" / "config.json"):
        for number in range(3):
            with flipped(changed, number):
                assert keeltune(monkeypatch, *calls[-1]) == 3
    for call in (calls[0], calls[3], calls[5]):
        assert keeltune(monkeypatch, *call) == 0
    capsys.readouterr()


def test_a_run_that_was_killed_has_its_checkpoints(tiny, tmp_path, monkeypatch):
    spec = spec_of("fine-tuning", tiny("bert"))
    spec["training"] |= {"save_steps": 1}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 2)
        train(spec, make_data(tmp_path))
    found = {finding.name: finding.state for finding in verify(tmp_path / "out")}
    assert set(found.values()) == {"same"}
    assert {"checkpoints/checkpoint-1", "checkpoints/checkpoint-2", "checkpoints/run.json"} <= set(found)


def test_pictures_are_named_one_by_one(tmp_path):
    values = families.spec(tmp_path, "image-captioning", "vit gpt2", "fine-tuning") | {"output": "out"}
    done = run.train(recipe.from_dict(values, tmp_path), display=QUIET)
    assert done.result["digests"]["media"]["files"] == 6
    assert [finding.name for finding in verify(done.folder)][-1] == "6 pictures and recordings"
    assert broken(done.folder) == []
    pictures = sorted((tmp_path / "pictures").iterdir())
    (tmp_path / "aside").write_bytes(pictures[0].read_bytes())
    shutil.copy(pictures[1], pictures[0])
    pictures[2].unlink()
    states = {Path(finding.name).name: finding.state for finding in broken(done.folder)}
    assert states == {pictures[0].name: "differs", pictures[2].name: "missing"}


def test_seeds_are_verified_each(tiny, tmp_path):
    spec = spec_of("fine-tuning", tiny("bert"))
    spec["training"] |= {"seed": [0, 1]}
    done = train(spec, make_data(tmp_path))
    names = {finding.name for finding in verify(done.folder)}
    assert {"result.json", "recipe.yaml", "seed-0/model/model.safetensors", "seed-1/result.json"} <= names
    assert broken(done.folder) == []
    with flipped(done.folder / "seed-1" / "log.jsonl"):
        assert [finding.name for finding in broken(done.folder)] == ["seed-1/log.jsonl"]


@pytest.mark.parametrize(
    "value",
    [[], {"inputs": 5}, {"inputs": {}, "files": {"a": 5}}, {"inputs": {"model": [{}]}, "files": {}}, {"files": {}}],
)
def test_digests_of_another_shape_are_named(project, value):
    file = project / "out" / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "digests": value}))
    found = broken(project / "out")
    assert {finding.name for finding in found} == {"result.json"}
    assert all(f"{file} · digests" in finding.found for finding in found)


def test_the_results_own_digest_does_not_depend_on_its_spelling(made):
    result = json.loads((made / "out" / "result.json").read_text())
    assert digests.own(json.loads(json.dumps(result, sort_keys=True))) == result["digests"]["result"]
