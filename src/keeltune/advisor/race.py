"""`keeltune advise`: which method fits this data, what it would cost to be wrong, and the recipe to run.

    1  feasibility    the arms that the material allows; the others with the reason why not
    2  first rung     where there are more than three: all of them for a quarter of the steps, two seeds each
    3  second rung    the best two and plain fine-tuning for all of the steps, three seeds
    4  verdict        see `verdict`

A budget that is too small for that takes seeds away, then steps.

Pilots are ordinary runs below `OUTPUT/pilots`, scored on validation rows, never on test rows; called again, the command
goes on where it was stopped. The card is written after every pilot: of the first rung it compares the arms that are
done so far, and further seeds and the second rung speak in it as soon as each of their arms has one.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keeltune.advisor import verdict
from keeltune.advisor.candidates import PLAIN, Arm, candidate_arms, check, columns_of, given, plain_arm
from keeltune.advisor.pilots import Pilots, Rung, evidence, oriented, rung_for
from keeltune.advisor.verdict import Scored
from keeltune.recipe import from_dict, opened
from keeltune.recipe.fields import Recipe
from keeltune.reports import advice_page
from keeltune.runs import run_folder
from keeltune.training.preparation import prepare
from keeltune.utils.errors import Diverged, Problem, Stopped, UserError
from keeltune.utils.files import write_json, write_text
from keeltune.utils.messages import Message
from keeltune.utils.progress import Display

FULL_RUNS = 3.0
"""The budget where none is given: so many whole plain runs."""

WEIGHT = 0.5
"""What the old domain counts where one is named."""

OVER = 1.1
"""How far a budget may be overdrawn to end a round of pilots, which is of use only as a whole."""

KEPT = 2
"""Arms beside plain fine-tuning that reach the second rung."""

FIRST = 0.4
"""What the first rung may take of the budget, where there are two."""

FEWER, QUARTER = "plain on a quarter of the rows", 0.25


def advise(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    budget: float | str | None = None,
    teacher: str | None = None,
    pool: str | None = None,
    source_texts: str | None = None,
    source_weight: float | None = None,
    max_source_drop: float | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Compares the methods that a recipe's material allows, by pilots, and says which to run.

    Args:
        recipe: any method's recipe with validation rows; `data.source.validation` names an old domain to keep.
        budget: seconds, or "90s", "30m", "2h"; None: as long as three plain runs.
        teacher, pool, source_texts: a model, texts without labels, inputs of the old domain, where the recipe, which is
            one method's, does not name them.
        source_weight: what the old domain counts, from 0 to 1; None: ½ where one is named. max_source_drop: arms whose
            one-sided 90 % bound of the fall of the old domain's score lies above are out.
    Returns the card: {"recommended", "sure", "p_better", "reason", "complete", "metric", "source_weight",
        "max_source_drop", "arms": [{"arm", "said", "rung", "utility", "target", "target_interval",
        "source", "source_interval", "source_drop_bound", "within", "seeds", "against_plain": {"gain", "interval", "se",
        "p_better"}}], "ruled_out": {arm: why}, "evidence": [text], "turning_points": [text], "cost": {"seconds",
        "budget", "pilots"}, "recipe": file}; also in `OUTPUT/advice.json` and `advice.html`. The recipe,
        `OUTPUT/recommended.yaml`, is ready for `keeltune train`. `target_interval` and `source_interval` are the 95 %
        intervals of the two scores over rows and seeds; `source` and what belongs to it are null without an old domain.
    Raises: UserError: the recipe's faults, no validation rows, a call at fault. Stopped: the card is there.
    """
    made = opened(recipe)
    display = display or Display()
    if made.data.validation is None:
        expected = "rows to compare the methods on, which are no test rows"
        raise UserError(made.problem("data.validation", expected=expected, fix="add data.validation: 0.1, say"))
    folder = made.path(made.output)
    check(made, teacher, pool, source_texts)
    weight = (WEIGHT if made.data.source.validation else 0.0) if source_weight is None else source_weight
    pilots = Pilots(made, folder / "pilots", 1, display)
    race = Race(made, [plain_arm(made)], {}, pilots, weight, max_source_drop, folder)
    race.seconds = _seconds(budget)
    try:
        race.arms, race.out = candidate_arms(made, given(made, teacher, pool, source_texts))
        material = prepare.prepare(from_dict(race.arms[0].values, made.folder))
        pilots.steps = material.steps
        pilots.columns = columns_of(material, ("validation", "source_validation"))
        race.go()
    except (Stopped, KeyboardInterrupt):
        race.stopped()
        raise
    return race.write(complete=True)


