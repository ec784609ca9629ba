"""What users bring by mistake, over all nine tasks: refused by a message that mends it; and no whole input is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.bad_inputs import cases
from tests.bad_inputs.campaign import Campaign
from tests.bad_inputs.case import Case
from tests.bad_inputs.kinds import ABSENT, KINDS
from tests.bad_inputs.rows import TASKS


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("models"))


def fast_ones() -> set[str]:
    """Of each kind two cases that are refused and one that is well, far from each other in the table."""
    chosen = set()
    for kind in KINDS:
        refused = [case for case in cases.CASES if case.kind == kind and not case.valid]
        passed = [case for case in cases.CASES if case.kind == kind and case.valid]
        chosen |= {str(of[at * len(of) // 3]) for of, ats in ((refused, (0, 2)), (passed, (1,))) if of for at in ats}
    return chosen


FAST = fast_ones()


def first_ones() -> set[str]:
    """Of each input that several tasks meet the case of one of them."""
    others = [case for case in cases.CASES if str(case) not in FAST]
    first: dict[tuple[str, str], str] = {(case.kind, case.name): "" for case in cases.CASES if str(case) in FAST}
    for case in others:
        first.setdefault((case.kind, case.name), str(case))
    return FAST | set(first.values())


FIRST = first_ones()


def marked(case: Case) -> object:
    """Six hundred more of the same kinds: with the slow tests, once each; and with the wide ones by each task."""
    marks = [] if str(case) in FAST else [pytest.mark.slow]
    marks += [] if str(case) in FIRST else [pytest.mark.wide]
    return pytest.param(case, id=str(case), marks=marks)


@pytest.mark.filterwarnings("ignore")  # of other libraries, which the command does not show either
@pytest.mark.parametrize("case", map(marked, cases.CASES))
def test_case(case: Case, campaign: Campaign, tmp_path: Path, monkeypatch, capsys):
    campaign.run(case, tmp_path, monkeypatch, capsys)


def test_every_kind_has_its_cases():
    refused = Counter(case.kind for case in cases.CASES if not case.valid)
    passed = Counter(case.kind for case in cases.CASES if case.valid)
    assert len(KINDS) == 97
    assert refused.keys() | passed.keys() == KINDS.keys() - ABSENT.keys()
    assert not [kind for kind in KINDS.keys() - ABSENT.keys() if refused[kind] < 2 or passed[kind] < 2]
    assert len(FAST) >= 250 and {case.task for case in cases.CASES if str(case) in FAST} == set(TASKS)
    assert {case.task for case in cases.CASES} == set(TASKS)
    assert max(Counter(map(str, cases.CASES)).values()) == 1
