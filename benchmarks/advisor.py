"""Is the advisor right? Every scenario's methods in full, and the advisor blind beside them.

    python benchmarks/advisor.py DATA_FOLDER OUTPUT_FOLDER [--only sst2 agnews airline reviews tags]

A scenario is a data set, few or many labels, and what else there is: a teacher (good or bad), texts without labels,
rows of an old domain. The students are BERTs of two layers that start from random weights, or from such a model of the
old domain. Every arm of a scenario is trained for all of its steps with three paired seeds and scored on test rows;
then `keeltune advise` sees the scenario, without its test rows, with the budget that it takes by itself.

The utility is the first metric in points; where an old domain is named, the mean of both. The oracle is the arm that is
best on one half of the test rows, and everything is scored on the other half; both halves take both parts. Arms that
several scenarios share are trained once. A finished run is skipped and a stopped one goes on. What was measured last
lies beside this file: `exhaustive.csv`, `advised.jsonl`, `table.md`. Seconds are those of the whole runs, the teacher's
cached answers in the first that needs them, its training in none.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import data_sets
import numpy as np

import keeltune as kt
from keeltune import recipe
from keeltune.advisor import verdict
from keeltune.advisor.candidates import PLAIN, Resources, candidate_arms
from keeltune.advisor.pilots import Pilots, Rung, higher_is_better
from keeltune.cli import demo
from keeltune.evaluation.scores import scores_of, table_of
from keeltune.recipe.fields import Recipe
from keeltune.runs import opened_model, run, run_folder
from keeltune.utils.files import read_lines
from keeltune.utils.progress import Display

QUIET = Display(quiet=True)
SEEDS = (0, 1, 2)
SMALL = {
    "new": {"model_type": "bert", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 256, "max_position_embeddings": 192},
    "tokenizer": {"train": "bpe", "size": 4000},
}  # fmt: skip
TEACHERS = ("good", "bad")


@dataclass(frozen=True)
class Group:
    """Scenarios of one data set: how many labels, which training, and what else there may be."""

    task: str
    data: str
    few: int
    many: int
    validation: int
    training: dict[str, dict[str, Any]]
    teacher: dict[str, Any] = field(default_factory=dict)
    """The good teacher's data, rows and training; empty: no teacher."""
    pool: int = 0
    source: dict[str, Any] = field(default_factory=dict)
    """The old domain's data, rows and training; empty: none."""
    more: dict[str, Any] = field(default_factory=dict)


NEW = {"few": {"epochs": 8, "learning_rate": 1e-3}, "many": {"epochs": 2, "learning_rate": 1e-3}}
MOVED = {"few": {"epochs": 8, "learning_rate": 5e-4}, "many": {"epochs": 2, "learning_rate": 5e-4}}
FILMS = {"data": "sentiment-sst2", "rows": 6200, "training": {"epochs": 4, "learning_rate": 1e-3}}
MINILM = {"data": "sentiment-sst2", "rows": 2000, "training": {"epochs": 2, "learning_rate": 5e-5}}
MARKED = {"few": {"epochs": 6, "learning_rate": 1e-3}, "many": {"epochs": 3, "learning_rate": 1e-3}}
GROUPS = {
    "sst2": Group("sentiment-analysis", "sentiment-sst2", 400, 2000, 400, NEW, MINILM, pool=2000),
    "agnews": Group("text-classification", "topic-agnews", 400, 2000, 400, NEW,
                    {"data": "topic-agnews", "rows": 600, "training": {"epochs": 3, "learning_rate": 1e-4}}, pool=2000,
                    more={"max_length": 64}),
    "airline": Group("sentiment-analysis", "sentiment-airline", 200, 2000, 400, MOVED, source=FILMS),
    "reviews": Group("sentiment-analysis", "sentiment-amazon+sentiment-imdb", 150, 944, 200, MOVED, source=FILMS),
    "tags": Group("semantic-role-labeling", "srl-ewt-reviews", 300, 1500, 300, MARKED,
                  source={"data": "srl-ewt", "rows": 5000, "training": {"epochs": 5, "learning_rate": 1e-3}}),
}  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    group: str
    size: str
    teacher: str = ""
    pool: bool = False
    source: str = ""
    """inputs: rows of the old domain are at hand; kept: only its validation rows."""

    @property
    def name(self) -> str:
        parts = [self.group, self.size, f"{self.teacher} teacher" if self.teacher else "", "pool" if self.pool else "",
                 {"inputs": "with source rows", "kept": "without source rows"}.get(self.source, "")]  # fmt: skip
        return ", ".join(part for part in parts if part)


