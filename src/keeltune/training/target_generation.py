"""Texts that the teacher writes ahead of training: sequence-level distillation.

    generation: {targets: reference}       the student learns what the teacher writes, by cross-entropy
    generation: {targets: interpolated}    … of the teacher's beams the one nearest to the data's own target
    data.unlabeled                         texts without a target get the teacher's, and carry D there

Token-level distillation matches the teacher at each token of the data's targets; this matches it on the sequences that
it would write, approximated by its likeliest. Source: Kim & Rush 2016, https://arxiv.org/abs/1606.07947.

The texts lie in `.cache/<identity>/targets.jsonl` beside the recipe: the first line is the identity (the teacher's
digest, the task, how it writes), each other line a row's key, its text and a digest of both. Rows that are there are
not written again, whatever their order or split; another teacher has another file. A line that is not what was written
counts for nothing: its text is written again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch

from keeltune.data.dataset import Row, row_key
from keeltune.models import model_files
from keeltune.objective.predictions import IGNORED
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.batches import Autocast, by_length
from keeltune.tasks.common.example import Example
from keeltune.tasks.metrics.metric import right_answers
from keeltune.tasks.task import Task
from keeltune.training.preparation.compatibility import ReferenceFiles
from keeltune.utils.device import in_eval_mode
from keeltune.utils.files import make_folder, open_regular, write_atomically
from keeltune.utils.json import parse_json

BATCH, CANDIDATES = 32, 5
"""Rows written at a time, and beams among which an interpolated target is chosen."""


class TextStore:
    """A file of lines {"key", "text", "digest"} under its identity; what is not there yet is added line by line."""

    def __init__(self, recipe: Recipe, identity: dict[str, Any], name: str):
        self.identity = identity
        folder = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self.file = recipe.folder / ".cache" / folder / name
        self.texts: dict[str, Any] = self._read()

    def reread(self) -> None:
        """Takes over what another run has added since."""
        self.texts |= self._read()

    def _read(self) -> dict[str, Any]:
        if not self.file.is_file():
            return {}
        with open_regular(self.file) as stream:
            first, *lines = stream.read().split(b"\n")  # a text may hold U+2028
        if first != json.dumps(self.identity, sort_keys=True).encode():
            return {}
        texts = {}
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):  # the last line of a run that was killed, or a flipped bit
                entry = parse_json(line)
                if _line(entry["key"], entry["text"]) == line.decode() + "\n":
                    texts[entry["key"]] = entry["text"]
        return texts

    @contextmanager
    def adding(self) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """A function that adds texts by their keys; a run that is killed keeps what was added."""
        make_folder(self.file.parent)
        head = json.dumps(self.identity, sort_keys=True)
        lines = [_line(key, text) for key, text in self.texts.items()]
        write_atomically(self.file, (head + "\n" + "".join(lines)).encode())  # whole, whenever it is killed
        with self.file.open("a", encoding="utf-8") as stream:

            def add(texts: Mapping[str, Any]) -> None:
                for key, text in texts.items():
                    self.texts[key] = text
                    stream.write(_line(key, text))
                stream.flush()

            yield add


def _line(key: str, text: Any) -> str:
    """A line of the file: the only spelling of its text (or token ids) and of the digest that belongs to them."""
    entry = {"key": key, "text": text}
    digest = hashlib.sha256(json.dumps(entry).encode()).hexdigest()[:32]
    return json.dumps({**entry, "digest": digest}) + "\n"


class SampledTexts(TextStore):
    """Texts sampled from the source model itself, as token ids: what stands for a source domain that is not at hand.

    A decoder of text samples from nothing, its first token alone; other models sample an answer to each row's input.
    They carry D alone. Source: replay of generated text, Sun, Ho, Lee 2020, LAMOL, https://arxiv.org/abs/1909.03329.
    """

    def __init__(self, recipe: Recipe, task: Task, source: str):
        settings = task.settings
        identity = {
            "version": 4,
            "source": model_files.fingerprint(source),
            "task": recipe.task,
            "seed": recipe.seed,
            "max_new_tokens": settings.max_new_tokens,
            "max_length": settings.max_length,
            "prompt": task.asked_with,
            "template": getattr(task.tokenizer, "chat_template", None),
            "languages": list(settings.languages or ()),
        }
        super().__init__(recipe, identity, "drawn.jsonl")
        self.task, self.seed = task, recipe.seed

    def sample(
        self, model: Any, openings: Sequence[Example], device: str, autocast: Autocast, progress: Callable[[int], None]
    ) -> list[Example]:
        """The openings with what is sampled behind them; ids that are in the file are not sampled again."""
        missing = [example for example in openings if example.key not in self.texts]
        with self.adding() as add, in_eval_mode(model), torch.inference_mode(), torch.random.fork_rng():
            for indices in by_length(missing, BATCH):
                batch = [missing[i] for i in indices]
                first = hashlib.sha256(f"{self.seed}:{batch[0].key}".encode()).digest()
                torch.manual_seed(int.from_bytes(first[:7], "big"))
                with autocast():
                    sampled = self.task.sample_ids(model, batch, device)
                add({example.key: ids for example, ids in zip(batch, sampled, strict=True)})
                progress(len(batch))
        examples = []
        for example in openings:
            ids = self.texts[example.key]
            content = hashlib.sha256(json.dumps([example.key, ids]).encode()).hexdigest()
            examples.append(replace(self.task.answered(example, ids), key=content))
        return [example for example in examples if example.predictions]


class TeacherTargets(TextStore):
    """The teacher's texts, by the key of their row; what is not in the file is written by the model.

    `interpolated` texts depend on the data's own target, which their keys hold too.
    """

    def __init__(self, recipe: Recipe, task: Task, files: ReferenceFiles, interpolated: bool):
        self.writer: Task = files.reader or task
        settings = self.writer.settings
        identity = {
            "version": 5,
            "teacher": model_files.fingerprint(files.source),
            "task": recipe.task,
            "beams": settings.beams,
            "decoding": dict(settings.decoding),
            "max_new_tokens": settings.max_new_tokens,
            "max_length": settings.max_length,
            "prompt": self.writer.asked_with,
            "template": getattr(self.writer.tokenizer, "chat_template", None),
            "languages": list(settings.languages or ()),
            "choice": "interpolated" if interpolated else "likeliest",
        }
        self.task, self.interpolated = task, interpolated
        super().__init__(recipe, identity, "targets.jsonl")

    def write(
        self, model: Any, rows: Sequence[Row], device: str, autocast: Autocast, progress: Callable[[int], None]
    ) -> None:
        """Writes the texts of rows that have none yet, line by line: a killed run goes on where it was."""
        unique = {self.key(row): row for row in rows if self.key(row) not in self.texts}
        if not unique:
            return
        encoded = [self.writer.encode_scored(row, labelled=False) for row in unique.values()]
        if self.writer.listen(model, encoded, device):
            encoded = [self.writer.encode_scored(row, labelled=False) for row in unique.values()]
        whole = [(key, row, e[0]) for (key, row), e in zip(unique.items(), encoded, strict=True) if len(e) == 1]
        parts = [(key, e) for key, e in zip(unique, encoded, strict=True) if len(e) > 1]
        count = CANDIDATES if self.interpolated else 1
        with self.adding() as add, in_eval_mode(model), torch.inference_mode():
            for indices in by_length([example for *_, example in whole], BATCH):
                batch = [whole[i] for i in indices]
                with autocast():
                    candidates = self.writer.candidates(model, [example for *_, example in batch], device, count)
                add({key: self._chosen(texts, row) for (key, row, _), texts in zip(batch, candidates, strict=True)})
                progress(len(indices))
            for key, examples in parts:  # a text of several parts, each of them the likeliest
                with autocast():
                    answer = self.writer.combine(self.writer.predict(model, examples, device=device))
                add({key: answer.value})
                progress(1)

    def _chosen(self, texts: Sequence[str], row: Row) -> str:
        if not self.interpolated:
            return texts[0]
        gold = self.task.gold(row)
        return max(texts, key=lambda text: self.task.row_score(text, gold))

    def key(self, row: Row) -> str:
        """The row's input, and with `interpolated` its target too."""
        return row_key(row.fields, [c.name for c in self.task.columns if not c.label or self.interpolated])

    def _answered(self, row: Row) -> Row:
        """The row with the teacher's text, under the key of its content now: a cache holds answers to contents."""
        row = self.task.with_target(row, self.texts[self.key(row)])
        return replace(row, key=row_key(row.fields, [c.name for c in self.task.columns]))

    def agreement(self, row: Row) -> float:
        """The teacher's text held against the data's own target: its score as a share of that of the right answer.

        With speech it filters pseudo-labels by their word error rate, as Distil-Whisper does: Gandhi et al. 2023,
        https://arxiv.org/abs/2311.00430, section 4.2.
        """
        gold = self.task.gold(row)
        best = self.task.row_score(right_answers(gold)[0], gold)
        return self.task.row_score(self.texts[self.key(row)], gold) / best if best else 0.0

    def examples(self, rows: Sequence[Row], *, learnt: bool) -> list[Example]:
        """The rows with the teacher's texts as examples; not `learnt`: they carry D alone.

        A text that this model cannot write (letters that it does not have, more than its frames) is not learnt.
        """
        examples: list[Example] = []
        for row in rows:
            answered = self._answered(row)
            encoded = self.task.encode_for_all(answered)
            if not learnt or any(True for _ in self.task.row_faults(answered, encoded)):
                encoded = [replace(e, targets=[IGNORED] * len(e.targets)) for e in encoded]
            examples += encoded
        return examples
