"""`keeltune advise`: which method fits this data, what it would cost to be wrong, and the recipe to run.

    1  feasibility    the arms that the material allows; the others with the reason why not
    2  first rung     where there are more than three: all of them for a quarter of the steps, two seeds each
    3  second rung    the best two and plain fine-tuning for all of the steps, three seeds
    4  verdict        see `verdict`

A budget that is too small for that takes seeds away, then steps.

Pilots are ordinary runs below `OUTPUT/pilots`, scored on validation rows, never on test rows; called again, the command
goes on where it was stopped. The card is written after every pilot: of the first rung it compares the arms that are
done so far, and further seeds and the second rung are in it as soon as each of their arms has one.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from keeltune.advisor import candidates, card, verdict
from keeltune.advisor.candidates import PLAIN, Additions, Arm
from keeltune.advisor.pilots import Pilots, Rung, higher_is_better, rung_for
from keeltune.advisor.standings import FewerRows, Standings
from keeltune.advisor.verdict import Scored
from keeltune.recipe import from_dict, opened
from keeltune.recipe.fields import Recipe
from keeltune.reports import advice_page
from keeltune.runs import claim
from keeltune.runs.kept_rows import with_files
from keeltune.runs.run_folder import Run
from keeltune.training.preparation import prepare
from keeltune.utils import stop_signals
from keeltune.utils.errors import Diverged, Problem, Stopped, UserError
from keeltune.utils.files import write_json, write_text
from keeltune.utils.messages import Message
from keeltune.utils.progress import Display
from keeltune.utils.stop_signals import StopAsked

FULL_RUNS = 3.0
"""The budget where none is given: so many whole plain runs."""

WEIGHT = 0.5
"""What the old domain counts where one is named."""

OVERDRAFT = 1.1
"""How far a budget may be overdrawn to end a round of pilots, which is of use only as a whole."""

FINALISTS = 2
"""Arms beside plain fine-tuning that reach the second rung."""

FIRST_SHARE = 0.4
"""What the first rung may take of the budget, where there are two."""

FEWER, QUARTER = "plain on a quarter of the rows", 0.25


def advise(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    budget: float | str | None = None,
    source_weight: float | None = None,
    max_source_drop: float | None = None,
    display: Display | None = None,
    **additions: Unpack[Additions],
) -> dict[str, Any]:
    """Compares the methods that a recipe's material allows, by pilots, and says which to run.

    Args:
        recipe: any method's recipe with validation rows; `data.source.validation` names an old domain to keep.
        budget: seconds, or "90s", "30m", "2h"; None: as long as three plain runs.
        source_weight: what the old domain counts, from 0 to 1; None: ½ where one is named. max_source_drop: arms whose
            one-sided 90 % bound of the fall of the old domain's score lies above are out.
        teacher, pool, source_texts: a model, texts without labels, inputs of the old domain, where the recipe, which is
            one method's, does not name them.
    Returns the card: {"recommended", "sure", "p_better", "reason", "complete", "metric", "source_weight",
        "max_source_drop", "arms": [{"arm", "said", "rung", "utility", "target", "target_interval",
        "source", "source_interval", "source_drop_bound", "within", "seeds", "against_plain": {"gain", "interval", "se",
        "p_better"}}], "ruled_out": {arm: why}, "evidence": [text], "turning_points": [text], "cost": {"seconds",
        "budget", "pilots"}, "recipe": file}; also in `OUTPUT/advice.json` and `advice.html`. The recipe,
        `OUTPUT/recommended.yaml`, is ready for `keeltune train`. `target_interval` and `source_interval` are the 95 %
        intervals of the two scores over rows and seeds; `source` and what belongs to it are null without an old domain.
    Raises: UserError: the recipe's faults, no validation rows, a call at fault. Stopped: the card is there.
    """
    base = opened(with_files(recipe))
    display = display or Display()
    if base.data.named_validation is None:
        expected = "rows to compare the methods on, which are no test rows"
        raise UserError(base.problem("data.validation", expected=expected, fix="add data.validation: 0.1, say"))
    candidates.check_additions(base, additions)
    weight = (WEIGHT if base.data.source.validation else 0.0) if source_weight is None else source_weight
    standings = Standings(base, [candidates.plain_arm(base)], {}, weight, max_source_drop)
    folder = base.path(base.output)
    race = Race(standings, Pilots(base, folder / "pilots", 1, display), folder, _seconds(budget))
    with claim.owned(folder, display), stop_signals.listened():
        return _raced(race, base, additions)


def _raced(race: Race, base: Recipe, additions: Additions) -> dict[str, Any]:
    """The card of a race that is run, or goes on; of one that is stopped, what is known by then."""
    standings = race.standings
    try:
        standings.arms, standings.ruled_out = candidates.candidate_arms(base, candidates.resources_of(base, additions))
        material = prepare.prepare(from_dict(standings.arms[0].values, base.folder))
        race.pilots.steps = material.steps
        race.pilots.columns = candidates.columns_of(material, ("validation", "source_validation"))
        race.go()
    except StopAsked as signal:
        race.stopped()
        raise Stopped(f"stopped by {signal}; the same command goes on") from None
    except (Stopped, KeyboardInterrupt):
        race.stopped()
        raise
    return race.write(complete=True)


class Race:
    """Runs the pilots in their order, and writes the card that they make. `seconds`: the budget, None until known."""

    def __init__(self, standings: Standings, pilots: Pilots, folder: Path, seconds: float | None = None):
        self.standings, self.pilots, self.folder, self.seconds = standings, pilots, folder, seconds

    def go(self) -> None:
        arms, rungs = self.standings.arms, self.standings.rungs
        plain, cost = arms[0], sum(arm.cost for arm in arms)
        one_rung = len(arms) <= FINALISTS + 1  # a first rung would drop none
        share, seeds, part = (1.0, (0, 1, 2), 1.0) if one_rung else (0.25, (0, 1), FIRST_SHARE)
        rung = rung_for(part * FULL_RUNS, cost, share, seeds)
        first = Rung(rung.share if self.seconds is None else 0.25, (0,))
        if self._try(plain, first.share, 0) is None:
            reason = self.standings.ruled_out[PLAIN]
            raise UserError(Problem("the pilots", PLAIN, reason, "a plain run that ends", "try keeltune train first"))
        rungs.append((first, {PLAIN: self.pilots.scores(plain, first)}))
        self.write(complete=False)
        unit = self.pilots.cost(plain, Rung(1.0, (0,)))
        if self.seconds is None:
            self.seconds = FULL_RUNS * unit
        else:
            rung = rung_for(part * self._left() / unit, cost, share, seeds)
        self._rung(rung, arms)
        ranks = [line["arm"] for line in self.standings.ranked()]
        self._teacher_gate()
        if not one_rung:
            ranks = [name for name in ranks if name != PLAIN and name not in self.standings.ruled_out][:FINALISTS]
            self._final_rung([arm for arm in arms if arm.name in (PLAIN, *ranks)], rung, unit)
        self._fewer_rows(plain)

    def _final_rung(self, finalists: list[Arm], first: Rung, unit: float) -> None:
        """All of the steps for the best arms, if the budget has them; `unit`: seconds of a whole plain pilot."""
        cost = sum(self.pilots.cost(arm, Rung(1.0, (0,))) for arm in finalists) / unit
        rung = rung_for(self._left() / unit, cost, 1.0, (0, 1, 2))
        if len(finalists) > 1 and rung.share > first.share and self._left() > 0:
            self._rung(rung, finalists)

    def _left(self) -> float:
        """Seconds of the budget that no pilot has used."""
        assert self.seconds is not None
        return self.seconds - self.pilots.spent()

    def _fewer_rows(self, plain: Arm) -> None:
        """The learning curve: what a quarter of the labelled rows is worth, if the budget has a pilot left for it."""
        rung, scored = self.standings.rungs[-1]
        values = copy.deepcopy(plain.values)
        values["data"]["share"] = QUARTER * values["data"].get("share", 1.0)
        arm, pilot = Arm(FEWER, "", values), Rung(rung.share, (0,))
        if PLAIN not in scored or self.pilots.cost(plain, pilot) > self._left():
            return
        try:
            fewer = self.pilots.run(arm, rung.share, 0)
        except (UserError, Diverged):  # too few rows to take a quarter of, or to learn from
            return
        many, few = (self.pilots.scores(one, pilot) for one in (plain, arm))
        comparison = verdict.compared(many, few, 0.0, rung.share)
        self.standings.fewer_rows = FewerRows(comparison, rung.share, fewer.result["data"]["train"]["rows"])

    def _rung(self, rung: Rung, arms: list[Arm]) -> None:
        """All pilots of a rung, seed by seed, so that a stop leaves comparable ones; as far as the budget goes."""
        rungs = self.standings.rungs
        compared = any(len(scored) > 1 for _, scored in rungs)
        rungs.append((rung, {}))
        assert self.seconds is not None
        for number, seed in enumerate(rung.seeds):
            left = [arm for arm in arms if arm.name not in self.standings.ruled_out]
            cost = sum(self.pilots.cost(arm, Rung(rung.share, (seed,))) for arm in left)
            if number and self.pilots.spent() + cost > OVERDRAFT * self.seconds:
                self.pilots.display.say(f"the budget of {self.seconds:.0f} s ends before seed {seed}")
                return
            so_far = Rung(rung.share, rung.seeds[: number + 1])
            scored: dict[str, Scored] = {}
            for arm in left:
                if self._try(arm, rung.share, seed) is not None:
                    scored[arm.name] = self.pilots.scores(arm, so_far)
                elif arm.name == PLAIN:  # nothing to compare with: what was known stays
                    return
                if arm is left[-1] or not (number or compared):  # some arms say more than none, and less than all
                    rungs[-1] = (so_far, scored)
                self.write(complete=False)

    def _try(self, arm: Arm, share: float, seed: int) -> Run | None:
        """A pilot's run; an arm whose training diverges is out, with the reason."""
        try:
            run = self.pilots.run(arm, share, seed)
        except Diverged as error:
            self.standings.ruled_out[arm.name] = Message("its pilot diverged: {error}", error=str(error))
            return None
        self.standings.runs[arm.name] = run
        return run

    def _teacher_gate(self) -> None:
        """A teacher that is no better than a plain student is out, unless it also teaches on texts without labels."""
        name, plain, teacher = "distilled", self.standings.rungs[-1][1].get(PLAIN), self._teacher_score()
        if name not in self.standings.runs or plain is None or teacher is None:
            return
        score, utility = teacher
        if utility <= max(plain.targets):
            template = "the teacher ({metric} {score:.4g}) is no better than a plain student's pilot"
            self.standings.ruled_out[name] = Message(template, metric=self.standings.metric, score=score)

    def _teacher_score(self) -> tuple[float, float] | None:
        """The teacher's score on the validation rows, and as a share of which more is better; None if unmeasured."""
        for run in self.standings.runs.values():
            gate = run.result["reference"]["gate"]
            if gate and gate["metric"] == self.standings.metric:
                score = float(gate["teacher"][gate["metric"]])
                return score, higher_is_better(self.pilots.task(run.folder)) * score
        return None

    def write(self, *, complete: bool) -> dict[str, Any]:
        """Writes the card and the recommended recipe, from what there is."""
        arm, what_is_known = card.card_of(self.standings)
        cost = {"seconds": self.pilots.spent(), "budget": self.seconds, "pilots": self.pilots.count()}
        file = self.folder / "recommended.yaml"
        written = {**what_is_known, "complete": complete, "cost": cost, "recipe": str(file)}
        recipe = self.standings.recipe
        run = {**copy.deepcopy(arm.values), "output": str(self.folder / "run")}  # whole, with its test rows
        write_text(file, from_dict(run, recipe.folder).dump())
        write_json(self.folder / "advice.json", written)
        write_text(self.folder / "advice.html", advice_page.page(written, recipe.report.language))
        return written

    def stopped(self) -> None:
        """The card so far, in words too; that of an earlier call stays where this one has compared nothing yet."""
        page, known = self.folder / "advice.html", bool(self.standings.rungs)
        earlier = not known and (self.folder / "advice.json").is_file()
        if not earlier:
            self.write(complete=False)
        sentence = f"the card so far is {page}" if known else f"nothing was compared yet, which {page} says"
        sentence = f"nothing was compared yet, and {page} is still an earlier call's" if earlier else sentence
        self.pilots.display.say(f"stopped; {sentence}; the same command goes on")


def _seconds(budget: float | str | None) -> float | None:
    """A budget in seconds. UserError where it is none."""
    if budget is None:
        return None
    time = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(budget))
    if not time or not float(time[1]):
        fix = "write it so, or leave it out"
        raise UserError(Problem("the call", "--budget", str(budget), "a time, such as 90s, 30m or 2h", fix))
    return float(time[1]) * {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}[time[2]]
