"""What each id stands for, in bytes, whatever the kind of tokenizer; and how two vocabularies lie to each other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import islice

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from keeltune.models.processors import prepare_tokenizer
from keeltune.models.tokenizer_match import Token, compare, tokenizer_digest, tokens
from keeltune.models.tokenizer_training import train
from keeltune.recipe.model_fields import TrainTokenizer
from tests.helpers.models import WORDS, word_tokenizer
from tests.helpers.writers import PAIRS

TEXTS = [text for pair in PAIRS for text in pair]
SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}


def trained(kind: str) -> PreTrainedTokenizerFast:
    return train(TrainTokenizer(train=kind, size=300), TEXTS, ends=False)


def made(model: models.Model, *, pre=None, decoder=None, normalizer=None, **names: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    if decoder is not None:
        tokenizer.decoder = decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(names or SPECIAL))


def byte_level(words: list[str], **names: str) -> PreTrainedTokenizerFast:
    """GPT-2's kind, with these spellings as its vocabulary."""
    vocabulary = {word: i for i, word in enumerate(words)}
    steps = {"pre": pre_tokenizers.ByteLevel(add_prefix_space=False), "decoder": decoders.ByteLevel()}
    return made(models.BPE(vocabulary, []), **steps, **names)


def falling_back(pieces: list[str]) -> PreTrainedTokenizerFast:
    """Llama 2's kind: pieces with ▁ for a space, and a byte where no piece fits."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL.values(), *(f"<0x{b:02X}>" for b in range(256)), *pieces])}
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    start = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    kind = models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    return made(kind, normalizer=start, decoder=decoders.Sequence(steps))


def written(tokenizer, text: str) -> bytes:
    """The bytes of a text's ids, one after the other."""
    told = tokens(tokenizer)
    return b"".join(told[i].text for i in tokenizer(text, add_special_tokens=False)["input_ids"])


# Bytes


@pytest.mark.parametrize("text", [*TEXTS, "größer 电影很好 🙂", "a  b\tc"])
def test_the_bytes_of_a_byte_level_text_are_the_text(text):
    assert written(trained("bpe"), text) == f" {text}".encode()


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_a_sentencepiece_text_are_the_text(text):
    tokenizer = trained("unigram")
    assert any("▁" in name for name in tokenizer.get_vocab())
    assert written(tokenizer, text) == f" {text}".encode()


@pytest.mark.parametrize("text", ["a film", "größer 电影", "🙂"])
def test_the_bytes_that_sentencepiece_falls_back_to_are_bytes(text):
    tokenizer = falling_back(["▁", "a", "f", "i", "l", "m"])
    assert written(tokenizer, text) == f" {text}".encode()
    assert tokens(tokenizer)[3 + 0xE7] == Token(b"\xe7")


@pytest.mark.parametrize("text", ["the film is good", "not bad dull"])
def test_a_word_piece_is_within_a_word_or_begins_one(text):
    tokenizer = trained("wordpiece")
    assert written(tokenizer, text) == f" {text}".encode()
    told, names = tokens(tokenizer), tokenizer.get_vocab()
    both = [(i, names[name[2:]]) for name, i in names.items() if name.startswith("##") and name[2:] in names]
    assert both
    assert all(told[begins].text == b" " + told[inner].text for inner, begins in both)


def test_a_byte_like_spelling_is_a_byte_only_where_the_tokenizer_falls_back_to_bytes():
    metaspace = {"pre": pre_tokenizers.Metaspace(), "decoder": decoders.Metaspace()}
    plain = made(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("<0x41>", -2.0)], unk_id=0), **metaspace)
    assert [token.text for token in tokens(plain).values()][:3] == [b"<unk>", b" a", b"<0x41>"]


def test_any_other_kind_is_its_spelling():
    assert [t.text.decode() for t in tokens(word_tokenizer()).values()][5:] == WORDS
    from transformers import ByT5Tokenizer

    slow = ByT5Tokenizer()
    assert not slow.is_fast
    assert tokens(slow)[slow.convert_tokens_to_ids("a")] == Token(b"a")
    assert tokens(slow)[slow.pad_token_id].text == b"<pad>"


