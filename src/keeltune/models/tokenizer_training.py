"""A tokenizer trained on the rows that a recipe names."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from keeltune.data.columns import Schema
from keeltune.data.dataset import Row
from keeltune.recipe.model_fields import TrainTokenizer

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"

SPECIAL = [PAD, START, END, UNKNOWN]

BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def train(spec: TrainTokenizer, texts: Sequence[str], *, ends: bool, spells: bool = False) -> Any:
    """A tokenizer of `spec.size` tokens at most, trained on `texts`; the same texts give the same one.

    `ends`: an end token is put behind every text (what an encoder-decoder reads and writes). wordpiece is BERT's form,
    with [CLS] and [SEP]. `spells`: characters get the form that CTC models have, whose padding token is the blank.
    """
    from transformers import PreTrainedTokenizerFast

    if spec.train == "characters" and spells:
        return _speller(_characters(spec.size, texts, [PAD, UNKNOWN, "|"], between=" |"))
    trained = _TRAINED[spec.train](spec.size, texts)
    if spec.train == "wordpiece":
        return PreTrainedTokenizerFast(tokenizer_object=_as_bert(trained), **BERT)
    if ends:
        trained.post_processor = _ended(trained)
    names = {"pad_token": PAD, "bos_token": START, "eos_token": END, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=trained, **names)


def _characters(size: int, texts: Sequence[str], special: Sequence[str], between: str = "") -> dict[str, int]:
    """The ids of the `special` tokens and of the commonest letters, but those `between` words, in order of letter."""
    counts = Counter(unicodedata.normalize("NFC", " ".join(" ".join(text.split()) for text in texts)))
    letters = sorted(letter for letter, _ in counts.most_common() if letter not in between)
    room = max(0, size - len(special))
    if len(letters) > room:  # the rarest are left out
        letters = sorted(sorted(letters, key=lambda letter: (-counts[letter], letter))[:room])
    return {token: i for i, token in enumerate([*special, *letters])}


def _character_tokenizer(size: int, texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(_characters(size, texts, SPECIAL), unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _wordpiece(size: int, texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token=BERT["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # letters within words get their ids here: the trainer's own order of them changes from call to call
    inner = sorted({f"##{letter}" for text in texts for word in _words(tokenizer, text) for letter in word[1:]})
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=[*BERT.values(), *inner], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _reproducible(tokenizer, len(BERT))


def _unigram(size: int, texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=SPECIAL, unk_token=UNKNOWN, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _reproducible(tokenizer, len(SPECIAL))


def _bpe(size: int, texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


_TRAINED: dict[str, Callable[[int, Sequence[str]], Any]] = {
    "bpe": _bpe,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
    "characters": _character_tokenizer,
}


def _as_bert(tokenizer: Any) -> Any:
    """Puts [CLS] before a text and [SEP] behind it, and behind the second of a pair, whose segment is 1."""
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (BERT["cls_token"], BERT["sep_token"])],
    )
    return tokenizer


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


def _reproducible(trained: Any, special: int) -> Any:
    """The tokenizer with its vocabulary as a function of the texts alone.

    Of a WordPiece only the vocabulary is kept: its trainer holds the letters for special tokens. A Unigram's trainer
    numbers rare letters, and so scores them, in an order that changes from call to call: they get one score, and
    pieces stand by score and name behind the `special` first ones.
    """
    from tokenizers import Tokenizer
    from tokenizers import models as kinds

    kind = json.loads(trained.to_str())["model"]
    if kind["type"] == "WordPiece":
        tokenizer = Tokenizer(kinds.WordPiece(kind["vocab"], unk_token=kind["unk_token"]))
    else:
        first, pieces = kind["vocab"][:special], kind["vocab"][special:]
        lowest = min(score for _, score in pieces)
        rare = lowest + 1e-4 * (1 + sum(len(piece) == 1 for piece, _ in pieces))  # its step from letter to letter
        scores = {p: round(lowest if len(p) == 1 and score <= rare else score, 6) for p, score in pieces}
        ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        tokenizer = Tokenizer(kinds.Unigram([(p, score) for p, score in [*first, *ordered]], unk_id=kind["unk_id"]))
    tokenizer.normalizer = trained.normalizer
    tokenizer.pre_tokenizer = trained.pre_tokenizer
    tokenizer.decoder = trained.decoder
    return tokenizer


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
            value = row.fields.get(name)
            if isinstance(value, str):  # most are, and a generator for each takes longer than its text
                yield value
            else:
                yield from inside(value)
