"""The teacher gate: bad teachers called out with figures, good ones not, every kind of answer, and training unmoved."""

from __future__ import annotations

import html
import json
import random
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, f1_score

from keeltune import recipe
from keeltune.data import dataset
from keeltune.evaluation import bootstrap, prediction, teacher_report
from keeltune.evaluation.calibration import Calibration, calibration
from keeltune.evaluation.scores import score
from keeltune.models import sealed_model
from keeltune.objective.predictions import IGNORED
from keeltune.reports.findings import teacher as teacher_findings
from keeltune.runs import run, run_folder
from keeltune.training import build
from keeltune.training.preparation import prepare
from keeltune.utils.progress import Display
from tests.helpers import taggers, writers
from tests.helpers.models import save_tiny
from tests.helpers.runs import (
    encoder,
    lines,
    other_order,
    other_tokenizer,
    reviews,
    spec_of,
    stock_probabilities,
    write_rows,
)
from tests.helpers.runs import several as as_sets
from tests.helpers.runs import weights as weights_of

QUIET = Display(quiet=True)
FLIPPED = 30
"""Of the 200 validation rows, whose labels are turned round: the best teacher is right 85 times of 100, and surer."""
NAMES = ["negative", "positive"]


def fitted(spec: dict, folder: Path, display: Display = QUIET, **changes) -> run_folder.Run:
    return run.train(recipe.from_dict({**spec, **changes}, folder), display=display)


def gate_of(spec: dict, folder: Path, **changes) -> dict:
    """The gate alone, without the training behind it."""
    material = prepare.prepare(recipe.from_dict({**spec, **changes}, folder))
    job = build.build(material)
    rows = material.rows["validation"]
    start = None
    if not job.student.fresh:
        answers = prediction.predict(job.model, material.task, material.encoded["validation"])
        start = score(material.task, answers, rows)
    found = teacher_report.teacher_report(job, start, QUIET)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


@pytest.fixture(scope="module")
def school(tmp_path_factory) -> Path:
    """Data whose rows are easy, a good teacher and one that learnt from shuffled labels."""
    folder = tmp_path_factory.mktemp("school")
    rows = reviews(500, seed=1)
    turned = [{**row, "label": NAMES[row["label"] == "negative"]} for row in rows[300 : 300 + FLIPPED]]
    shuffled = [row["label"] for row in rows[:300]]
    random.Random(0).shuffle(shuffled)
    write_rows(folder / "train.jsonl", rows[:300])
    write_rows(folder / "validation.jsonl", turned + rows[300 + FLIPPED :])
    write_rows(folder / "shuffled.jsonl", [{**row, "label": label} for row, label in zip(rows, shuffled, strict=False)])
    spec = spec_of("fine-tuning", save_tiny(folder / "start"))
    spec["training"] |= {"epochs": 4, "learning_rate": 3e-3, "batch_size": 16}
    for name, train in (("good", "train"), ("bad", "shuffled")):
        fitted(spec, folder, output=f"{name}-run", data={"train": f"{train}.jsonl", "validation": None})
        shutil.copytree(folder / f"{name}-run" / "model", folder / name)
        (folder / name / sealed_model.MANIFEST).unlink()  # its weights are changed below
    return folder


def distilled(folder: Path, model: str, reference, output: str = "out") -> dict:
    spec = spec_of("distillation", folder / model, reference=reference, output=output)
    spec["data"] = {"train": "train.jsonl", "validation": "validation.jsonl"}
    spec["training"] |= {"max_steps": 2, "epochs": None}
    return spec


def probabilities(folder: Path, model: str) -> np.ndarray:
    return stock_probabilities(folder / model, [row["text"] for row in lines(folder / "validation.jsonl")])


def golds(folder: Path) -> list[int]:
    return [NAMES.index(row["label"]) for row in lines(folder / "validation.jsonl")]


