"""A run's `result.json`, read back: of the shape that keeltune writes, or refused by the name of its file and field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from keeltune.runs.result_shape import empty
from keeltune.utils.errors import Problem, UserError, shown
from keeltune.utils.json import read_json

SEED = re.compile(r"seed-\d+(-failed)?")
"""The folders of a run of several seeds."""


class _Stored(BaseModel):
    """Keys beyond those that are read may hold anything."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


Interval = Annotated[list[float], Field(min_length=2, max_length=2)]
TEXTS = ("normaliser", "signature", "signatures", "language")
"""What metrics say beside their numbers."""


def _numbers(values: Any) -> Any:
    """Metrics without what they say in words."""
    if not isinstance(values, dict):
        return values
    return {name: value for name, value in values.items() if name not in TEXTS or not isinstance(value, str)}


Metrics = Annotated[dict[str, float | dict[str, Any] | None] | None, BeforeValidator(_numbers)]
Intervals = dict[str, Interval] | None
Named = dict[str, float]


class _Pair(_Stored):
    before: Metrics = None
    after: Metrics = None


class _Metrics(_Stored):
    validation: Metrics = None
    test: Metrics = None
    source: _Pair | None = None


class _IntervalPair(_Stored):
    before: Intervals = None
    after: Intervals = None


class _Intervals(_Stored):
    validation: Intervals = None
    test: Intervals = None
    source: _IntervalPair | None = None


class _Split(_Stored):
    rows: int
    fingerprint: str


class _Data(_Stored):
    train: _Split | None = None
    validation: _Split | None = None
    test: _Split | None = None
    source: _Split | None = None


class _DomainScoring(_Stored):
    language: str | None = None
    by: Literal["named", "detected", "assumed"] | None = None


class _Scoring(_Stored):
    target: _DomainScoring | None = None
    source: _DomainScoring | None = None


class _Objective(_Stored):
    weight: float | None = None


class _Budget(_Stored):
    share: float = 1.0


class _Point(_Stored):
    share: float
    target: Named
    source: Named


class _Interpolation(_Stored):
    metric: str
    points: list[_Point]
    kept: float = 1.0

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if not all(self.metric in p.target and self.metric in p.source for p in self.points):
            raise ValueError("points that have the metric in both domains")
        return self


class _Group(_Stored):
    rows: int
    value: float
    small: bool


class _Slices(_Stored):
    groups: dict[str, _Group]
    gap: float | None = None
    equalised_odds: float | None = None


class _Flips(_Stored):
    flip_rate: float


class _Bias(_Stored):
    slices: dict[str, _Slices]
    counterfactual: _Flips | None = None


class _SplitCalibration(_Stored):
    ece: float
    temperature: float | None = None


class _Calibration(_Stored):
    validation: _SplitCalibration | None = None
    test: _SplitCalibration | None = None


class _Seeds(_Stored):
    numbers: list[int]
    folders: list[str]
    best: str

    @model_validator(mode="after")
    def _own_folders(self) -> Self:
        own = all(SEED.fullmatch(name) for name in self.folders)
        if not own or self.best not in self.folders or len(self.numbers) != len(self.folders):
            raise ValueError("a folder seed-N for each number, the best among them")
        return self


class _Training(_Stored):
    seconds: float
    parameters: int | None = None
    trained_parameters: int | None = None
    examples_per_second: float | None = None


class _Inference(_Stored):
    rows: int
    seconds: float


class _Entry(_Stored):
    bytes: int
    sha256: str


class _Input(_Stored):
    file: str | None = None
    hub: str | None = None
    bytes: int | None = None
    sha256: str | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.hub is None and None in (self.file, self.bytes, self.sha256):
            raise ValueError("a file with its size and SHA-256, or a model of the hub")
        return self


class _Media(_Stored):
    files: int
    sha256: str


class _Digests(_Stored):
    inputs: dict[str, list[_Input]]
    media: _Media | None = None
    cache: str | None = None
    files: dict[str, _Entry]
    result: str | None = None


class _Cache(_Stored):
    folder: str


class _Reference(_Stored):
    cache: _Cache | None = None


class _Environment(_Stored):
    finished: str | None = None


class _Result(_Stored):
    """What is read of any result, also of a run that ended early."""

    task: str | None = None
    method: str | None = None
    status: str | None = None
    metrics: _Metrics | None = None
    intervals: _Intervals | None = None
    data: _Data | None = None
    scoring: _Scoring | None = None
    objective: _Objective | None = None
    training: _Training | None = None
    inference: _Inference | None = None
    budget: _Budget | None = None
    interpolation: _Interpolation | None = None
    bias: _Bias | None = None
    calibration: _Calibration | None = None
    seeds: _Seeds | None = None
    reference: _Reference | None = None
    digests: _Digests | None = None
    environment: _Environment | None = None


class _Completed(_Result):
    """What a finished run has besides."""

    task: str
    method: str
    metrics: _Metrics
    intervals: _Intervals
    data: _Data
    objective: _Objective
    training: _Training


def read_result(folder: Path) -> dict[str, Any]:
    """The contents of a folder's `result.json`; a key that an earlier version did not write is null.

    Raises: UserError: a file that cannot be read, is no JSON, or holds something of another shape, with each field.
    """
    file = folder / "result.json"
    result = read_json(file, kind=dict)
    model = _Completed if result.get("status") == "completed" else _Result
    try:
        model.model_validate(result)
    except ValidationError as error:
        raise UserError([_problem(file, fault) for fault in error.errors(include_url=False)]) from None
    return {**empty(), **result}


def _problem(file: Path, fault: Any) -> Problem:
    """pydantic's fault, without the branches of unions in its place."""
    steps = [str(step) for step in fault["loc"] if not re.fullmatch(r"(dict|list)\[.*|float|int|str", str(step))]
    found = "nothing" if fault["type"] == "missing" else shown(fault["input"])
    expected = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    fix = "copy the run folder again, or train anew (delete result.json and go on with --resume)"
    return Problem(str(file), ".".join(steps), found, expected, fix)