def scenarios(name: str) -> Iterator[Scenario]:
    group = GROUPS[name]
    for size in ("few", "many"):
        if group.source:
            for source in ("kept", "inputs"):
                yield Scenario(name, size, source=source)
            continue
        for teacher in TEACHERS:
            for pool in (False, True):
                yield Scenario(name, size, teacher, pool)


class Bench:
    def __init__(self, folder: Path, out: Path):
        self.folder, self.out = folder.resolve(), out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)

    def file(self, name: str, split: str, first: int, last: int | None) -> str:
        """Rows `first` to `last` of a split, written once."""
        place = self.out / "data" / f"{name}-{split}-{first}-{last}.jsonl"
        if not place.is_file():
            sets = [data_sets.lines(self.folder / each, split) for each in name.split("+")]
            data_sets.written(place, [line for several in zip(*sets, strict=False) for line in several][first:last])
        return str(place)

    def texts(self, name: str, first: int, last: int) -> str:
        """A pool: rows without their labels."""
        place = self.out / "data" / f"{name}-pool-{first}-{last}.jsonl"
        if not place.is_file():
            rows = read_lines(Path(self.file(name, "train", first, last)))
            data_sets.written(place, [{"text": row["text"]} for row in rows])
        return str(place)

    def train(self, name: str, values: Mapping[str, Any]) -> Path:
        """A run below the output folder, and `seconds.json` beside its result: what the whole of it took."""
        place = self.out / name
        if not run_folder.finished(place):
            begun = time.monotonic()
            run.train(recipe.from_dict({**values, "output": name}, self.out), resume=place.is_dir(), display=QUIET)
            (place / "seconds.json").write_text(json.dumps(time.monotonic() - begun))
            shutil.rmtree(place / "checkpoints")
        return place

    def helper(self, group: Group, kind: str, spec: Mapping[str, Any], model: Any) -> str:
        """A teacher or a source model, trained once."""
        name = f"{kind}-{spec['data']}"
        values = {"task": group.task, "method": "fine-tuning", "model": model, **group.more,
                  "data": {"train": self.file(spec["data"], "train", 0, spec["rows"]),
                           "validation": self.file(spec["data"], "validation", 0, 400)},
                  "training": spec["training"]}  # fmt: skip
        self.train(name, values)
        return name

    def material(self, one: Scenario) -> tuple[dict[str, Any], Resources]:
        """The scenario as a plain recipe, and what there is beside it."""
        group = GROUPS[one.group]
        rows = group.few if one.size == "few" else group.many
        data: dict[str, Any] = {
            "train": self.file(group.data, "train", 0, rows),
            "validation": self.file(group.data, "validation", 0, group.validation),
            "test": self.file(group.data, "test", 0, 2000),
        }
        model: Any = SMALL
        have = Resources()
        if one.source:
            old = group.source
            model = self.helper(group, "source", old, SMALL)
            data["source"] = {"validation": self.file(old["data"], "validation", 0, 400),
                              "test": self.file(old["data"], "test", 0, 1000)}  # fmt: skip
            if one.source == "inputs":
                texts = self.file(old["data"], "train", 0, 2000)
                data["source"]["train"] = texts
                have = Resources(source_texts=texts)
        if one.teacher:
            good = group.teacher
            bad = {"data": group.data, "rows": 150, "training": {"epochs": 4, "learning_rate": 1e-3}}
            teacher = (self.helper(group, "teacher", good, demo.encoder_path()) if one.teacher == "good"
                       else self.helper(group, "bad-teacher", bad, SMALL))  # fmt: skip
            have = Resources(
                teacher=teacher, pool=self.texts(group.data, rows, rows + group.pool) if one.pool else None
            )
        values = {"task": group.task, "method": "fine-tuning", "model": model, "data": data, **group.more,
                  "training": group.training[one.size]}  # fmt: skip
        return values, have

    def exhaustive(self, one: Scenario) -> Iterator[dict[str, Any]]:
        """A line for each arm and seed: the score on both halves of the test rows, and the seconds."""
        values, have = self.material(one)
        base = recipe.from_dict({**values, "output": "none"}, self.out)
        arms, _ = candidate_arms(base, have)
        for arm in arms:
            taught = f"{one.teacher}-teacher-" if have.teacher and arm.name != PLAIN else ""
            for seed in SEEDS:
                name = f"{one.group}-{one.size}-{taught}{arm.name.replace(' ', '-')}-{seed}"
                training = {**arm.values.get("training", {}), "seed": seed}
                place = self.train(name, {**arm.values, "training": training})
                seconds = json.loads((place / "seconds.json").read_text())
                yield {"scenario": one.name, "arm": arm.name, "seed": seed, "seconds": round(seconds, 1),
                       **dict(zip(("first half", "second half"), self.utilities(place), strict=True))}  # fmt: skip

    def utilities(self, place: Path) -> list[float]:
        """U in points on the even and on the odd test rows."""
        task = opened_model.open_model(place, None).task
        metric = task.metrics[0]
        found = []
        for half in (0, 1):
            scores = []
            for split in ("test", "source"):
                file = place / "predictions" / f"{split}.jsonl"
                if file.is_file():
                    table = table_of(task, read_lines(file))[half::2]
                    scores.append(higher_is_better(task) * scores_of(task, table, intervals=False).metrics[metric])
            found.append(round(100 * float(np.mean(scores)), 3))
        return found

    def advised(self, one: Scenario) -> dict[str, Any]:
        """What the advisor says of a scenario, and what parts of it would have said."""
        name = one.name.replace(", ", "-").replace(" ", "-")
        place = self.out / "advice" / name
        values, have = self.material(one)
        made = recipe.from_dict({**values, "output": str(place)}, self.out)
        kept = place / "line.json"
        if not kept.is_file():
            begun = time.monotonic()
            card = kt.advise(made, teacher=have.teacher, pool=have.pool, source_texts=have.source_texts, display=QUIET)
            line = {"scenario": one.name, "recommended": card["recommended"], "sure": card["sure"],
                    "p_better": card["p_better"], "seconds": round(card["cost"]["seconds"], 1),
                    "wall": round(time.monotonic() - begun, 1), "pilots": card["cost"]["pilots"],
                    **self.parts(made, have, place, card)}  # fmt: skip
            kept.write_text(json.dumps(line))
            for checkpoints in place.glob("pilots/*/checkpoints"):
                shutil.rmtree(checkpoints)
        return dict(json.loads(kept.read_text()))

    def parts(self, made: Recipe, have: Resources, place: Path, card: Mapping[str, Any]) -> dict[str, Any]:
        """What each rung's pilots alone would have chosen, by the highest mean."""
        arms, _ = candidate_arms(made, have)
        pilots = Pilots(made, place / "pilots", 0, QUIET)
        shares: dict[float, list[int]] = {}
        for folder in (place / "pilots").iterdir():
            if (named := re.fullmatch(r"plain-([\d.]+)-seed-(\d+)", folder.name)) and run_folder.finished(folder):
                shares.setdefault(float(named[1]), []).append(int(named[2]))
        found = {}
        for which, share in (("first rung", min(shares)), ("pilots alone", max(shares))):
            seeds = tuple(sorted(shares[share]))
            scored = {
                arm.name: pilots.scores(arm, Rung(share, seeds))
                for arm in arms
                if all(run_folder.finished(pilots.output(arm, share, seed)) for seed in seeds)
            }
            found[which] = verdict.ranked(scored, PLAIN, card["source_weight"], None, share)[0]["arm"]
        return found