class Race:
    """The pilots in their order, and the card that they make."""

    def __init__(
        self,
        recipe: Recipe,
        arms: list[Arm],
        out: dict[str, str],
        pilots: Pilots,
        weight: float,
        max_drop: float | None,
        folder: Path,
    ):
        self.recipe, self.arms, self.out, self.pilots = recipe, arms, out, pilots
        self.weight, self.max_drop, self.folder = weight, max_drop, folder
        self.seconds: float | None = None
        self.done: dict[str, run_folder.Run] = {}
        self.rungs: list[tuple[Rung, dict[str, Scored]]] = []
        self.curve: tuple[dict[str, Any], float, int] | None = None

    def go(self) -> None:
        plain, cost = self.arms[0], sum(arm.cost for arm in self.arms)
        few = len(self.arms) <= KEPT + 1  # a first rung would drop none
        share, seeds, part = (1.0, (0, 1, 2), 1.0) if few else (0.25, (0, 1), FIRST)
        rung = rung_for(part * FULL_RUNS, cost, share, seeds)
        first = Rung(rung.share if self.seconds is None else 0.25, (0,))
        if self._try(plain, first.share, 0) is None:
            raise UserError(
                Problem("the pilots", PLAIN, self.out[PLAIN], "a plain run that ends", "try keeltune train first")
            )
        self.rungs.append((first, {PLAIN: self.pilots.scores(plain, first)}))
        self.write(complete=False)
        unit = self.pilots.cost(plain, Rung(1.0, (0,)))
        if self.seconds is None:
            self.seconds = FULL_RUNS * unit
        else:
            rung = rung_for(part * self._left() / unit, cost, share, seeds)
        self._rung(rung, self.arms)
        ranks = [line["arm"] for line in self._ranked()]
        self._teacher_gate()
        if not few:
            kept = [name for name in ranks if name != PLAIN and name not in self.out][:KEPT]
            finalists = [arm for arm in self.arms if arm.name == PLAIN or arm.name in kept]
            cost = sum(self.pilots.cost(arm, Rung(1.0, (0,))) for arm in finalists) / unit
            whole = rung_for(self._left() / unit, cost, 1.0, (0, 1, 2))
            if len(finalists) > 1 and whole.share > rung.share and self._left() > 0:
                self._rung(whole, finalists)
        self._fewer_rows(plain)

    def _left(self) -> float:
        """Seconds of the budget that no pilot has used."""
        assert self.seconds is not None
        return self.seconds - self.pilots.spent()

    def _fewer_rows(self, plain: Arm) -> None:
        """The learning curve: what a quarter of the labelled rows is worth, if the budget has a pilot left for it."""
        share = self.rungs[-1][0].share
        values = copy.deepcopy(plain.values)
        values["data"]["share"] = QUARTER * values["data"].get("share", 1.0)
        arm = Arm(FEWER, "", values)
        if PLAIN not in self.rungs[-1][1] or self.pilots.cost(plain, Rung(share, (0,))) > self._left():
            return
        try:
            fewer = self.pilots.run(arm, share, 0)
        except (UserError, Diverged):  # too few rows to take a quarter of, or to learn from
            return
        many, few = (self.pilots.scores(one, Rung(share, (0,))) for one in (plain, arm))
        self.curve = verdict.compared(many, few, 0.0, share), share, fewer.result["data"]["train"]["rows"]

    def _rung(self, rung: Rung, arms: list[Arm]) -> None:
        """All pilots of a rung, seed by seed, so that a stop leaves comparable ones; as far as the budget goes."""
        known = any(len(scored) > 1 for _, scored in self.rungs)
        self.rungs.append((rung, {}))
        assert self.seconds is not None
        for number, seed in enumerate(rung.seeds):
            left = [arm for arm in arms if arm.name not in self.out]
            cost = sum(self.pilots.cost(arm, Rung(rung.share, (seed,))) for arm in left)
            if number and self.pilots.spent() + cost > OVER * self.seconds:
                self.pilots.display.say(f"the budget of {self.seconds:.0f} s ends before seed {seed}")
                return
            so_far = Rung(rung.share, rung.seeds[: number + 1])
            scored: dict[str, Scored] = {}
            for arm in left:
                if self._try(arm, rung.share, seed) is not None:
                    scored[arm.name] = self.pilots.scores(arm, so_far)
                elif arm.name == PLAIN:  # nothing to compare with: what was known stays
                    return
                if arm is left[-1] or not (number or known):  # some arms say more than none, and less than all
                    self.rungs[-1] = (so_far, scored)
                self.write(complete=False)

    def _try(self, arm: Arm, share: float, seed: int) -> run_folder.Run | None:
        """A pilot's run; an arm whose training diverges is out, with the reason."""
        try:
            done = self.pilots.run(arm, share, seed)
        except Diverged as error:
            self.out[arm.name] = Message("its pilot diverged: {error}", error=str(error))
            return None
        self.done[arm.name] = done
        return done

    def _teacher_gate(self) -> None:
        """A teacher that is no better than a plain student is out, unless texts without labels speak for it."""
        name, plain, taught = "distilled", self.rungs[-1][1].get(PLAIN), self._gate()
        if name in self.done and plain is not None and taught is not None and taught[1] <= max(plain.targets):
            template = "the teacher ({metric} {score:.4g}) is no better than a plain student's pilot"
            self.out[name] = Message(template, metric=self._metric(), score=taught[0])

    def _ranked(self) -> list[dict[str, Any]]:
        """The arms of the last rung that has plain and another one, then those of earlier rungs alone."""
        lines: list[dict[str, Any]] = []
        told = [(rung, scored) for rung, scored in reversed(self.rungs) if PLAIN in scored]
        for rung, scored in [each for each in told if len(each[1]) > 1] or told[:1]:
            known = {line["arm"] for line in lines}
            new = verdict.ranked(scored, PLAIN, self.weight, self.max_drop, rung.share)
            lines += [{**line, "rung": rung.share} for line in new if line["arm"] not in known]
        return lines

    def write(self, *, complete: bool) -> dict[str, Any]:
        """The card, from what there is."""
        lines = self._ranked()
        last = [line for line in lines if line["rung"] == lines[0]["rung"]]
        order = [arm.name for arm in self.arms]
        allowed = [line for line in last if line["arm"] not in self.out] or last
        chosen = {"arm": PLAIN, "p_better": None, "sure": False, "reason": Message("nothing was compared yet")}
        if allowed:
            chosen = verdict.decided(allowed, order, PLAIN)
        arm = next(arm for arm in self.arms if arm.name == chosen["arm"])
        said = {one.name: one.said for one in self.arms}
        turning = verdict.turning_points(allowed, arm.name, self.weight) if allowed else []
        card = {
            "recommended": arm.name,
            "said": arm.said,
            "sure": chosen["sure"],
            "p_better": chosen["p_better"],
            "reason": chosen["reason"],
            "complete": complete,
            "task": self.recipe.task,
            "metric": self._metric(),
            "source_weight": self.weight,
            "max_source_drop": self.max_drop,
            "arms": [{**line, "said": said[line["arm"]]} for line in lines],
            "ruled_out": self.out,
            "evidence": self._evidence(),
            "turning_points": [*(_turning(name, at) for name, at in turning), *self._wishes(arm.name)],
            "cost": {
                "seconds": self.pilots.spent(),
                "budget": self.seconds,
                "pilots": sum(map(len, self.pilots.seconds.values())),
            },
            "recipe": str(self.folder / "recommended.yaml"),
        }
        write_text(self.folder / "recommended.yaml", self._recipe(arm).dump())
        write_json(self.folder / "advice.json", card)
        write_text(self.folder / "advice.html", advice_page.page(card, self.recipe.report.language))
        return card

    def stopped(self) -> None:
        """The card so far, in words too; that of an earlier call stays where this one has compared nothing yet."""
        page, stays = self.folder / "advice.html", not self.rungs and (self.folder / "advice.json").is_file()
        if not stays:
            self.write(complete=False)
        said = f"the card so far is {page}" if self.rungs else f"nothing was compared yet, which {page} says"
        said = f"nothing was compared yet, and {page} is still an earlier call's" if stays else said
        self.pilots.display.say(f"stopped; {said}; the same command goes on")

    def _gate(self) -> tuple[float, float] | None:
        """The teacher's score on the validation rows, and as a share of which more is better; None if unmeasured."""
        for done in self.done.values():
            gate = done.result["reference"]["gate"]
            if gate and gate["metric"] == self._metric():
                score = float(gate["teacher"][gate["metric"]])
                return score, oriented(self.pilots.task(done.folder)) * score
        return None

    def _rows(self) -> tuple[int, int]:
        """Labelled rows, and texts without labels."""
        found = [done.result["data"] for done in self.done.values()]
        counts = [[data[name]["rows"] if data.get(name) else 0 for data in found] for name in ("train", "unlabeled")]
        return max(counts[0], default=0), max(counts[1], default=0)

    def _evidence(self) -> list[str]:
        said = evidence(self.done)
        rows, texts = self._rows()
        if texts:
            template = "{texts} texts without labels, {ratio:.1f} for each of {rows} labelled rows"
            said.append(Message(template, texts=texts, rows=rows, ratio=texts / rows))
        if self.curve is not None:
            found, share, few = self.curve
            template = (
                "learning curve: four times the labelled rows, {few} to {rows}, better {metric} by {gain:+.3g} "
                "({low:+.3g} to {high:+.3g}) at {share:.0%} of the steps"
            )
            low, high = found["interval"]
            named = {"metric": self._metric(), "gain": found["gain"], "low": low, "high": high}
            said.append(Message(template, few=few, rows=rows, share=share, **named))
        return said

    def _metric(self) -> str | None:
        done = self.done.get(PLAIN)
        return next(iter(done.result["metrics"]["validation"])) if done else None

    def _recipe(self, arm: Arm) -> Recipe:
        """The arm's own recipe, whole: with its test rows, into `OUTPUT/run`."""
        values = copy.deepcopy(arm.values)
        values["output"] = str(self.folder / "run")
        return from_dict(values, self.recipe.folder)

    def _wishes(self, chosen: str) -> list[str]:
        """What is missing that would allow another arm."""
        said: list[str] = []
        if "distilled with a pool" in self.out and not chosen.startswith("distilled with"):
            rows = self.done[PLAIN].result["data"]["train"]["rows"] if PLAIN in self.done else 0
            if rows:
                said.append(
                    Message("with {rows} texts without labels and a good teacher: {arm}",
                         rows=5 * rows, arm=Message("distilled with a pool"))
                )  # fmt: skip
        if "anchored on source inputs" in self.out and self.recipe.data.source.validation:
            arm = Message("anchored on source inputs")
            said.append(Message("with inputs of the old domain (no labels needed): {arm}", arm=arm))
        return said


def _turning(name: str, at: float) -> str:
    return Message("if the old domain counted {at:.2f} of the whole: {arm}", at=at, arm=Message(name))


def _seconds(budget: float | str | None) -> float | None:
    """A budget in seconds. UserError where it is none."""
    if budget is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(budget))
    if not found or not float(found[1]):
        fix = "write it so, or leave it out"
        raise UserError(Problem("the call", "--budget", str(budget), "a time, such as 90s, 30m or 2h", fix))
    return float(found[1]) * {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}[found[2]]
