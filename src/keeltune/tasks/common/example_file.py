"""Examples in a file: each is made anew, the same, when it is asked for, and hardly anything of it is kept in memory.

As Python's objects an example of 40 tokens takes 3 kB. In the file it takes some 500 bytes, none of which are held: the
file (Arrow's, a list a row for each part of an example) is mapped into memory, and the system keeps of it what is read
and what there is room for. Processes that are forked share it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from keeltune.tasks.common.example import Example

BLOCK = 4096
"""Examples that lie in the file together."""

LISTS = ("targets", "weights", "predicted")
"""The parts of an example that are numbers in a list or a tuple, besides its inputs."""

SMALL = ("attention_mask", "token_type_ids", "predicted")
"""Parts whose numbers are below 256; all other whole numbers are below 2³¹."""

DTYPES: dict[str, Any] = {"int32": np.int32, "uint8": np.uint8, "double": np.float64}
"""NumPy's types of Arrow's. Its arrays' own `to_numpy` imports pandas, which takes a second."""

ARRAY = "\0array"
"""How a note that is a Python array is spelled: {ARRAY: [its type code, its numbers]}."""


class Unfit(Exception):
    """An example that no file can hold as it is: a picture, the reading of another tokenizer, numbers out of range."""


class ExampleWriter:
    """Writes rows' examples to a file, in their order; all have the same parts as the first."""

    def __init__(self, path: Path):
        self._path, self._names, self._tuples = path, tuple[str, ...](), list[bool]()
        self._sizes, self._waiting, self._streams = list[int](), list[Example](), list[Any]()

    def add(self, examples: Sequence[Example]) -> None:
        """A row's examples. Raises `Unfit`, also for one that was added before, and OSError."""
        for example in examples:
            if not self._names:
                self._names, self._tuples = tuple(example.inputs), [type(getattr(example, n)) is tuple for n in LISTS]
            _require_fit(example, self._names, self._tuples)
        self._waiting += examples
        self._sizes.append(len(examples))
        while len(self._waiting) >= BLOCK:
            self._write(self._waiting[:BLOCK])
            del self._waiting[:BLOCK]

    def close(self) -> np.ndarray:
        """Ends the file: how many examples each row has, [rows]. Raises as `add`."""
        if self._waiting or not self._streams:
            self._write(self._waiting)
            self._waiting = []
        self.abandon()
        return np.array(self._sizes, dtype=np.int32)

    def abandon(self) -> None:
        """Closes the file as it is."""
        for stream in self._streams:
            stream.close()
        self._streams = []

    def _write(self, examples: Sequence[Example]) -> None:
        import pyarrow

        columns = dict(_columns(examples, self._names))
        schema = pyarrow.schema(
            [(name, column.type) for name, column in columns.items()],
            metadata={b"parts": orjson.dumps([self._names, self._tuples])},
        )
        if not self._streams:
            file = pyarrow.OSFile(str(self._path), "wb")
            self._streams = [pyarrow.ipc.new_file(file, schema), file]
        self._streams[0].write_batch(pyarrow.record_batch(list(columns.values()), schema=schema))