def test_a_teacher_of_shuffled_labels_is_called_out_with_figures(school, capsys):
    spec = distilled(school, "good", "bad", "worse")
    finished = fitted(spec, school, display=Display())
    found = finished.result["reference"]["gate"]
    gold, theirs, ours = golds(school), probabilities(school, "bad"), probabilities(school, "good")
    teacher, student = (accuracy_score(gold, table.argmax(1)) for table in (theirs, ours))
    assert student == pytest.approx(1 - FLIPPED / 200)
    assert found["rows"] == 200
    assert found["metric"] == "accuracy"
    assert found["teacher"]["accuracy"] == pytest.approx(teacher)
    assert found["teacher"]["macro_f1"] == pytest.approx(f1_score(gold, theirs.argmax(1), average="macro"))
    assert found["teacher"]["loss"] == pytest.approx(-np.log(theirs[np.arange(200), gold]).mean(), rel=1e-5)
    assert found["student"] == finished.result["metrics"]["before"]["validation"]
    assert found["members"] == []
    right = np.stack([np.equal(table.argmax(1), gold) for table in (theirs, ours)], axis=1).astype(float)
    draws = bootstrap.bootstrap(right) / 200
    assert found["difference"] == pytest.approx(np.percentile(draws[:, 0] - draws[:, 1], [2.5, 97.5]).tolist())
    assert found["difference"][1] < 0
    (warning,) = [line for line in teacher_findings.findings(found) if line.startswith("warning: ")]
    assert f"accuracy {teacher:.3f} (" in warning
    assert "the student's start 0.850 (" in warning
    low, high = found["difference"]
    assert f"worse than the student's start by {-high:.3f} to {-low:.3f}" in warning
    assert "the teacher ../bad is" in warning
    said = capsys.readouterr().err
    assert "scoring the teacher 200/200" in said
    assert warning in said
    assert warning in html.unescape((finished.folder / "report.html").read_text(encoding="utf-8"))


def test_a_good_teacher_is_not(school):
    found = gate_of(distilled(school, "start", "good"), school)
    assert found["difference"][0] > 0
    assert found["over_floor"][0] > 0
    assert not any("warning" in line for line in teacher_findings.findings(found))
    assert "the student's start 0." in teacher_findings.findings(found)[0]
    equal = gate_of(distilled(school, "good", "good"), school)  # a teacher that is the student's own start
    assert equal["difference"] == [0, 0]
    assert not any("warning" in line for line in teacher_findings.findings(equal))


def test_a_new_head_has_no_start(school, tiny, tmp_path):
    """Then the commonest answer is what a teacher must beat at least."""
    blank = encoder(tmp_path / "encoder", tiny)
    found = gate_of(distilled(school, "start", "bad", "new"), school, model=str(blank))
    assert found["student"] is found["student_intervals"] is found["difference"] is None
    (warning,) = [line for line in teacher_findings.findings(found) if line.startswith("warning: ")]
    assert "not measurably better than the answer" in warning
    assert "the student's head is new" in warning
    (name, count), *_ = Counter(NAMES[g] for g in golds(school)).most_common()
    assert found["floor"] == {"answer": name, "accuracy": count / 200}
    good = gate_of(distilled(school, "start", "good", "new"), school, model=str(blank))
    assert not any("warning" in line for line in teacher_findings.findings(good))


def test_an_over_confident_teacher_gets_its_temperature(school):
    """The figures are those of the stock model; the offer, taken, is the end of it."""
    found = gate_of(distilled(school, "start", "good"), school)
    log_probs = torch.tensor(probabilities(school, "good")).log()
    expected = calibration(log_probs, torch.tensor(golds(school)))
    for name, value in vars(expected).items():  # which of two nearly equal confidences is the larger moves the errors
        assert found["calibration"][name] == pytest.approx(value, rel=1e-4, abs=0.02 if "ece" in name else 0), name
    expected = Calibration(**found["calibration"])
    temperature = found["calibration"]["temperature"]
    assert temperature > 1.3
    offer = teacher_findings.findings(found)[1]
    assert f"over-confident: ECE {expected.ece:.2f}, {expected.ece_after:.2f} at temperature {temperature:.3g}" in offer
    assert "(fitted on 200 predictions)" in offer
    assert f"temperature: {temperature:.3g}}}" in offer
    taken = {"model": "good", "temperature": temperature}
    after = gate_of(distilled(school, "start", taken), school)
    assert after["temperature"] == temperature
    assert after["calibration"]["temperature"] == pytest.approx(1.0, abs=1e-4)
    assert after["calibration"]["ece"] == pytest.approx(expected.ece_after, abs=0.02)
    assert after["teacher"]["accuracy"] == found["teacher"]["accuracy"]
    assert after["teacher"]["loss"] < found["teacher"]["loss"]
    assert len(teacher_findings.findings(after)) == 1
    half = gate_of(distilled(school, "start", {"model": "good", "temperature": temperature / 2}), school)
    assert (
        f"temperature: {temperature:.3g}}}" in teacher_findings.findings(half)[1]
    )  # of the model, not of what is made of it


