"""Texts, questions, tags, translations, chats, pictures and sounds: two domains of each.

`python examples/make_data` writes them.
"""

from __future__ import annotations

import io
import json
import math
import random
import struct
import wave
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from keeltune.cli import demo_data

PEOPLE = ("Anna", "Ben", "Chen", "Dara", "Emil", "Fatima", "Georg", "Hana", "Ivan", "Julia")
THINGS = ("printer", "invoice", "laptop", "contract", "door", "heating", "keyboard", "server", "badge", "window")
PLACES = ("Berlin", "Lagos", "Osaka", "Lima", "Oslo", "Cairo", "Quito", "Delhi")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
ANIMALS = (("dog", "Hund"), ("bird", "Vogel"), ("fox", "Fuchs"), ("bear", "Bär"), ("fish", "Fisch"), ("man", "Mann"))
DOINGS = (("runs", "rennt"), ("sleeps", "schläft"), ("waits", "wartet"), ("sings", "singt"), ("eats", "isst"))
WHERE = (("in the garden", "im Garten"), ("at the lake", "am See"), ("in the house", "im Haus"),
         ("under the tree", "unter dem Baum"), ("on the street", "auf der Straße"))  # fmt: skip
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 80, 220), "yellow": (235, 210, 40)}

Row = dict[str, Any]


def mails(rng: random.Random) -> Iterator[Row]:
    for person, thing, place, day in _shuffled(rng, PEOPLE, THINGS, PLACES, DAYS):
        text = f"Hello,\n\nthe {thing} in our {place} office has not worked since {day}. Can you look?\n\n{person}"
        yield {"document": text, "summary": f"The {thing} in {place} does not work"}


def dialogues(rng: random.Random) -> Iterator[Row]:
    for person, thing, place, day in _shuffled(rng, PEOPLE, THINGS, PLACES, DAYS):
        text = f"{person}: Is the {thing} ready?\nOffice: It comes to {place} on {day}.\n{person}: Thank you."
        yield {"document": text, "summary": f"{person} asks for the {thing}, which comes on {day}."}


def wiki(rng: random.Random) -> Iterator[Row]:
    for person, thing, place, year in _shuffled(rng, PEOPLE, THINGS, PLACES, range(1950, 2020)):
        context = f"The {thing} museum of {place} was founded in {year}. Its first director was {person}."
        yield _question(f"When was the {thing} museum of {place} founded?", context, str(year))


def reddit(rng: random.Random) -> Iterator[Row]:
    for person, thing, place, day in _shuffled(rng, PEOPLE, THINGS, PLACES, DAYS):
        context = f"so my {thing} broke on {day} and {person} from the shop in {place} fixed it for free lol"
        yield _question(f"Who fixed the {thing}?", context, person)


def web(rng: random.Random) -> Iterator[Row]:
    for person, thing, place, verb in _shuffled(rng, PEOPLE, THINGS, PLACES, ("bought", "sold", "found", "broke")):
        tokens = [person, verb, "the", thing, "in", place]
        tags = ["B-ARG0", "B-V", "B-ARG1", "I-ARG1", "B-ARGM-LOC", "I-ARGM-LOC"]
        yield {"tokens": tokens, "predicate_index": 1, "tags": tags}


def reviews(rng: random.Random) -> Iterator[Row]:
    for thing, person, day, verb in _shuffled(rng, THINGS, PEOPLE, DAYS, ("repaired", "delivered", "lost", "praised")):
        tokens = ["On", day, person, verb, "my", thing]
        tags = ["B-ARGM-TMP", "I-ARGM-TMP", "B-ARG0", "B-V", "B-ARG1", "I-ARG1"]
        yield {"tokens": tokens, "predicate_index": 3, "tags": tags}


def captions(rng: random.Random) -> Iterator[Row]:
    for (animal, tier), (does, tut), (place, ort) in _shuffled(rng, ANIMALS, DOINGS, WHERE):
        yield {"source": f"A {animal} {does} {place}.", "target": f"Ein {tier} {tut} {ort}."}


def manuals(rng: random.Random) -> Iterator[Row]:
    parts = (("lamp", "Lampe"), ("pump", "Pumpe"), ("key", "Taste"), ("battery", "Batterie"), ("card", "Karte"),
             ("door", "Tür"), ("line", "Leitung"), ("filter", "Patrone"))  # fmt: skip
    doings = (("Press", "Drücken"), ("Check", "Prüfen"), ("Clean", "Reinigen"), ("Remove", "Entfernen"))
    times = (("now", "jetzt"), ("twice", "zweimal"), ("daily", "täglich"), ("first", "zuerst"), ("again", "erneut"))
    for (part, teil), (do, tun), (when, wann) in _shuffled(rng, parts, doings, times):
        yield {"source": f"{do} the {part} {when}.", "target": f"{tun} Sie die {teil} {wann}."}


