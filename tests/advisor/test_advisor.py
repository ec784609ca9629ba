"""The advisor: which arms a recipe's material allows, decisions with known answers, and a race that can be stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import norm

from keeltune import recipe
from keeltune.advisor import candidates, pilots, race, standings, verdict
from keeltune.advisor.candidates import PLAIN, Resources, candidate_arms, resources_of, without_columns
from keeltune.advisor.verdict import Scored, decided, ranked, turning_points
from keeltune.recipe.fields import Report
from keeltune.reports import advice_page
from keeltune.runs import run, run_folder
from keeltune.training.preparation import prepare
from keeltune.utils.errors import OutOfResources, StateRefused, Stopped, UserError
from keeltune.utils.messages import Message
from keeltune.utils.progress import Display
from keeltune.utils.text import HAN
from tests.helpers.pages import check_chinese, check_page
from tests.helpers.runs import lines, make_data, reviews, spec_of, write_rows

QUIET = Display(quiet=True)


@pytest.fixture
def data(tmp_path):
    make_data(tmp_path)
    rows = reviews(230, seed=41)
    write_rows(tmp_path / "validation.jsonl", rows[:60])
    write_rows(tmp_path / "old-validation.jsonl", rows[60:120])
    write_rows(tmp_path / "old-train.jsonl", rows[120:180])
    write_rows(tmp_path / "pool.jsonl", [{"text": row["text"]} for row in rows[180:]])
    return tmp_path


def made(tiny, folder, method="fine-tuning", source=(), **changes):
    values = spec_of(method, tiny("bert"), output="advice", **changes)
    values["training"] = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "precision": "fp32"}
    files = {"validation": "old-validation.jsonl", "train": "old-train.jsonl"}
    if source:
        values["data"] = {**values["data"], "source": {name: files[name] for name in source}}
    return recipe.from_dict(values, folder)


def names(recipe_, have=None):
    arms, out = candidate_arms(recipe_, have or resources_of(recipe_, {}))
    return [arm.name for arm in arms], out


# Feasibility


def test_labelled_rows_alone_allow_plain_fine_tuning_alone(tiny, data):
    found, out = names(made(tiny, data))
    assert found == [PLAIN]
    assert "no teacher" in out["distilled"]
    assert "data.source.validation" in out["anchored"]


def test_everything_that_is_there_is_an_arm(tiny, data):
    base = made(tiny, data, source=("validation", "train"))
    have = resources_of(base, {"teacher": str(tiny("bert", seed=1)), "pool": "pool.jsonl"})
    assert names(base, have)[0] == [
        PLAIN, "interpolated", "replay", "anchored", "anchored on source inputs", "distilled with a pool",
        "pseudo-labels",
    ]  # fmt: skip
    assert names(base, Resources(teacher=str(tiny("bert", seed=1))))[0][-1] == "distilled"


def test_a_new_head_rules_the_anchors_out_with_the_reason(tiny, data):
    values = spec_of("fine-tuning", tiny("bert", labels=("a", "b", "c")), output="advice")
    values["data"]["source"] = {"validation": "old-validation.jsonl"}
    values["data"]["labels"] = ["negative", "positive"]
    found, out = names(recipe.from_dict(values, data))
    assert "anchored" not in found
    assert "anchored" in out


def test_the_recipes_own_settings_stay_with_their_arm(tiny, data):
    held = made(tiny, data, "cross-domain", ("validation",), objective={"divergence": "forward-kl", "weight": 0.3})
    arms = {arm.name: arm.values for arm in candidate_arms(held, resources_of(held, {}))[0]}
    assert arms["anchored"]["objective"] == {"divergence": "forward-kl", "weight": 0.3}
    texts = [{"text": row["text"]} for row in reviews(10, seed=8)]
    write_rows(data / "texts.jsonl", texts)
    arms = {
        arm.name: arm.values for arm in candidate_arms(held, resources_of(held, {"source_texts": "texts.jsonl"}))[0]
    }
    assert "weight" not in arms["anchored on source inputs"]["objective"]  # 0.3 was chosen for other inputs
    assert "objective" not in arms[PLAIN]
    taught = made(tiny, data, "distillation", reference=str(tiny("bert", seed=1)), objective={"temperature": 2.0})
    arms = {arm.name: arm.values for arm in candidate_arms(taught, resources_of(taught, {}))[0]}
    assert arms["distilled"]["objective"] == {"temperature": 2.0}
    assert arms[PLAIN]["method"] == "fine-tuning"
    assert "reference" not in arms[PLAIN]


# Decisions


def scored(target, source=None, noise=0.0, seeds=3, drops=None, seed=0):
    rng = np.random.default_rng(seed)
    draws = [target + noise * rng.normal(size=2000) for _ in range(seeds)]
    old = None if source is None else [np.full(2000, source) for _ in range(seeds)]
    fell = None if drops is None else [np.full(2000, drops) for _ in range(seeds)]
    return Scored(draws, old, [target] * seeds, None if source is None else [source] * seeds, fell)


ORDER = [PLAIN, "anchored", "distilled"]


def test_a_clear_winner_is_recommended():
    table = ranked({PLAIN: scored(0.80), "distilled": scored(0.85, noise=0.01)}, PLAIN, 0.0, None)
    assert [line["arm"] for line in table] == ["distilled", PLAIN]
    assert table[0]["against_plain"]["gain"] == pytest.approx(0.05)
    found = decided(table, ORDER, PLAIN)
    assert (found["arm"], found["sure"]) == ("distilled", True)
    assert found["p_better"] > 0.99


def test_a_winner_within_one_standard_error_is_not():
    table = ranked({PLAIN: scored(0.80), "distilled": scored(0.802, noise=0.02)}, PLAIN, 0.0, None)
    found = decided(table, ORDER, PLAIN)
    assert (found["arm"], found["sure"]) == (PLAIN, False)
    assert "distilled" in found["reason"]


def test_plain_is_recommended_where_nothing_beats_it():
    table = ranked({PLAIN: scored(0.9), "distilled": scored(0.8)}, PLAIN, 0.0, None)
    assert (decided(table, ORDER, PLAIN)["arm"], decided(table, ORDER, PLAIN)["sure"]) == (PLAIN, True)
    close = ranked({PLAIN: scored(0.9), "distilled": scored(0.899, noise=0.05)}, PLAIN, 0.0, None)
    assert (decided(close, ORDER, PLAIN)["arm"], decided(close, ORDER, PLAIN)["sure"]) == (PLAIN, False)
    alone = ranked({PLAIN: scored(0.9, noise=0.01)}, PLAIN, 0.0, None)
    width = 2 * 1.96 * 0.01 * np.sqrt(2 / 3)  # a third of the variance for the rows, and one for the seeds
    assert np.diff(alone[0]["target_interval"])[0] == pytest.approx(width, rel=0.1)
    assert alone[0]["source_interval"] is None
    assert "nothing was compared" in decided(alone, ORDER, PLAIN)["reason"]


def test_one_seed_is_never_sure():
    table = ranked({PLAIN: scored(0.8, seeds=1), "distilled": scored(0.9, seeds=1)}, PLAIN, 0.0, None)
    assert not decided(table, ORDER, PLAIN)["sure"]


def test_the_old_domain_counts_by_its_weight():
    arms = {PLAIN: scored(0.90, 0.70), "anchored": scored(0.88, 0.80)}
    assert [line["arm"] for line in ranked(arms, PLAIN, 0.0, None)] == [PLAIN, "anchored"]
    table = ranked(arms, PLAIN, 0.5, None)
    assert table[0]["arm"] == "anchored"
    assert table[0]["utility"] == pytest.approx(0.84)
    ((name, at),) = turning_points(ranked(arms, PLAIN, 0.0, None), PLAIN, 0.0)
    assert name == "anchored"
    assert at == pytest.approx(0.02 / 0.12)
    assert turning_points(table, "anchored", 0.5) == [(PLAIN, pytest.approx(0.02 / 0.12))]


def test_an_arm_that_loses_too_much_is_out():
    arms = {PLAIN: scored(0.95, 0.6, drops=0.2), "anchored": scored(0.9, 0.8, drops=0.005)}
    table = ranked(arms, PLAIN, 0.0, 0.01)
    assert [(line["arm"], line["within"]) for line in table] == [("anchored", True), (PLAIN, False)]
    found = decided(table, ORDER, PLAIN)
    assert found["arm"] == "anchored"
    assert "loses too much" in found["reason"]


def test_a_rung_fits_its_budget_and_gives_up_seeds_before_steps():
    def of(budget, share=1.0, each=(0, 1, 2)):
        rung = pilots.rung_for(budget, 4.0, share, each)
        return rung.share, rung.seeds

    assert of(100.0) == (1.0, (0, 1, 2))
    assert of(9.0) == (1.0, (0, 1))
    assert of(4.0) == (1.0, (0,))
    assert of(2.5) == (0.62, (0,))
    assert of(1.2, 0.25, (0, 1)) == (0.25, (0,))
    assert of(0.1) == (0.25, (0,))  # it is never shorter than a quarter of what was asked for


def test_a_short_pilot_of_one_seed_is_less_sure_than_its_rows():
    def chance(seeds, share):
        arms = {PLAIN: scored(0.60, noise=0.0, seeds=seeds), "distilled": scored(0.62, noise=0.01, seeds=seeds)}
        return ranked(arms, PLAIN, 0.0, None, share)[0]["against_plain"]

    one = chance(1, 0.25)
    noise = np.sqrt(0.01**2 + verdict.LUCK**2 + (verdict.SHORT * 0.75) ** 2)
    assert one["se"] == pytest.approx(noise, rel=0.03)  # the spread of 2,000 draws is that of the noise to 3 %
    assert one["p_better"] == pytest.approx(norm.cdf(0.02 / one["se"]))
    assert chance(1, 1.0)["p_better"] > one["p_better"]
    assert chance(3, 1.0)["p_better"] > chance(1, 1.0)["p_better"]


@pytest.mark.parametrize(
    ("said", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5h", 5400), (60, 60), (None, None)]
)
def test_budgets_are_times(said, seconds):
    assert race._seconds(said) == seconds


@pytest.mark.parametrize("said", ["", "soon", "-3m", "0s", "3x"])
def test_other_budgets_are_refused(said):
    with pytest.raises(UserError, match="a time"):
        race._seconds(said)


# Whole races


def test_a_race_ends_with_a_card_and_a_recipe_to_run(tiny, data):
    base = made(tiny, data, source=("validation", "train"))
    teacher = run.train(
        recipe.from_dict(
            {
                **spec_of("fine-tuning", tiny("bert"), output="teacher"),
                "training": {"epochs": 12, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32"},
            },
            data,
        ),
        display=QUIET,
    )
    card = race.advise(base, teacher=str(teacher.folder), pool="pool.jsonl", budget="10m", display=QUIET)
    folder = data / "advice"
    assert card["complete"]
    assert json.loads((folder / "advice.json").read_text("utf-8")) == card
    check_page((folder / "advice.html").read_text("utf-8"))
    assert {line["arm"] for line in card["arms"]} | set(card["ruled_out"]) >= {
        PLAIN,
        "anchored",
        "replay",
        "distilled with a pool",
    }
    final = [line for line in card["arms"] if line["rung"] == 1.0]
    assert PLAIN in {line["arm"] for line in final}
    assert len(final) <= 3
    assert card["recommended"] in {line["arm"] for line in final}
    assert all(line["seeds"] == 3 for line in final)
    for name in ("test.jsonl",):  # no pilot ever saw a test row
        assert not list((folder / "pilots").rglob(f"predictions/{name}"))
    written = recipe.load(folder / "recommended.yaml")
    assert written.data.test is not None
    assert written.training.epochs == 2
    times = {file: file.stat().st_mtime_ns for file in (folder / "pilots").rglob("result.json")}
    chinese = base.model_copy(update={"report": Report(language="zh")})  # a page alone is no other pilot
    again = race.advise(chinese, teacher=str(teacher.folder), pool="pool.jsonl", budget="10m", display=QUIET)
    assert again["recommended"] == card["recommended"]
    page = check_chinese((folder / "advice.html").read_text("utf-8"))
    for word in (
        "普通微调",
        "源模型约束（源域输入）",
        "蒸馏（加无标注数据）",
        "相对普通微调的增益",
        "短程试验的实测结果",
    ):
        assert word in page.text
    for line in again["arms"]:
        assert f"{line['target']:.4f}" in page.text
    stored = (folder / "advice.json").read_text("utf-8")
    assert again["reason"] in stored
    assert not HAN.search(stored)
    assert times == {file: file.stat().st_mtime_ns for file in (folder / "pilots").rglob("result.json")}
    plain = next(line for line in final if line["arm"] == PLAIN)
    scores = [
        run_folder.finished(folder / "pilots" / f"plain-1-seed-{n}").result["metrics"]["validation"]["accuracy"]
        for n in (0, 1, 2)
    ]
    assert plain["target"] == pytest.approx(np.mean(scores))


def test_a_stopped_race_leaves_a_card_goes_on_and_refuses_another_recipe(tiny, data, monkeypatch):
    base = made(tiny, data, source=("validation",))
    original, count = run.train, iter(range(100))

    def stopping(*given_, **named):
        if next(count) == 2:
            raise Stopped("stopped")
        return original(*given_, **named)

    monkeypatch.setattr(run, "train", stopping)
    with pytest.raises(Stopped):
        race.advise(base, budget="10m", display=QUIET)
    card = json.loads((data / "advice" / "advice.json").read_text("utf-8"))
    assert not card["complete"]
    assert card["recommended"] == PLAIN
    check_page((data / "advice" / "advice.html").read_text("utf-8"))
    recipe.load(data / "advice" / "recommended.yaml")
    monkeypatch.setattr(run, "train", original)
    assert race.advise(base, budget="10m", display=QUIET)["complete"]
    other = made(tiny, data, source=("validation",), evaluation={"rows": 20})
    with pytest.raises(StateRefused, match=r"or delete .*pilots") as refused:  # advise has no --overwrite
        race.advise(other, budget="10m", display=QUIET)
    assert "--overwrite" not in str(refused.value)


def stop_at(monkeypatch, pilot, error):
    """The so-manieth pilot from 0 on ends with `error`."""
    original, count = run.train, iter(range(100))

    def stopping(*given_, **named):
        if next(count) == pilot:
            raise error
        return original(*given_, **named)

    monkeypatch.setattr(run, "train", stopping)


def test_the_card_is_written_after_every_pilot(tiny, data, monkeypatch):
    base = made(tiny, data, source=("validation", "train"))
    found, written = [], race.Race.write

    def noted(self, *, complete):
        card = written(self, complete=complete)
        found.append(([line["arm"] for line in card["arms"]], {line["seeds"] for line in card["arms"]}))
        return card

    monkeypatch.setattr(race.Race, "write", noted)
    stop_at(monkeypatch, 4, Stopped("stopped"))  # plain is tried once more, as the first of its rung
    with pytest.raises(Stopped):
        race.advise(base, budget="10m", display=QUIET)
    assert [sorted(arms) for arms, _ in found] == [
        [PLAIN], [PLAIN], ["interpolated", PLAIN], ["interpolated", PLAIN, "replay"],
        ["interpolated", PLAIN, "replay"],
    ]  # fmt: skip
    assert all(seeds == {1} for _, seeds in found)
    card = json.loads((data / "advice" / "advice.json").read_text("utf-8"))
    assert "nothing was compared" not in card["reason"]
    assert not card["sure"]
    for line in card["arms"]:
        for name in ("target", "source"):
            low, high = line[f"{name}_interval"]
            assert low <= line[name] <= high
    page = check_page((data / "advice" / "advice.html").read_text("utf-8"))
    low, high = card["arms"][0]["source_interval"]
    assert f"{low:.3f} to {high:.3f}" in page.text


def test_a_rung_that_is_not_whole_says_less_than_the_one_before(tiny, data):
    base = made(tiny, data, source=("validation",))
    arms, out = candidate_arms(base, resources_of(base, {}))
    first = {name: scored(0.8, 0.7) for name in (PLAIN, "interpolated", "anchored")}
    one = standings.Standings(base, arms, out, 0.5, None)
    one.rungs = [(pilots.Rung(0.25, (0, 1)), first), (pilots.Rung(1.0, (0,)), {PLAIN: scored(0.9, 0.6)})]
    assert [line["rung"] for line in one.ranked()] == [0.25] * 3
    one.rungs[-1][1]["anchored"] = scored(0.85, 0.6)
    assert [(line["arm"], line["rung"]) for line in one.ranked()] == [
        (PLAIN, 1.0), ("anchored", 1.0), ("interpolated", 0.25)
    ]  # fmt: skip


def test_a_stop_before_any_pilot_leaves_a_card_that_says_so(tiny, data, monkeypatch, capsys):
    base = made(tiny, data, source=("validation",))

    def stopping(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(candidates, "candidate_arms", stopping)
    with pytest.raises(KeyboardInterrupt):
        race.advise(base, display=Display())
    assert "nothing was compared yet" in capsys.readouterr().err
    file = data / "advice" / "advice.json"
    card = json.loads(file.read_text("utf-8"))
    assert (card["recommended"], card["complete"], card["arms"]) == (PLAIN, False, [])
    assert card["reason"] == "nothing was compared yet"
    check_page((data / "advice" / "advice.html").read_text("utf-8"))
    recipe.load(data / "advice" / "recommended.yaml")
    file.write_text("{}", "utf-8")
    with pytest.raises(KeyboardInterrupt):
        race.advise(base, display=Display())
    assert "an earlier call's" in capsys.readouterr().err
    assert file.read_text("utf-8") == "{}"


@pytest.mark.parametrize(
    "error",
    [Stopped("stopped after step 1 of 2; go on with the same command and --resume"),
     OutOfResources("the disk is full; make room and go on with --resume")],
)  # fmt: skip
def test_who_is_stopped_goes_on_with_the_same_command(tiny, data, monkeypatch, error):
    stop_at(monkeypatch, 0, error)
    with pytest.raises(type(error), match=r"go on with the same command$"):  # advise has no --resume
        race.advise(made(tiny, data), display=QUIET)


def test_a_column_of_the_test_rows_alone_stays_out_of_the_pilots(tiny, data):
    marked = [{**row, "speaker": f"s{n % 40}", "age": "old" if n % 3 else "young"}
              for n, row in enumerate(lines(data / "test.jsonl"))]  # fmt: skip
    write_rows(data / "test.jsonl", marked)
    evaluated = {"clusters": "speaker", "slices": ["age"]}
    card = race.advise(made(tiny, data, evaluation=evaluated), budget="10m", display=QUIET)
    assert card["complete"]
    kept = recipe.load(card["recipe"]).evaluation
    assert (kept.clusters, kept.slices) == ("speaker", ["age"])
    with pytest.raises(UserError, match=r"evaluation\.clusters"):  # what no row has is a slip, as it is for a run
        race.advise(made(tiny, data, evaluation={"clusters": "speakr"}), budget="10m", display=QUIET)


def test_pilots_keep_the_columns_that_their_rows_have():
    values = {"evaluation": {"clusters": "speaker", "slices": ["age", "town"]}}
    without_columns(values, {"text", "label", "speaker", "town"})
    assert values == {"evaluation": {"clusters": "speaker", "slices": ["town"]}}


def test_a_column_of_an_old_domain_that_plain_drops_goes_with_it(tiny, data):
    old = [{**row, "label": "ab"[n % 2], "speaker": f"s{n % 40}"} for n, row in enumerate(reviews(60, seed=77))]
    write_rows(data / "old-validation.jsonl", old)
    values = spec_of("cross-domain", tiny("bert", labels=("a", "b")), output="advice")
    values |= {"objective": {"anchor_head": "source"}, "evaluation": {"clusters": "speaker"}}
    values["data"] |= {"source": {"validation": "old-validation.jsonl"}, "labels": ["negative", "positive"]}
    base = recipe.from_dict(values, data)
    prepare.prepare(base)
    arms, _ = candidate_arms(base, resources_of(base, {}))
    assert "clusters" not in arms[0].values["evaluation"]
    prepare.prepare(recipe.from_dict(arms[0].values, data))


def test_what_the_caller_adds_must_be_there(tiny, data):
    with pytest.raises(UserError) as caught:
        race.advise(made(tiny, data), teacher="./absent", pool="absent.jsonl", display=QUIET)
    assert {problem.field for problem in caught.value.problems} == {"--teacher", "--pool"}


def test_a_small_budget_ends_early_and_says_how_little_it_knows(tiny, data):
    card = race.advise(made(tiny, data, source=("validation", "train")), budget="1s", display=QUIET)
    assert card["complete"]
    assert max(line["seeds"] for line in card["arms"]) == 1
    assert not card["sure"]


def test_without_validation_rows_there_is_no_advice(tiny, data):
    values = spec_of("fine-tuning", tiny("bert"), output="advice")
    values["data"] = {"train": "train.jsonl", "test": "test.jsonl"}
    with pytest.raises(UserError, match="to compare the methods"):
        race.advise(recipe.from_dict(values, data), display=QUIET)


def test_a_teacher_worse_than_a_pilot_is_out(tiny, data):
    base = made(tiny, data)
    bad = lines(data / "train.jsonl")
    flipped = [{**row, "label": "positive" if row["label"] == "negative" else "negative"} for row in bad]
    write_rows(data / "flipped.jsonl", flipped)
    values = {**spec_of("fine-tuning", tiny("bert"), output="bad"), "data": {"train": "flipped.jsonl"}}
    values["training"] = {"epochs": 20, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32"}
    teacher = run.train(recipe.from_dict(values, data), display=QUIET)
    card = race.advise(base, teacher=str(teacher.folder), budget="10m", display=QUIET)
    card["ruled_out"]["anchored"] = Message("its pilot diverged: {error}", error="<script>x</script>")
    page = check_chinese(advice_page.page(card, "zh"))
    for word in (
        "不比普通微调的学生模型好",
        "没有 data.source.validation",
        "短程试验发散：<script>x</script>",
        "没有无标注文本",
    ):
        assert word in page.text
    first = page.words.index("更优概率")
    assert page.words[first - 1] == "方法"  # right after the name
    table = advice_page.table(card)
    assert [column.header for column in table.columns][:2] == ["arm", "P(better)"]
    chances = [line["against_plain"] and f"{line['against_plain']['p_better']:.2f}" for line in card["arms"]]
    assert [*table.columns[1].cells] == [chance or "–" for chance in chances]
    assert "no better" in card["ruled_out"]["distilled"]
    assert card["recommended"] == PLAIN
    assert verdict.SURE == 0.9