def test_a_temperature_reaches_training_before_everything_else(school):
    """A teacher at temperature T trains as one whose last layer was divided by T; a cold one does not."""
    cooled = shutil.copytree(school / "good", school / "cooled")
    stored = load_file(cooled / "model.safetensors")
    stored |= {name: stored[name] / 2.5 for name in ("classifier.weight", "classifier.bias")}
    save_file(stored, cooled / "model.safetensors", metadata={"format": "pt"})

    def spec_for(reference, output: str) -> dict:
        spec = distilled(school, "start", reference, output) | {"objective": {"temperature": 1.5}}
        return spec | {"data": {"train": "train.jsonl"}}

    def heard(reference) -> torch.Tensor:
        material = prepare.prepare(recipe.from_dict(spec_for(reference, "unused"), school))
        batch = material.task.collate(material.main_stream[:20])
        return build.build(material).reference.rows(batch).log_probs(slice(None), 1.5)

    by_field, by_layer, hot = (
        weights_of(fitted(spec_for(reference, f"t-{number}"), school))
        for number, reference in enumerate(({"model": "good", "temperature": 2.5}, "cooled", "good"))
    )
    assert max((by_field[name] - by_layer[name]).abs().max().item() for name in hot) < 1e-6
    assert max((by_field[name] - hot[name]).abs().max().item() for name in hot) > 1e-4
    two = {"model": ["good", "bad"], "weight": [3.0, 1.0]}  # each is calibrated first, then they are averaged
    cooled_two = heard({**two, "model": ["cooled", "bad"]})
    torch.testing.assert_close(heard({**two, "temperature": [2.5, 1.0]}), cooled_two, rtol=0, atol=1e-5)
    assert (heard(two) - cooled_two).abs().max() > 0.1
    own = str(school / "start")  # also where the teacher is the student's start
    expected = (heard(own) * 1.5 / 2.5 / 1.5).log_softmax(-1)
    torch.testing.assert_close(heard({"model": own, "temperature": 2.5}), expected, rtol=0, atol=1e-5)


def test_each_of_several_and_their_average(school):
    copies = [other_order(school / "good", school / "turned"), other_tokenizer(school / "bad", school / "renumbered")]
    reference = {"model": [str(copy) for copy in copies], "weight": [1.0, 3.0], "temperature": [2.0, 1.0]}
    found = gate_of(distilled(school, "good", reference), school)
    gold = golds(school)
    good = torch.tensor(probabilities(school, "good")).log().div(2.0).softmax(-1).numpy()
    tables = [good, probabilities(school, "bad")]
    tables.append(0.25 * tables[0] + 0.75 * tables[1])
    for verdict, table, name in zip(
        [*found["members"], found], tables, [*(f"../{copy.name}" for copy in copies), None], strict=True
    ):
        assert verdict["model"] == name
        assert verdict["teacher"]["accuracy"] == pytest.approx(accuracy_score(gold, table.argmax(1)))
        assert verdict["teacher"]["loss"] == pytest.approx(-np.log(table[np.arange(200), gold]).mean(), rel=1e-4)
        expected = calibration(torch.tensor(table).log(), torch.tensor(gold))
        assert verdict["calibration"]["brier"] == pytest.approx(expected.brier, rel=1e-4)
    assert [verdict["temperature"] for verdict in (*found["members"], found)] == [2.0, 1.0, None]
    warned = [line for line in teacher_findings.findings(found) if line.startswith("warning: ")]
    assert any("../renumbered" in line for line in warned)
    assert not any("../turned" in line for line in warned)
    assert any("the average of the teachers" in line for line in teacher_findings.findings(found))