def _columns(examples: Sequence[Example], names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Each column of the file, by its name."""
    for name in names:
        yield f"inputs.{name}", _lists([e.inputs[name] for e in examples], "uint8" if name in SMALL else "int32")
    yield "targets", _lists([example.targets for example in examples], "int32")
    yield "weights", _lists([example.weights for example in examples], "double")
    yield "predicted", _lists([example.predicted for example in examples], "uint8")
    yield "key", _bytes([example.key.encode() for example in examples])
    yield "notes", _bytes([_spelled(example.notes) for example in examples])
    yield "length", _array([example.length for example in examples], len(examples), "int32")
    yield "truncated", _array([example.truncated for example in examples], len(examples), "uint8")


def _array(values: Iterable[Any], count: int, kind: str) -> Any:
    """So many numbers as Arrow's array, of its buffer: `pyarrow.array` of a list imports pandas. Raises `Unfit`."""
    import pyarrow

    dtype = np.dtype(DTYPES[kind])
    try:
        numbers = np.fromiter(values, dtype=np.float64 if kind == "double" else np.int64, count=count)
    except OverflowError as error:
        raise Unfit from error
    if count and kind != "double":
        limits = np.iinfo(dtype)
        if numbers.min() < limits.min or numbers.max() > limits.max:
            raise Unfit
    buffers = [None, pyarrow.py_buffer(numbers.astype(dtype))]
    return pyarrow.Array.from_buffers(pyarrow.type_for_alias(kind), count, buffers)


def _lists(values: Sequence[Sequence[Any]], kind: str) -> Any:
    """Lists of numbers as one column. Raises `Unfit`."""
    import pyarrow

    starts = _starts(values)
    numbers = _array(chain.from_iterable(values), int(starts[-1]), kind)
    buffers = [None, pyarrow.py_buffer(starts)]
    return pyarrow.Array.from_buffers(pyarrow.list_(numbers.type), len(values), buffers, children=[numbers])


def _bytes(values: Sequence[bytes]) -> Any:
    """Bytes as one column."""
    import pyarrow

    buffers = [None, pyarrow.py_buffer(_starts(values)), pyarrow.py_buffer(b"".join(values))]
    return pyarrow.Array.from_buffers(pyarrow.binary(), len(values), buffers)


def _starts(values: Sequence[Sequence[Any]]) -> np.ndarray:
    """Where each of the values begins in all of them together, and where the last one ends. Raises `Unfit`."""
    starts = np.concatenate([[0], np.cumsum([len(value) for value in values], dtype=np.int64)])
    if starts[-1] > np.iinfo(np.int32).max:
        raise Unfit
    return starts.astype(np.int32)


def _require_fit(example: Example, names: Sequence[str], tuples: Sequence[bool]) -> None:
    """Raises `Unfit` unless what is read of the file is the example, types and all."""
    parts = [getattr(example, name) for name in LISTS]
    plain = example.count is None and not example.anchored and not example.others and type(example.length) is int
    if tuple(example.inputs) != tuple(names) or [type(part) is tuple for part in parts] != tuples or not plain:
        raise Unfit
    for values, kind in (*((v, int) for v in example.inputs.values()), *zip(parts, (int, float, bool), strict=True)):
        if type(values) not in (list, tuple) or not set(map(type, values)) <= {kind}:
            raise Unfit
    if any(type(values) is not list for values in example.inputs.values()):
        raise Unfit


def _spelled(notes: Mapping[str, Any]) -> bytes:
    """Notes as JSON that says them exactly; Python's arrays as numbers. Raises `Unfit`."""
    if not notes:
        return b""
    spelled = {
        name: {ARRAY: [value.typecode, value.tolist()]} if type(value) is array else _exact(value)
        for name, value in notes.items()
    }
    try:
        return orjson.dumps(_exact(spelled), option=orjson.OPT_PASSTHROUGH_SUBCLASS)
    except TypeError as error:
        raise Unfit from error


def _exact(value: Any) -> Any:
    """A value of which JSON gives the same back."""
    kind = type(value)
    if kind is list:
        if not set(map(type, value)) <= {int, bool, str}:
            for one in value:
                _exact(one)
    elif kind is dict:
        for name, one in value.items():
            if type(name) is not str:
                raise Unfit
            _exact(one)
    elif not (kind in (int, bool, str, type(None)) or (kind is float and np.isfinite(value))):
        raise Unfit
    return value


def _read_notes(spelled: bytes) -> dict[str, Any]:
    notes: dict[str, Any] = orjson.loads(spelled) if spelled else {}
    for name, value in notes.items():
        if type(value) is dict and ARRAY in value:
            notes[name] = array(*value[ARRAY])
    return notes


class _Block:
    """The columns of some examples, as arrays that lie in the file."""

    def __init__(self, batch: Any, inputs: Sequence[str], tuples: Sequence[bool]):
        self.inputs, self.tuples = inputs, tuples
        self.length, self.truncated = (_numbers(batch[n], batch.num_rows) for n in ("length", "truncated"))
        self.lists = {name: _list_column(batch[name]) for name in (*(f"inputs.{n}" for n in inputs), *LISTS)}
        self.bytes = {name: _byte_column(batch[name]) for name in ("key", "notes")}

    def _list(self, name: str, i: int) -> list[Any]:
        starts, values = self.lists[name]
        numbers: list[Any] = values[starts[i] : starts[i + 1]].tolist()
        return numbers

    def _text(self, name: str, i: int) -> bytes:
        starts, values = self.bytes[name]
        return bytes(values[starts[i] : starts[i + 1]])

    def example(self, i: int) -> Example:
        parts = [self._list(name, i) for name in LISTS]
        parts[2] = list(map(bool, parts[2]))
        targets, weights, predicted = (tuple(p) if t else p for p, t in zip(parts, self.tuples, strict=True))
        return Example(
            {name: self._list(f"inputs.{name}", i) for name in self.inputs},
            targets,
            weights,
            self._text("key", i).decode(),
            int(self.length[i]),
            predicted=predicted,
            truncated=bool(self.truncated[i]),
            notes=_read_notes(self._text("notes", i)),
        )


def _numbers(column: Any, count: int) -> np.ndarray:
    """The numbers of a column without lists."""
    return np.frombuffer(column.buffers()[1] or b"", dtype=DTYPES[str(column.type)])[:count]


def _list_column(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Where each list of numbers starts, and the numbers of all."""
    _, starts, _, values = column.buffers()
    return np.frombuffer(starts, dtype=np.int32), np.frombuffer(values or b"", DTYPES[str(column.type.value_type)])


def _byte_column(column: Any) -> tuple[np.ndarray, memoryview]:
    """Where each value starts, and the bytes of all."""
    _, starts, values = column.buffers()
    return np.frombuffer(starts, dtype=np.int32), memoryview(values or b"")


class ExampleTable:
    """The examples of a file that an `ExampleWriter` wrote. It may go once it is open."""

    def __init__(self, path: Path):
        import pyarrow

        self.path = path
        reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        inputs, tuples = orjson.loads(reader.schema.metadata[b"parts"])
        self.blocks = [_Block(reader.get_batch(i), inputs, tuples) for i in range(reader.num_record_batches)]
        self.lengths = np.concatenate([np.empty(0, dtype=np.int32), *(block.length for block in self.blocks)])
        sizes = [len(block.length) for block in self.blocks]
        assert all(size == BLOCK for size, _ in pairwise(sizes))

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> Any:
        return ExampleTable, (self.path,)

    def example(self, i: int) -> Example:
        """The example of this index."""
        return self.blocks[i // BLOCK].example(i % BLOCK)
