"""`keeltune push`: what is sent and what never is, against a hub on this machine that fails in every way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

import keeltune as kt
from keeltune.runs import publishing
from keeltune.utils.errors import StateRefused, UserError
from keeltune.utils.progress import Display
from tests.helpers import runs
from tests.helpers.command import keeltune
from tests.helpers.hub import TOKEN, Fault, Repository, hub

NAME = "ada/reviews"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny) -> Path:
    folder = runs.make_data(tmp_path_factory.mktemp("published"))
    return runs.train(runs.spec_of("fine-tuning", tiny("bert")), folder).folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(publishing, "WAIT", 0.0)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    huggingface_hub.utils.disable_progress_bars()
    with hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        yield served


def push(run: Path, name: str = NAME, **options) -> str:
    return kt.push(run, name, display=Display(quiet=True), **options)


def test_the_model_and_its_card_are_sent_and_nothing_else(run, stub):
    assert push(run) == f"{stub.url}/{NAME}"
    sent = stub.files(NAME)
    wanted = {p.name for p in (run / "model").iterdir()}
    assert set(sent) - {".gitattributes"} == wanted
    for name in wanted - {"README.md"}:
        assert sent[name] == (run / "model" / name).read_bytes(), name
    card = sent["README.md"].decode()
    assert f'folder = "{NAME}"' in card
    assert card.replace(f'folder = "{NAME}"', 'folder = "."') == (run / "model" / "README.md").read_text("utf-8")
    assert stub.repositories[NAME].private
    assert stub.repositories[NAME].commits == [f"sentiment-analysis, fine-tuning, by keeltune {kt.__version__}"]
    assert any(f"keeltune/{kt.__version__}" in agent for agent in stub.agents)
    assert not any(word in b"".join(sent.values()) for word in (str(run).encode(), str(run.parent).encode()))


def test_what_is_sent_is_what_is_said_before(run, stub, capsys):
    kt.push(run, NAME)
    said = capsys.readouterr().err
    for name in stub.files(NAME):
        assert name in said or name == ".gitattributes"
    assert f"{NAME} (private), main" in said
    assert "in all" in said
    assert TOKEN not in said


def test_public_revision_and_message(run, stub):
    url = push(run, public=True, revision="v1", message="the first one")
    assert url == f"{stub.url}/{NAME}/tree/v1"
    assert not stub.repositories[NAME].private
    assert "model.safetensors" in stub.files(NAME, "v1")
    assert "model.safetensors" not in stub.files(NAME)
    assert stub.repositories[NAME].commits == ["the first one"]


def test_a_second_push_changes_what_has_changed_and_leaves_nothing_of_before(run, stub):
    push(run)
    stub.repositories[NAME].branches["main"]["model-00001-of-00002.safetensors"] = b"of before"
    stub.files(NAME)["LICENSE"] = b"mine"
    uploads = len([r for r in stub.heard if r.startswith("PUT /lfs/")])
    card = run / "model" / "README.md"
    card.write_text(card.read_text("utf-8") + "\nMy own words.\n", "utf-8")  # a card is for people to edit
    push(run)
    assert len([r for r in stub.heard if r.startswith("PUT /lfs/")]) == uploads
    assert b"My own words" in stub.files(NAME)["README.md"]
    assert "model-00001-of-00002.safetensors" not in stub.files(NAME)
    assert stub.files(NAME)["LICENSE"] == b"mine"
    commits = len(stub.repositories[NAME].commits)
    push(run)
    assert len(stub.repositories[NAME].commits) == commits  # nothing to say


def test_of_several_seeds_the_best_one_is_sent(tmp_path, stub, tiny):
    spec = runs.spec_of("fine-tuning", tiny("bert"), training={"max_steps": 2, "batch_size": 8, "seed": [0, 1]})
    done = runs.train(spec, runs.make_data(tmp_path))
    push(done.folder)
    assert stub.files(NAME)["model.safetensors"] == (done.model / "model.safetensors").read_bytes()


# What is refused before anything is sent


def refused(run: Path, stub, error=UserError, name: str = NAME, **options) -> str:
    with pytest.raises(error) as raised:
        push(run, name, **options)
    assert not any(r.startswith(("PUT", "POST /api/models")) for r in stub.heard)
    assert TOKEN not in str(raised.value)
    return str(raised.value)


SPOILT = {
    "weights": lambda run: append(run / "model" / "model.safetensors"),
    "a file more": lambda run: (run / "model" / "generation_config.json").write_text("{}"),
    "a file less": lambda run: (run / "model" / "tokenizer.json").unlink(),
    "another result": lambda run: edit(
        run / "result.json", lambda result: result["metrics"]["test"].update(accuracy=1)
    ),
    "no manifest": lambda run: (run / "model" / "keeltune-manifest.json").unlink(),
}


def append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def edit(file: Path, change) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


@pytest.mark.parametrize("how", SPOILT)
def test_a_model_that_the_run_did_not_write_is_not_sent(run, stub, how):
    SPOILT[how](run)
    said = refused(run, stub, StateRefused)
    assert "fix:" in said
    assert not stub.heard


def test_a_run_that_is_not_finished_is_not_sent(run, stub):
    edit(run / "result.json", lambda result: result.update(status="stopped"))
    assert "a run that is stopped" in refused(run, stub)
    assert "no run" in refused(run / "model", stub)
    assert "no such folder" in refused(run / "nowhere", stub)
    assert not stub.heard


LEAKS = {
    "a home": ("the data lay in /home/ada/clients/rows.jsonl", "/home/ada/clients/rows.jsonl"),
    "a Mac": ("see `/Users/ada/rows.csv`", "/Users/ada/rows.csv"),
    "a disk": ("from /mnt/disk2/secret-project/x", "/mnt/disk2/secret-project/x"),
    "Windows": ("from C:\\Users\\ada\\rows.csv", "C:\\Users"),
    "a token": ("HF: hf_abcdefghijklmnopqrst", "a secret"),
    "a password": ("https://ada:hunter22@example.org/x", "a secret"),
}  # fmt: skip


@pytest.mark.parametrize("what", LEAKS)
def test_paths_and_secrets_in_the_card_are_not_published(run, stub, what):
    text, found = LEAKS[what]
    card = run / "model" / "README.md"
    card.write_text(card.read_text("utf-8") + f"\n{text}\n", "utf-8")
    said = refused(run, stub)
    assert found in said
    assert "README.md · line " in said
    assert not stub.heard


@pytest.mark.parametrize("text", ["a rate of 1/2 and and/or", "see https://example.org/home/ada", "`/predict` answers"])
def test_what_is_no_path_is_none(run, stub, text):
    card = run / "model" / "README.md"
    card.write_text(card.read_text("utf-8") + f"\n{text}\n", "utf-8")
    push(run)


def test_a_path_in_the_settings_is_not_published(run, stub, monkeypatch):
    from keeltune.runs import published_files

    file = run / "model" / "config.json"
    edit(file, lambda config: config.update(_name_or_path="/data/models/base"))
    problems = list(published_files._faults(file))
    assert [p.field for p in problems] == ["_name_or_path"]
    monkeypatch.setattr("os.path.expanduser", lambda path: str(run.parent))
    words = run / "model" / "tokenizer.json"
    words.write_text(words.read_text() + f" {run.parent} ")
    assert "a folder of yours" in str(next(published_files._faults(words)))


@pytest.mark.parametrize("name", ["reviews", "a/b/c", "ada/rev iews", "ada/x.git", "../x", "ada/..", "ada/a--b"])
def test_a_name_that_is_none_is_refused(run, stub, name):
    assert "ORG/NAME" in refused(run, stub, name=name)
    assert not stub.heard


def test_without_a_token_or_a_network_nothing_is_tried(run, stub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in refused(run, stub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "hf auth login" in refused(run, stub)
    assert not stub.heard


def test_nothing_is_made_public_and_nothing_of_others_is_written_over(run, stub):
    stub.repositories[NAME] = Repository(private=False)
    assert "everybody may read it" in refused(run, stub)
    stub.repositories[NAME] = Repository(private=True)
    stub.files(NAME)["pytorch_model.bin"] = b"of others"
    assert "pytorch_model.bin" in refused(run, stub)


def test_of_a_new_repository_nothing_is_asked(run, stub):
    push(run)
    assert not any(request.startswith("GET /api/models") for request in stub.heard)


def test_who_may_not_make_repositories_may_write_to_one(run, stub):
    stub.repositories[NAME] = Repository(private=True)
    stub.faults.append(Fault("POST /api/repos/create", 403))
    push(run)
    assert "model.safetensors" in stub.files(NAME)


# Faults of the hub


REFUSALS = {
    "token unknown": (Fault("GET /api/whoami", 401), "does not know the token"),
    "no right to create": (Fault("POST /api/repos/create", 403), "may not do that"),
    "no right to write": (Fault("POST /api/models/.*/commit", 403), "may not do that"),
    "gated": (Fault("GET /api/models/ada", 403, headers={"X-Error-Code": "GatedRepo"}), "is gated"),
    "changed meanwhile": (Fault("POST /api/models/.*/commit", 412), "changed by others"),
    "conflict": (Fault("POST /api/models/.*/commit", 409), "changed by others"),
    "not there": (Fault("GET /api/models/ada", 404, headers={"X-Error-Code": "RepoNotFound"}), "is not there"),
    "always failing": (Fault("POST /api/models/.*/commit", 500, times=99), "the hub failed"),
    "always cut": (Fault("POST /api/models/.*/preupload", None, times=99), "no connection"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_hub_refuses_is_one_message(run, stub, name):
    fault, said = REFUSALS[name]
    if "GET /api/models" in fault.request:
        stub.repositories[NAME] = Repository(private=True)
    stub.faults.append(fault)
    with pytest.raises(UserError) as raised:
        push(run)
    assert said in str(raised.value)
    assert "fix:" in str(raised.value)
    assert TOKEN not in str(raised.value)
    fault.times = 0
    push(run)  # the same command goes on
    assert stub.files(NAME)["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()


PASSING = ["GET /api/whoami", "POST /api/repos/create", "GET /api/models/", "/preupload/", "/lfs/objects/batch",
           "PUT /lfs/", "/lfs-verify", "/commit/"]  # fmt: skip


def _faults() -> list:
    """Each request once and each of the three faults at several of them; the other pairs go through the same code."""
    chosen = {(place % 3, request) for place, request in enumerate(PASSING)} | {(2, "/commit/"), (2, "PUT /lfs/")}
    return [
        pytest.param(request, status, marks=[] if (place, request) in chosen else pytest.mark.wide)
        for request in PASSING
        for place, status in enumerate((500, 503, None))
    ]


@pytest.mark.parametrize(("request_like", "status"), _faults())
def test_what_passes_is_waited_for(run, stub, request_like, status):
    stub.faults.append(Fault(request_like, status, times=2 if status else 1))
    if request_like == "GET /api/models/":
        stub.repositories[NAME] = Repository(private=True)
    push(run)
    assert stub.faults[0].times == 0
    assert stub.files(NAME)["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    assert len(stub.repositories[NAME].commits) == 1


def test_a_push_that_broke_off_does_not_send_again_what_is_there(run, stub):
    weights = next(p for p in json.loads((run / "model" / "keeltune-manifest.json").read_text())["files"].items()
                   if p[0] == "model.safetensors")[1]["sha256"]  # fmt: skip
    stub.faults.append(Fault(f"PUT /lfs/{weights}", None, times=999))
    with pytest.raises(UserError, match="goes on"):
        push(run)
    first = [r for r in stub.heard if r.startswith("PUT /lfs/") and weights not in r]
    assert len(first) == 1  # the tokenizer
    assert not stub.repositories[NAME].commits
    stub.faults.clear()
    push(run)
    assert [r for r in stub.heard if r.startswith("PUT /lfs/") and weights not in r] == first


def test_the_command(run, stub):
    environment = {**os.environ, "HF_ENDPOINT": stub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    call = [sys.executable, "-m", "keeltune", "push", str(run), NAME]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{stub.url}/{NAME}\n"
    assert TOKEN not in done.stderr
    assert "model.safetensors" in stub.files(NAME)


def test_the_command_refuses_with_3(run, stub, monkeypatch, capsys):
    (run / "model" / "config.json").write_text("{}")
    assert keeltune(monkeypatch, "push", run, NAME) == 3
    said = capsys.readouterr().err
    assert "config.json" in said and "Traceback" not in said