def test_several_labels_a_row(school, tmp_path):
    for name in ("train", "validation"):
        write_rows(tmp_path / f"{name}.jsonl", as_sets(lines(school / f"{name}.jsonl")))
    save_tiny(tmp_path / "start", labels=("glad", "lengthy"))
    spec = spec_of("fine-tuning", tmp_path / "start", task="text-classification")
    spec["data"] = {"train": "train.jsonl", "validation": "validation.jsonl", "multi_label": True}
    spec["training"] |= {"epochs": 2, "learning_rate": 3e-3, "batch_size": 16}
    teacher = fitted(spec, tmp_path, output="teacher").model
    found = gate_of({**spec, "method": "distillation", "reference": str(teacher)}, tmp_path)
    rows = lines(tmp_path / "validation.jsonl")
    gold = np.array([[int(name in row["label"]) for name in ("glad", "lengthy")] for row in rows])
    table = stock_probabilities(teacher, [row["text"] for row in rows], multi_label=True)
    assert found["metric"] == "micro_f1"
    assert found["teacher"]["micro_f1"] == pytest.approx(f1_score(gold, table > 0.5, average="micro"))
    assert found["calibration"]["predictions"] == gold.size
    both = torch.tensor(np.stack([1 - table, table], axis=-1)).reshape(-1, 2).log()
    expected = calibration(both, torch.tensor(gold).reshape(-1))
    assert found["calibration"]["brier"] == pytest.approx(expected.brier, rel=1e-4)
    assert found["calibration"]["ece"] == pytest.approx(expected.ece, abs=1e-3)
    assert isinstance(found["floor"]["answer"], list)


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_tags(tmp_path, architecture):
    """The second teacher has other tokens and reads less of a long row: only what it reads is measured."""
    taggers.folder(tmp_path / "student", "bert", 0)
    taggers.folder(tmp_path / "teacher", architecture, 1)
    if architecture != "bert":
        file = tmp_path / "teacher" / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 14}))
    rows = [row.fields for row in taggers.rows()]
    for name in ("train", "validation"):
        write_rows(tmp_path / f"{name}.jsonl", rows)
    spec = {
        "task": "semantic-role-labeling", "method": "distillation", "model": "student", "reference": "teacher",
        "data": {name: f"{name}.jsonl" for name in ("train", "validation")},
        "training": {"precision": "fp32"}, "output": "out",
    }  # fmt: skip
    found = gate_of(spec, tmp_path)
    job = build.build(prepare.prepare(recipe.from_dict(spec, tmp_path)))
    task, teacher = job.material.task, job.reference
    reader = task if teacher.entry is None else task.companions[teacher.entry]
    read = [reader.encode(row)[0] for row in job.material.rows["validation"]]
    words = sum(len(row["tokens"]) for row in rows)
    if architecture == "bert":
        answers = prediction.predict(teacher.model, task, job.material.encoded["validation"])
        expected = score(task, answers, job.material.rows["validation"])
        assert found["teacher"] == pytest.approx(expected.metrics, rel=1e-6)
        assert found["calibration"]["predictions"] == words
    else:
        assert sum(len(e.targets) for e in read) < words
        assert found["calibration"]["predictions"] == sum(len(e.targets) for e in read)
    batch = reader.collate(read)
    with torch.no_grad():
        heard = reader.rows(reader.forward(teacher.model, batch), batch).log_probs(slice(None))
    names = [str(job.material.references[0].names[i]) for i in range(heard.shape[1])]
    order = torch.tensor([names.index(name) for name in task.settings.labels])
    targets = torch.tensor([task.index[reader.names[t]] for t in batch["targets"].tolist() if t != IGNORED])
    assert found["calibration"]["brier"] == pytest.approx(calibration(heard[:, order], targets).brier, rel=1e-5)
    assert found["floor"] is None


