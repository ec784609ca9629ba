"""A tokenizer trained on the rows that a recipe names."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keeltune.data.columns import Schema
from keeltune.data.dataset import Row
from keeltune.recipe.model_fields import TrainTokenizer

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"

BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def train(spec: TrainTokenizer, texts: Sequence[str], *, ends: bool, spells: bool = False) -> Any:
    """A tokenizer of `spec.size` tokens at most, trained on `texts`; the same texts give the same one.

    `ends`: an end token is put behind every text (what an encoder-decoder reads and writes). wordpiece is BERT's form,
    with [CLS] and [SEP]. `spells`: characters get the form that CTC models have, whose padding token is the blank.
    """
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    special = [PAD, START, END, UNKNOWN]
    names = {"pad_token": PAD, "bos_token": START, "eos_token": END, "unk_token": UNKNOWN}
    if spec.train == "characters":
        first = [PAD, UNKNOWN, "|"] if spells else special
        counts = Counter(unicodedata.normalize("NFC", " ".join(" ".join(text.split()) for text in texts)))
        letters = sorted(letter for letter, _ in counts.most_common() if not spells or letter not in " |")
        if len(letters) > spec.size - len(first):  # the rarest are left out
            kept = sorted(letters, key=lambda letter: (-counts[letter], letter))[: max(0, spec.size - len(first))]
            letters = sorted(kept)
        vocabulary = {token: i for i, token in enumerate([*first, *letters])}
        if spells:
            return _speller(vocabulary)
        made = Tokenizer(kinds.WordLevel(vocabulary, unk_token=UNKNOWN))
        made.normalizer = normalizers.NFC()
        made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        made.decoder = decoders.Fuse()
        if ends:
            made.post_processor = _ended(made)
        return PreTrainedTokenizerFast(tokenizer_object=made, **names)
    if spec.train == "wordpiece":
        names, special = dict(BERT), list(BERT.values())
        made = Tokenizer(kinds.WordPiece(unk_token=BERT["unk_token"]))
        made.normalizer = normalizers.BertNormalizer(lowercase=False)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        # letters within words get their places here: the trainer's own order of them changes from call to call
        inner = sorted({f"##{letter}" for text in texts for word in _words(made, text) for letter in word[1:]})
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=spec.size, special_tokens=[*special, *inner], show_progress=False
        )
    elif spec.train == "unigram":
        made = Tokenizer(kinds.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=spec.size, special_tokens=special, unk_token=UNKNOWN, show_progress=False
        )
    else:
        made = Tokenizer(kinds.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
        trainer = trainers.BpeTrainer(
            vocab_size=spec.size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    made.train_from_iterator(texts, trainer)
    if spec.train in ("wordpiece", "unigram"):
        made = _settled(made, len(special))
    if spec.train == "wordpiece":
        pair = [(t, made.token_to_id(t)) for t in (BERT["cls_token"], BERT["sep_token"])]
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=pair
        )
    elif ends:
        made.post_processor = _ended(made)
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def _ended(tokenizer: Any) -> Any:
    """Puts an end token behind every text."""
    from tokenizers import processors

    return processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )


def _speller(vocabulary: Mapping[str, int]) -> Any:
    """A tokenizer of letters as CTC models have it: "|" between words, repeats merged where frames are decoded."""
    import tempfile

    from transformers import Wav2Vec2CTCTokenizer

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/vocab.json"
        with open(file, "w", encoding="utf-8") as stream:
            json.dump(vocabulary, stream, ensure_ascii=False)
        return Wav2Vec2CTCTokenizer(file, bos_token=None, eos_token=None, pad_token=PAD, unk_token=UNKNOWN)


def _words(tokenizer: Any, text: str) -> list[str]:
    """What a tokenizer takes for words, before it cuts them."""
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))]


def _settled(trained: Any, special: int) -> Any:
    """The tokenizer with its vocabulary as a function of the texts alone.

    Of a WordPiece only the vocabulary is kept: its trainer holds the letters for special tokens. A Unigram's trainer
    numbers rare letters, and so scores them, in an order that changes from call to call: they get one score, and
    pieces stand by score and name behind the `special` first ones.
    """
    from tokenizers import Tokenizer
    from tokenizers import models as kinds

    kind = json.loads(trained.to_str())["model"]
    if kind["type"] == "WordPiece":
        made = Tokenizer(kinds.WordPiece(kind["vocab"], unk_token=kind["unk_token"]))
    else:
        first, pieces = kind["vocab"][:special], kind["vocab"][special:]
        lowest = min(score for _, score in pieces)
        rare = lowest + 1e-4 * (1 + sum(len(piece) == 1 for piece, _ in pieces))  # its step from letter to letter
        scores = {p: round(lowest if len(p) == 1 and score <= rare else score, 6) for p, score in pieces}
        ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        made = Tokenizer(kinds.Unigram([(p, score) for p, score in [*first, *ordered]], unk_id=kind["unk_id"]))
    made.normalizer, made.pre_tokenizer, made.decoder = trained.normalizer, trained.pre_tokenizer, trained.decoder
    return made


def texts_of(task_class: type[Schema], rows: Sequence[Row]) -> Iterator[str]:
    """Every text in the task's columns, also those in lists and messages."""

    def inside(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            for inner in value.values():
                yield from inside(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from inside(inner)

    names = [c.name for c in task_class.columns if c.kind not in ("image", "audio")]
    for row in rows:
        for name in names:
            yield from inside(row.fields.get(name))
