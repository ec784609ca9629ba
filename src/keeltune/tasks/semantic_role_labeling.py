from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.objective.predictions import IGNORED
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.tag_schemes import OUTSIDE, in_span
from keeltune.tasks.common.word_pieces import Reading, frame_of, special_token, window
from keeltune.tasks.families.sequence_labeling import SequenceLabeling
from keeltune.tasks.metrics.argument_f1 import PREDICATE, ArgumentF1


class SemanticRoleLabeling(SequenceLabeling):
    """Who did what to whom: the arguments of one predicate of a sentence, as BIO tags of its words.

    What a model reads is a pair of texts, the predicate and its sentence, with the predicate marked in the sentence:

        [CLS] eats [SEP] the cat that eats [SEP] eats [SEP] fish [SEP]         (of "the cat that eats eats fish", 4)

    The pair is Shi & Lin's, https://arxiv.org/abs/1904.05255, turned round: a decoder reads from the left, and would
    tag the subject before it knew the predicate. The marks say which one is meant where a word occurs twice. Shi & Lin
    say that by an embedding beside BERT, and others by segment numbers; many models have only one segment, and none
    would still be what it is with a part more. The mark is the tokenizer's own separator (or end of text): every
    vocabulary has one, trained, and no word is made of it. A decoder still reads the words to the left of the predicate
    without knowing where it will come. A sentence that is too long keeps the words nearest to the predicate.

    Metrics: F1, precision and recall of arguments over all roles, 0..1, as CoNLL-2005's srl-eval.pl counts
    (`metrics/argument_f1.py`). V, the predicate, is left out.
    """

    scored_by = (ArgumentF1,)
    columns = (
        Column("tokens", "words"),
        Column("predicate_index", "index"),
        Column("tags", "tags", label=True),
    )

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterable[Fault]:
        yield from super().faults(row, labelled=labelled)
        yield from _bio_faults(row.fields["tags"] if labelled else ())
        index, words = row.fields["predicate_index"], len(row.fields["tokens"])
        if index >= words:
            expected = f"a word of the sentence: 0 to {words - 1}"
            yield Fault("predicate_index", "past the end", str(index), expected, "count the words from 0")

    def setup(self) -> None:
        super().setup()
        self.separator = special_token(self.tokenizer)
        self.frame = frame_of(self.tokenizer, getattr(self.settings.config, "type_vocab_size", None))

    def recipe_faults(self) -> Iterable[Fault]:
        if not any(name.startswith("B-") for name in self.names):
            found, expected = ", ".join(self.names[:10]), "tags: O, B-ROLE and I-ROLE"
            yield Fault("data.labels", "no BIO tags", found, expected, "write them so, or leave data.labels out")
        limit, least = self.settings.max_length, len(self.frame) + 4
        if limit is not None and limit < least:
            expected = f"at least {least}: a predicate, its marks, and a word"
            yield Fault("max_length", "no room for a word", str(limit), expected, "raise it")

    def read(self, row: Row) -> list[Reading]:
        words, index = row.fields["tokens"], row.fields["predicate_index"]
        pieces = self.pieces(words)
        predicate, first, shown = pieces[index], 0, pieces
        if self.settings.max_length is not None:
            room = self.settings.max_length - len(self.frame) - 2
            if len(predicate) + sum(map(len, pieces)) > room:
                predicate = predicate[: max(1, room // 4)]
                pieces = [*pieces[:index], predicate, *pieces[index + 1 :]]
                first, shown = window(pieces, index, max(1, room - len(predicate)))
        truncated = sum(map(len, shown)) < sum(map(len, self.pieces(words)))
        text: list[int] = []
        heads = []
        for word, ids in enumerate(shown, first):
            mark = [self.separator] if word == index else []
            heads.append(len(text) + len(mark))
            text += [*mark, *ids, *mark]
        inputs, start = self.frame.around(predicate, text)
        return [Reading(inputs, [start + head for head in heads], first, truncated)]

    def encode(self, row: Row, *, labelled: bool = True) -> list[Example]:
        (example,) = super().encode(row, labelled=labelled)
        kinds = [tag[2:] for tag in row.fields["tags"]] if labelled else []
        astray = PREDICATE in kinds and kinds[row.fields["predicate_index"]] != PREDICATE
        return [replace(example, notes={**example.notes, "astray": astray})]

    def lessons(self, example: Example) -> float:
        """Its words that belong to a span: O alone says of no word what it does."""
        return float(sum(target not in (IGNORED, self.index.get(OUTSIDE)) for target in example.targets))

    def notices(self, examples: Sequence[Example]) -> list[str]:
        astray = sum(example.notes["astray"] for example in examples)
        return [f"{astray} of {len(examples)} rows have V at another word than predicate_index"] if astray else []


def _bio_faults(tags: Sequence[str]) -> Iterable[Fault]:
    """Tags that are not BIO, and an I-X that begins a span."""
    for index, (previous, tag) in enumerate(zip([OUTSIDE, *tags], tags, strict=False)):
        if tag != OUTSIDE and not in_span(tag):
            found = f'"{tag[:80]}" at {index}'
            yield Fault("tags", "not a BIO tag", found, "O, B-ROLE or I-ROLE", "write it so, as in B-ARG0")
        elif tag.startswith("I-") and (not in_span(previous) or previous[2:] != tag[2:]):
            found = f'"{tag[:80]}" at {index}, after "{previous[:80]}"'
            expected = f'a span begins with "B-{tag[2:80]}"'
            yield Fault("tags", "I- without B-", found, expected, f'write "B-{tag[2:80]}"')