def test_written_answers(tmp_path):
    """Each teacher's texts and loss are its own; their average weighs texts and writes none: its loss alone."""
    for seed, name in enumerate(("student", "one", "two")):
        writers.folder_of(*writers.writer("marian", seed=seed), tmp_path / name)
    for name in ("train", "validation"):
        write_rows(tmp_path / f"{name}.jsonl", [row.fields for row in writers.rows()])
    spec = {
        "task": "translation", "method": "distillation", "model": "student", "reference": ["one", "two"],
        "data": {name: f"{name}.jsonl" for name in ("train", "validation")},
        "generation": {"max_new_tokens": 5}, "training": {"precision": "fp32"}, "output": "out",
    }  # fmt: skip
    found = gate_of(spec, tmp_path)
    job = build.build(prepare.prepare(recipe.from_dict(spec, tmp_path)))
    task, encoded, rows = job.material.task, job.material.encoded["validation"], job.material.rows["validation"]
    for verdict, member in zip(found["members"], job.reference.members, strict=True):
        scores = score(task, prediction.predict(member.model, task, encoded), rows)
        assert verdict["teacher"] == pytest.approx(scores.metrics, rel=1e-5)
        assert verdict["metric"] == "bleu"
        assert verdict["calibration"] is None
    batch = task.collate([example for row in encoded for example in row])
    loss = task.cross_entropy(job.reference.rows(batch), batch).item() / task.counts(batch)[0]
    assert found["teacher"] == {"loss": pytest.approx(loss, rel=1e-5)}
    assert found["metric"] == "loss"
    assert len(found["difference"]) == 2
    assert teacher_findings.findings(found)


def test_at_most_so_many_rows_and_the_students_on_the_same(school, monkeypatch):
    monkeypatch.setattr(teacher_report, "ROWS", 50)
    found = gate_of(distilled(school, "good", "bad"), school)
    places = dataset.subset(200, 50)
    assert len(set(places)) == 50
    assert all(a < b for a, b in pairwise(places))
    gold = np.array(golds(school))[places]
    assert found["rows"] == found["calibration"]["predictions"] == 50
    for name, side in (("good", "student"), ("bad", "teacher")):
        expected = accuracy_score(gold, probabilities(school, name)[places].argmax(1))
        assert found[side]["accuracy"] == pytest.approx(expected)


def test_scores_are_float32_whatever_the_training_is(school, monkeypatch):
    """Or a teacher that is the student's start would lose to it by what bf16 costs, on every row."""
    monkeypatch.setattr(teacher_report, "ROWS", 50)  # other batches than those of the student's start
    exact = gate_of(distilled(school, "good", "good"), school)
    spec = distilled(school, "good", "good")
    spec["training"] |= {"precision": "bf16"}
    found = gate_of(spec, school)
    assert found["teacher"] == exact["teacher"]
    assert found["teacher"]["loss"] == pytest.approx(found["student"]["loss"], rel=1e-5)
    found |= {"metric": "loss", "difference": [-2e-7, -1e-7]}  # the rounding of other batches is no difference
    assert not any("warning" in line for line in teacher_findings.findings(found))


def test_only_teachers_with_validation_rows_are_judged(school):
    spec, train = distilled(school, "good", None), {"train": "train.jsonl", "validation": None}
    assert gate_of({**spec, "method": "fine-tuning"}, school) is None
    assert gate_of({**spec, "method": "cross-domain"}, school) is None
    unseen = build.build(prepare.prepare(recipe.from_dict({**spec, "reference": "bad", "data": train}, school)))
    assert teacher_report.teacher_report(unseen, None, QUIET) is None
    assert teacher_findings.findings(None) == []


def test_training_is_the_same_without_it(school, monkeypatch):
    """To the bit; and nobody's random state or mode is touched."""
    spec = distilled(school, "start", ["good", "bad"])
    with_gate = fitted(spec, school, output="with")
    assert with_gate.result["reference"]["gate"] is not None
    states = []
    original = teacher_report.teacher_report

    def watched(job, start, display):
        before = [m.training for m in job.model.modules()], torch.get_rng_state(), np.random.get_state()[1].copy()
        found = original(job, start, display)
        after = [m.training for m in job.model.modules()], torch.get_rng_state(), np.random.get_state()[1].copy()
        states.append((before, after))
        return found

    monkeypatch.setattr(teacher_report, "teacher_report", watched)
    fitted(spec, school, output="watched")
    (((modes, torchs, numpys), (modes_after, torchs_after, numpys_after)),) = states
    assert modes == modes_after
    assert torchs.equal(torchs_after)
    assert (numpys == numpys_after).all()
    monkeypatch.setattr(teacher_report, "teacher_report", lambda job, start, display: None)
    without = fitted(spec, school, output="without")
    assert without.result["reference"]["gate"] is None
    left, right = weights_of(with_gate), weights_of(without)
    assert left.keys() == right.keys()
    assert all(left[name].equal(right[name]) for name in left)
    assert with_gate.result["metrics"] == without.result["metrics"]
