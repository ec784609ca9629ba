"""Each split's rows to examples (how is the task's: `Task.encode`), and what becomes of rows that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from keeltune.data.dataset import Row, spread, without
from keeltune.data.row_problems import RowProblem, own_name
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.example_file import ExampleWriter, Unfit
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.task import Task
from keeltune.training.preparation.encoded_rows import RowExamples, Shelf, belong_on_disk, identity_of
from keeltune.training.preparation.material import LEARNT, OLD, SCORED
from keeltune.utils.errors import Problem, StateRefused, UserError


def encode_splits(
    task: Task,
    rows: Mapping[str, Sequence[Row]],
    anchor_task: Task | None = None,
    limit: int | None = None,
    shelf: Shelf | None = None,
) -> tuple[dict[str, Sequence[Row]], dict[str, RowExamples], list[RowProblem]]:
    """The rows of each split that this model can take, their examples, and the problems of the others.

    anchor_task   encodes the rows of a source domain that has labels of its own
    limit         how many rows of a split are encoded at most, spread evenly; the others are taken as they are
    shelf         where examples lie that are too many for memory; None: all are held
    """
    taken: dict[str, Sequence[Row]] = {}
    encoded: dict[str, RowExamples] = {}
    problems: list[RowProblem] = []
    for name, split in rows.items():
        reader = anchor_task if anchor_task is not None and name in OLD else task
        if limit is None and shelf is not None and belong_on_disk(reader, split):
            encoded[name], faulty = encode_on_disk(reader, split, name, shelf)
        else:
            tried = spread(split, limit)
            _, encoded[name], faulty = encode_rows(reader, tried, partial(encode_row, reader, split=name))
        bad = {(problem.file, problem.line) for problem in faulty}
        taken[name] = without(split, bad)
        problems += faulty
    return taken, encoded, problems


def encode_on_disk(task: Task, rows: Sequence[Row], split: str, shelf: Shelf) -> tuple[RowExamples, list[RowProblem]]:
    """The examples of the rows that this model can take, and the problems of the others; in lists where the disk is
    full, or cannot hold what they are."""
    encode = partial(encode_row, task, split=split)
    identity = identity_of(task, rows, "scored" if split in SCORED else "learnt" if split in LEARNT else "read")
    if (known := shelf.known(identity)) is not None and len(known) == len(rows):
        list(task.row_faults(rows[0], known[0]))  # which a task may hold the others against
        return known, []
    problems: list[RowProblem] = []

    def write(writer: ExampleWriter) -> bool:
        for row, examples, faults in _tried(task, rows, encode):
            problems.extend(row_problem(row, fault) for fault in faults)
            if not faults:
                writer.add(examples)
        return not problems

    try:
        return shelf.filled(identity, write), problems
    except (Unfit, OSError):
        return encode_rows(task, rows, encode)[1:]


def encode_rows(
    task: Task, rows: Sequence[Row], encode: Callable[[Row], list[Example]]
) -> tuple[list[Row], list[list[Example]], list[RowProblem]]:
    """The rows that this model can take, their examples, and the problems of the others."""
    taken: list[Row] = []
    encoded: list[list[Example]] = []
    problems: list[RowProblem] = []
    for row, examples, faults in _tried(task, rows, encode):
        problems += [row_problem(row, fault) for fault in faults]
        if not faults:
            taken.append(row)
            encoded.append(examples)
    return taken, encoded, problems


TOGETHER = 256
"""Rows whose texts are tokenized in one call."""


def _tried(
    task: Task, rows: Sequence[Row], encode: Callable[[Row], list[Example]]
) -> Iterator[tuple[Row, list[Example], list[Problem | Fault]]]:
    """Each row with its examples, and what is wrong with it."""
    source = iter(rows)
    while block := list(islice(source, TOGETHER)):
        with task.encoding_ahead(block):
            for row in block:
                faults: list[Problem | Fault] = []
                examples: list[Example] = []
                try:
                    examples = encode(row)
                    faults += [*id_faults(task, examples), *task.row_faults(row, examples)]
                except StateRefused:  # a file that was replaced meanwhile: no fault of the row, and not to be skipped
                    raise
                except UserError as error:  # of this row alone, such as a recording too short to be heard
                    faults += error.problems
                yield row, examples, faults


PLACES = ("image_token_id", "image_token_index", "video_token_id")
"""How configurations call the tokens in whose place a model puts a picture; they need no row of their own."""


def id_faults(task: Task, examples: Sequence[Example]) -> Iterator[Fault]:
    """Ids beyond the tables of the model that reads or writes them: they would be read from elsewhere in memory."""
    bounds = task.settings.bounds
    limits = {"input_ids": bounds.reads, "decoder_input_ids": bounds.reads, "token_type_ids": bounds.segments}
    for example in examples:
        found = {name: (example.inputs[name], limits[name]) for name in limits if name in example.inputs}
        if task.choices == "tokens":
            found["targets"] = example.targets, bounds.writes
        for name, (ids, limit) in found.items():
            if limit is not None and len(ids) and max(ids) >= limit and not _only_places(task, ids, limit):
                yield Fault("model", f"{name} beyond the model's", f"{name} of {max(ids)}",
                            f"ids below {limit}, which the model has",
                            "use the tokenizer that the model was trained with")  # fmt: skip
    for name, companion in task.companions.items():
        yield from id_faults(companion, [e.others[name] for e in examples if name in e.others])


def _only_places(task: Task, ids: Sequence[int], limit: int) -> bool:
    """Whether those of the ids beyond the limit stand for pictures."""
    places = {getattr(task.settings.config, name, None) for name in PLACES}
    return all(i < limit or i in places for i in ids)


def row_problem(row: Row, fault: Fault | Problem) -> RowProblem:
    """A fault as a problem of its row."""
    return RowProblem(
        f"{row.file}:{row.line}", fault.field, fault.found, fault.expected, fault.fix, fault.kind,
        file=row.file, line=row.line, id=own_name(row.fields),
    )  # fmt: skip


def encode_row(task: Task, row: Row, split: str) -> list[Example]:
    """A row's examples, with the encodings that other readers of the same row need where it is trained on."""
    if split in SCORED:
        return task.encode_scored(row)
    return task.encode_for_all(row, labelled=split in LEARNT)


def heard(
    task: Task,
    model: Any,
    rows: Mapping[str, Sequence[Row]],
    encoded: MutableMapping[str, RowExamples],
    device: str,
) -> list[str]:
    """Completes the examples of each split that only the model can complete (`Task.listen`), in `encoded` itself; what
    was heard, in words."""
    if task.reads == "text":
        return []
    open_rows = {
        name: [n for n, examples in enumerate(split) if any(e.notes.get("open") for e in examples)]
        for name, split in encoded.items()
        if name in rows
    }
    if not any(open_rows.values()):
        return []
    notes = task.listen(model, [encoded[name][n] for name, places in open_rows.items() for n in places], device)
    for name, places in open_rows.items():
        split = list(encoded[name])
        for n in places:
            split[n] = encode_row(task, rows[name][n], name)
        encoded[name] = split
    return notes


def field_of(split: str) -> str:
    """The recipe's field that names a split's file."""
    if split == "source":
        return "data.source.test"
    return f"data.source.{split.removeprefix('source_')}" if split.startswith("source_") else f"data.{split}"