POLICIES: dict[str, Callable[[Sequence[str]], str]] = {
    "always plain": lambda arms: PLAIN,
    "always distil": lambda arms: _first(arms, "distilled with a pool", "distilled"),
    "always pseudo-labels": lambda arms: _first(arms, "pseudo-labels"),
    "always anchor": lambda arms: _first(arms, "anchored on source inputs", "anchored"),
    "always interpolate": lambda arms: _first(arms, "interpolated"),
    "always replay": lambda arms: _first(arms, "replay"),
    "priors only": lambda arms: _first(arms, "distilled with a pool", "distilled", "anchored on source inputs",
                                       "anchored"),
}  # fmt: skip
"""What is chosen without a measurement: the method, where the scenario has it, else plain fine-tuning."""


def _first(arms: Sequence[str], *names: str) -> str:
    return next((name for name in names if name in arms), PLAIN)


def table(lines: Sequence[Mapping[str, Any]], advised: Sequence[Mapping[str, Any]]) -> str:
    """The scenarios, then the regret of each way to choose, in points."""
    said = {line["scenario"]: line for line in advised}
    names = list(dict.fromkeys(line["scenario"] for line in lines))
    regrets: dict[str, list[float]] = {}
    oracle_gain, costs = [], []
    text = ["| scenario | each arm's utility, three seeds | oracle | advised | sure | regret | cost |",
            "| --- | --- | --- | --- | --- | ---: | ---: |"]  # fmt: skip
    for name in names:
        own = [line for line in lines if line["scenario"] == name]
        halves = {arm: np.array([[line["first half"], line["second half"]] for line in own if line["arm"] == arm])
                  for arm in dict.fromkeys(line["arm"] for line in own)}  # fmt: skip
        means = {arm: each.mean(0) for arm, each in halves.items()}
        arms = list(means)

        def regret(choice: str, means: Mapping[str, np.ndarray] = means) -> float:
            """U of the arm that is best on one half minus U of the choice, on the other half; the mean of both ways."""
            return float(np.mean([means[_best(means, half)][1 - half] - means[choice][1 - half] for half in (0, 1)]))

        choices = {policy: chosen(arms) for policy, chosen in POLICIES.items()}
        if name in said:
            one = said[name]
            choices |= {"the advisor": one["recommended"],
                        "race only: the highest mean of its pilots": one["pilots alone"],
                        "the highest mean of its first pilots": one["first rung"]}  # fmt: skip
            costs.append((one["seconds"], sum(line["seconds"] for line in own)))
        for policy, choice in choices.items():
            regrets.setdefault(policy, []).append(regret(choice))
        regrets.setdefault("at random", []).append(float(np.mean([regret(arm) for arm in arms])))
        if name in said:
            whole = {arm: float(mean.mean()) for arm, mean in means.items()}
            oracle = "; ".join(dict.fromkeys(_best(means, half) for half in (0, 1)))
            told = ", ".join(f"{arm} {value:.1f}" for arm, value in whole.items())
            text.append(f"| {name} | {told} | {oracle} | {said[name]['recommended']} | "
                        f"{'yes' if said[name]['sure'] else 'no'} | {regret(said[name]['recommended']):+.2f} | "
                        f"{costs[-1][0] / costs[-1][1]:.0%} |")  # fmt: skip
            oracle_gain.append(regret(PLAIN))
    fixed = {policy: float(np.mean(regrets[policy])) for policy in POLICIES if policy != "priors only"}
    best = min(fixed, key=lambda policy: fixed[policy])
    text += ["", f"{len(names)} scenarios; the best single method: {best}, {fixed[best]:.2f} points below an oracle",
             "", "| way to choose | mean regret | 90th percentile | of the gap between the best single method and the "
             "oracle closed |", "| --- | ---: | ---: | ---: |"]  # fmt: skip
    for policy, found in sorted(regrets.items(), key=lambda item: float(np.mean(item[1]))):
        closed = (fixed[best] - float(np.mean(found))) / fixed[best] if fixed[best] > 0 else float("nan")
        text.append(f"| {policy} | {np.mean(found):+.2f} | {np.percentile(found, 90):+.2f} | {closed:.0%} |")
    if costs:
        spent, all_of_it = (sum(cost[place] for cost in costs) for place in (0, 1))
        text += ["", f"The advisor's pilots took {spent:.0f} s, the exhaustive runs {all_of_it:.0f} s: "
                 f"{spent / all_of_it:.0%}."]  # fmt: skip
    return "\n".join(text)


def _best(means: Mapping[str, np.ndarray], half: int) -> str:
    return max(means, key=lambda arm: float(means[arm][half]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--no-advice", action="store_true", help="the exhaustive runs alone")
    options = parser.parse_args()
    bench = Bench(options.data, options.output)
    lines, advised = [], []
    for name in options.only:
        for one in scenarios(name):
            begun = time.monotonic()
            lines += list(bench.exhaustive(one))
            if not options.no_advice:
                advised.append(bench.advised(one))
            print(f"{one.name}: {time.monotonic() - begun:.0f} s {advised[-1:]}", flush=True)
    with (options.output / "exhaustive.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    told = table(lines, advised)
    (options.output / "table.md").write_text(told + "\n", encoding="utf-8")
    (options.output / "advised.jsonl").write_text("".join(json.dumps(one) + "\n" for one in advised), encoding="utf-8")
    print(told)


if __name__ == "__main__":
    main()