def chats(rng: random.Random) -> Iterator[Row]:
    for a, b, (sign, name) in _shuffled(rng, range(2, 30), range(2, 30), (("+", "sum"), ("-", "difference"))):
        answer = a + b if sign == "+" else a - b
        yield _chat(f"What is the {name} of {a} and {b}?", f"{a} {sign} {b} = {answer}")


def support(rng: random.Random) -> Iterator[Row]:
    for thing, place, day, person in _shuffled(rng, THINGS, PLACES, DAYS, PEOPLE):
        yield _chat(f"I am {person}. My {thing} is broken.", f"{person}, bring the {thing} to {place} on {day}.")


def photos(rng: random.Random) -> Iterator[Row]:
    """Squares of a colour on another: the picture is written beside the rows."""
    yield from _pictures(rng, "square", "a photograph of a {} square on {}")


def drawings(rng: random.Random) -> Iterator[Row]:
    yield from _pictures(rng, "circle", "a drawing of a {} circle on {}")


def calls(rng: random.Random) -> Iterator[Row]:
    """Numbers as tones, one a digit: no speech, but sound of which a text can be told."""
    yield from _tones(rng, 300)


def speaker(rng: random.Random) -> Iterator[Row]:
    yield from _tones(rng, 500)


SETS: dict[str, Callable[[random.Random], Iterator[Row]]] = {
    made.__name__: made
    for made in (mails, dialogues, wiki, reddit, web, reviews, captions, manuals, chats, support, photos, drawings,
                 calls, speaker)
}  # fmt: skip

UNLABELED = {"reddit": ("question", "context"), "reviews": ("tokens", "predicate_index")}
"""Sets with rows that have no label, and the columns that these have."""


def write(folder: Path, rows: int = 100, seed: int = 0) -> None:
    """Writes every data set into `folder`: `rows` to train on, and a quarter of them to choose and to test by each."""
    few = max(4, rows // 4)
    demo_data.write(folder, seed=seed, source=rows, target=rows, unlabeled=rows, validation=few, test=few)
    for name, made in SETS.items():
        stream = made(random.Random(f"{name} {seed}"))
        for split, count in {"test": few, "validation": few, "train": rows}.items():
            _write(folder / name, split, [next(stream) for _ in range(count)])
        if name in UNLABELED:
            bare = [{column: row[column] for column in UNLABELED[name]} for row in (next(stream) for _ in range(rows))]
            _write(folder / name, "unlabeled", bare)


def _write(folder: Path, split: str, rows: list[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        for column, ending in (("image", "png"), ("audio", "wav")):
            if column in row:
                name = f"{split}-{number}.{ending}"
                (folder / name).write_bytes(row[column])
                row[column] = name
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


def _shuffled(rng: random.Random, *parts: Any) -> Iterator[Any]:
    """Every combination once, in random order, then anew."""
    every = list(product(*parts))
    while True:
        rng.shuffle(every)
        yield from every


def _question(question: str, context: str, answer: str) -> Row:
    return {"question": question, "context": context,
            "answers": {"text": [answer], "answer_start": [context.index(answer)]}}  # fmt: skip


def _chat(question: str, answer: str) -> Row:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _pictures(rng: random.Random, shape: str, said: str) -> Iterator[Row]:
    for front, back, size in _shuffled(rng, COLOURS, COLOURS, range(8, 28)):
        if front != back:
            yield {"image": _png(shape, COLOURS[front], COLOURS[back], size), "captions": [said.format(front, back)]}


def _png(shape: str, front: tuple[int, ...], back: tuple[int, ...], size: int, width: int = 64) -> bytes:
    """A PNG of `width` by `width` pixels, eight bits a colour."""
    lines = bytearray()
    for y in range(width):
        lines.append(0)  # no filter
        for x in range(width):
            dx, dy = abs(x - width / 2), abs(y - width / 2)
            inside = math.hypot(dx, dy) <= size if shape == "circle" else max(dx, dy) <= size
            lines += bytes(front if inside else back)
    head = struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(lines))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def _tones(rng: random.Random, base: int, rate: int = 16_000) -> Iterator[Row]:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for digits in _shuffled(rng, *[range(10)] * 3):
        samples = [
            int(12_000 * math.sin(2 * math.pi * (base + 60 * digit) * i / rate))
            for digit in digits
            for i in range(rate // 5)
        ]
        yield {"audio": _wav(samples, rate), "text": " ".join(names[digit] for digit in digits)}


def _wav(samples: list[int], rate: int) -> bytes:
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return held.getvalue()