def test_added_tokens_are_their_content_and_marked_where_they_are_special():
    tokenizer = byte_level(["Ã©", "a", "Ġa"], pad_token="<pad>")
    tokenizer.add_tokens(["é", " b", AddedToken("<tool>", special=True)])
    told = tokens(tokenizer)
    assert list(told.values()) == [
        Token("é".encode()), Token(b"a"), Token(b" a"),  # spelled in GPT-2's letters
        Token(b"<pad>", special=True), Token("é".encode()), Token(b" b"), Token(b"<tool>", special=True),  # as they are
    ]  # fmt: skip
    assert list(told) == list(range(7))


def test_the_byte_table_is_that_of_the_library():
    """Each byte alone, as `tokenizers` spells it."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = byte_level(sorted(letters), pad_token="<pad>")
    assert sorted(t.text for i, t in tokens(tokenizer).items() if i < 256) == [bytes([b]) for b in range(256)]
    step = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    told, names = tokens(tokenizer), tokenizer.get_vocab()
    for text in ("\u0100 €", "tab\t", "电"):
        ((spelled, _),) = step.pre_tokenize_str(text)
        assert b"".join(told[names[letter]].text for letter in spelled) == text.encode()


# Digest


def test_the_digest_is_the_same_after_saving_and_in_another_process(tmp_path):
    tokenizer = trained("bpe")
    tokenizer.save_pretrained(tmp_path)
    code = (
        "import sys; from transformers import AutoTokenizer; "
        "from keeltune.models.tokenizer_match import tokenizer_digest; "
        "print(tokenizer_digest(AutoTokenizer.from_pretrained(sys.argv[1])))"
    )
    seeded = {**os.environ, "PYTHONHASHSEED": "1"}  # sets and their like in another order
    run = [sys.executable, "-c", code, str(tmp_path)]
    found = subprocess.run(run, env=seeded, capture_output=True, text=True, check=True).stdout.strip()
    assert found == tokenizer_digest(tokenizer)
    assert tokenizer_digest(trained("bpe")) == tokenizer_digest(tokenizer)


def test_the_digest_sees_order_bytes_and_what_is_special():
    words = ["a", "b", "Ġa", "Ġb"]
    plain, special = byte_level(words, pad_token="<pad>"), byte_level(words, pad_token="<pad>")
    plain.add_tokens(["<tool>"])
    special.add_tokens([AddedToken("<tool>", special=True)])
    others = [
        byte_level(words, pad_token="<pad>"), byte_level([*words[:2], *words[:1:-1]], pad_token="<pad>"),
        byte_level(["ab", "", "Ġa", "Ġb"], pad_token="<pad>"), plain, special, trained("bpe"), trained("unigram"),
    ]  # fmt: skip
    assert len({tokenizer_digest(each) for each in others}) == len(others)


def large(size: int) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = (f"{a}{b}{c}" for a in ("Ġ", *letters) for b in letters for c in letters)
    return byte_level(list(dict.fromkeys(islice(spelled, size))), pad_token="<|pad|>")


def test_the_digest_of_150_000_tokens_takes_less_than_a_second():
    tokenizer = large(150_000)
    assert len(tokenizer) > 149_000
    taken = []
    for _ in range(3):
        start = time.process_time()
        tokenizer_digest(tokenizer)
        taken.append(time.process_time() - start)
    assert min(taken) < 1


# Relation


WORDS_OF_ONE = ["a", "b", "Ġa", "Ġb", "Ġfilm", "c"]


def with_added(*names: str, words: list[str] = WORDS_OF_ONE) -> PreTrainedTokenizerFast:
    tokenizer = byte_level(words, pad_token="<pad>")
    tokenizer.add_tokens([AddedToken(name, special=True) for name in names])
    return tokenizer


def test_one_vocabulary_with_as_many_rows_is_the_same():
    found = compare(with_added(), with_added(), 7, 7)
    assert (found.kind, list(found.shared), list(found.differing)) == ("same", list(range(7)), [])
    assert compare(with_added(), with_added(), None, None).kind == "same"


@pytest.mark.parametrize(("ours", "theirs"), [(7, 16), (16, 7), (8, 16)])
def test_one_vocabulary_with_other_rows_is_padded(ours, theirs):
    """Qwen: 151 936 rows in one model, 152 064 in another."""
    found = compare(with_added(), with_added(), ours, theirs)
    assert (found.kind, list(found.shared)) == ("padded", list(range(7)))


@pytest.mark.parametrize("turned", [False, True])
def test_added_tokens_at_the_end_make_a_subset(turned):
    pair = [(with_added(), 7), (with_added("<tool>", "<end>"), 9)][:: -1 if turned else 1]
    found = compare(pair[0][0], pair[1][0], pair[0][1], pair[1][1])
    assert (found.kind, list(found.shared)) == ("subset", list(range(7)))


def test_a_token_in_a_hole_of_the_other_is_left_out():
    def holed(*, filled: bool) -> PreTrainedTokenizerFast:
        vocabulary = {"a": 0, "b": 1, "Ġa": 3, "<pad>": 4} | ({"c": 2} if filled else {})
        steps = {"pre": pre_tokenizers.ByteLevel(), "decoder": decoders.ByteLevel()}
        return made(models.BPE(vocabulary, []), **steps, pad_token="<pad>")

    found = compare(holed(filled=True), holed(filled=False), 5, 5)
    assert (found.kind, list(found.shared)) == ("subset", [0, 1, 3, 4])


def test_a_token_beyond_a_models_rows_is_no_choice():
    found = compare(with_added("<tool>"), with_added("<tool>"), 8, 7)
    assert (found.kind, list(found.shared)) == ("subset", list(range(7)))


def test_equal_sizes_prove_nothing():
    """Trap 6."""
    turned = with_added(words=[*WORDS_OF_ONE[:3], "Ġfilm", "Ġb", "c"])
    found = compare(with_added(), turned, 7, 7)
    assert found.kind == "different"
    assert list(found.differing) == [(3, Token(b" b"), Token(b" film")), (4, Token(b" film"), Token(b" b"))]


def test_another_spelling_of_the_same_bytes_is_the_same():
    metaspace = {"pre": pre_tokenizers.Metaspace(), "decoder": decoders.Metaspace()}
    pieces = [(word.replace("Ġ", "▁"), -1.0) for word in WORDS_OF_ONE]
    other = made(models.Unigram([*pieces, ("<pad>", 0.0)]), **metaspace, pad_token="<pad>")
    assert other.get_vocab() != with_added().get_vocab()
    assert compare(with_added(), other, 7, 7).kind == "same"


def test_the_same_spelling_of_other_bytes_is_different():
    """ "Ġa" is " a" only where a letter stands for a byte."""
    plain = made(models.WordLevel({w: i for i, w in enumerate([*WORDS_OF_ONE, "<pad>"])}, "<pad>"), pad_token="<pad>")
    assert plain.get_vocab() == with_added().get_vocab()
    found = compare(with_added(), plain, 7, 7)
    assert found.kind == "different"
    assert found.differing[0] == (2, Token(b" a"), Token("Ġa".encode()))


def test_a_token_that_is_special_in_one_alone_is_different():
    plain = byte_level([*WORDS_OF_ONE], pad_token="<pad>")
    plain.add_tokens(["<tool>"])
    found = compare(with_added("<tool>"), plain, 8, 8)
    assert [tuple(map(str, each)) for each in found.differing] == [("7", "b'<tool>' (special)", "b'<tool>'")]


def test_tokens_that_each_lacks_are_different():
    found = compare(with_added("<tool>"), with_added("<end>"), 8, 8)
    assert found.kind == "different"
    words = with_added(words=[*WORDS_OF_ONE, "d"])
    assert compare(with_added("<tool>"), words, 8, 8).kind == "different"


def test_a_tokenizer_that_is_given_padding_keeps_its_choices(tmp_path):
    """A model that came without a padding token, and a teacher that was given one of its own since."""
    bare, given, other = (byte_level(WORDS_OF_ONE, eos_token="</s>") for _ in range(3))
    prepare_tokenizer(None, given)
    assert given.pad_token == "</s>"
    other.add_special_tokens({"pad_token": "[PAD]"})
    assert compare(bare, given, 7, 7).kind == "same"
    found = compare(bare, other, 7, 8)
    assert (found.kind, list(found.shared)) == ("subset", list(range(7)))
    given.save_pretrained(tmp_path)
    assert compare(AutoTokenizer.from_pretrained(tmp_path), bare, 7, 7).kind == "same"
