"""Captions: what the model reads, exactness over architectures, the two metrics, whole runs, and bad pictures."""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import keeltune as kt
from keeltune import recipe
from keeltune.data import dataset, images, reading
from keeltune.data.media import Media
from keeltune.data.sources import DataSource
from keeltune.models import processors, saving, tokenizer_training
from keeltune.objective.predictions import Dense
from keeltune.objective.references.model import Model
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.tasks import image_captioning
from keeltune.tasks.common import lm_head, own_generation
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.image_captioning import ImageCaptioning
from keeltune.tasks.metrics.caption_bleu import words
from keeltune.training import build
from keeltune.training.preparation import head_compatibility, prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import captioners, families, wide
from tests.helpers.captioners import CAPTIONS, DECODERS, ENCODER_DECODERS, KINDS, PAIRS, PARTS, captioner, spec
from tests.helpers.refusals import refused_or_skipped

QUIET = Display(quiet=True)
KIN = ("swin gpt2", "deit bert", "smolvlm", "qwen2_5_vl")
"""Of which another kind computes the same: other encoders beside the same decoders, and a version of each family."""
EVERY_KIND = pytest.mark.parametrize("kind", wide.all_but(KINDS, {*KINDS} - {*KIN}))


@cache
def unchanged(kind: str):
    """(model, task), the same for each test that changes nothing of it."""
    return captioner(kind)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return captioners.rows(tmp_path_factory.mktemp("pictures"))


# What the model reads


@EVERY_KIND
def test_training_makes_an_example_of_each_caption_and_scoring_one_of_each_picture(kind, rows):
    _, task = unchanged(kind)
    examples = [e for row in rows for e in task.encode(row)]
    assert [e.key for e in examples[:4]] == ["k0#0", "k0#1", "k1#0", "k1#1"]
    assert examples == [e for row in rows for e in task.encode(row)]  # pure
    for row in rows[:3]:
        end = task.architecture.end
        both = task.encode(row)
        for example, caption in zip(both, row.fields["captions"], strict=True):
            assert list(example.targets)[-1:] == end
            assert task.tokenizer.decode(example.targets, skip_special_tokens=True).strip() == caption
        (scored,) = task.encode_scored(row)
        assert scored.key == row.key
        assert scored.targets == both[0].targets
        (bare,) = task.encode(row, labelled=False)
        assert bare.key == row.key
        assert not bare.targets
        assert task.gold(row) == list(row.fields["captions"])


@pytest.mark.parametrize("kind", ["vit gpt2", "git"])
def test_a_picture_is_what_the_extractor_makes_of_it_and_its_captions_open_it_once(kind, rows, monkeypatch):
    _, task = captioner(kind)
    opened = []
    read = images.read
    monkeypatch.setattr(images, "read", lambda path: opened.append(path) or read(path))
    batch = task.collate([e for row in rows[:3] for e in task.encode(row)])
    assert len(opened) == 3
    expected = processors.extractor_of(task.processor)(
        images=Image.open(rows[1].fields["image"].path), return_tensors="pt"
    )
    torch.testing.assert_close(batch["inputs"]["pixel_values"][2:4], expected["pixel_values"].expand(2, -1, -1, -1))
    assert batch["inputs"]["pixel_values"].dtype == torch.float32


def test_what_finds_no_room_in_memory_is_kept_in_a_file(rows):
    _, task = captioner("vit gpt2")
    task.arrays.room = 3 * 32 * 32 * 4
    examples = [e for row in rows[:3] for e in task.encode(row)]
    first, second = task.collate(examples), task.collate(examples)
    assert (len(task.arrays), len(task.arrays.file)) == (3, 2)
    assert torch.equal(first["inputs"]["pixel_values"], second["inputs"]["pixel_values"])


def test_the_processor_puts_the_pictures_tokens_into_the_prompt(rows):
    """LLaVA: 16 patches of 8 × 8 and the prompt around them; the caption is predicted from behind it."""
    _, task = captioner("llava", prompt="look: {image}say:")
    (example,) = task.encode_scored(rows[0])
    place = task.settings.config.image_token_id
    prompt = example.notes["prompt"]["input_ids"]
    assert prompt.count(place) == 16
    assert task.tokenizer.decode([i for i in prompt if i != place]).split() == ["look:", "say:"]
    assert example.inputs["input_ids"] == [*prompt, *example.targets]
    assert list(example.predicted) == [False] * (len(prompt) - 1) + [True] * len(example.targets) + [False]


@pytest.mark.parametrize("kind", [kind for kind in DECODERS if kind not in PAIRS])
def test_a_prompt_is_all_that_the_models_processor_makes_of_it(kind, rows):
    """Marks, masks and grids too; without Gemma 3's marks its picture would be read in one direction."""
    _, task = captioner(kind, prompt="see {image} say")
    (example,) = task.encode_scored(rows[0], labelled=False)
    picture = Image.open(rows[0].fields["image"].path)
    found = dict(task.processor(images=[picture], text=[f"see {task.processor.image_token} say"]))
    read = task.pad([example.notes["prompt"]])
    assert read.keys() == found.keys() - {"labels"}
    for name, value in read.items():
        np.testing.assert_allclose(value.numpy(), np.asarray(found[name]), rtol=1e-6)


PICTURE_CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m.role + ':\\n' }}"
    "{% for part in m.content %}{% if part.type == 'image' %}"
    "{{ '<image>' }}{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)
CHATS = {
    "nothing": (None, [[("image", ""), ("text", "Describe the image in one short sentence.")]]),
    "no place": ([("user", "say it")], [[("image", ""), ("text", "say it")]]),
    "a place": ([("user", "see {image} say")], [[("text", "see"), ("image", ""), ("text", "say")]]),
}


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("kind", ["llava", "idefics3", "smolvlm"])
def test_a_chat_model_is_asked_in_its_processors_template(kind, name, rows):
    """The tokens of `apply_chat_template`, the loss of a conversation whose question is masked, and the same text."""
    given, contents = CHATS[name]
    model, task = captioner(kind)
    task.processor.chat_template = PICTURE_CHAT
    prompt = None if given is None else [{"role": role, "content": text} for role, text in given]
    task.settings.config.get_text_config().max_position_embeddings = 256
    settings = replace(task.settings, prompt=prompt, stored=model.generation_config)
    task = type(task)(task.processor, settings)
    task.adopt(model, task.processor)
    assert not task.recipe_faults()
    picture = Image.open(rows[0].fields["image"].path)
    talk = [{"role": "user", "content": [{"type": k, k: picture if k == "image" else text} for k, text in parts]}
            for parts in contents]  # fmt: skip
    read = task.processor.apply_chat_template(
        talk, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    (example,) = task.encode_scored(rows[0])
    ours = task.pad([example.notes["prompt"]])
    assert ours["input_ids"].tolist() == read["input_ids"].tolist()
    torch.testing.assert_close(ours["pixel_values"], read["pixel_values"])
    caption = rows[0].fields["captions"][0]
    said = [*talk, {"role": "assistant", "content": [{"type": "text", "text": caption}]}]
    whole = task.processor.apply_chat_template(said, tokenize=True, return_dict=True, return_tensors="pt")
    assert example.inputs["input_ids"] == whole["input_ids"][0].tolist()
    batch = task.collate([example])
    loss = task.cross_entropy(task.rows(task.forward(model, batch), batch), batch).item()
    labels = whole["input_ids"].clone()
    labels[:, : read["input_ids"].shape[1]] = -100
    assert loss == pytest.approx(model(**whole, labels=labels).loss.item() * len(example.targets), rel=1e-5)
    out = model.generate(**read, max_new_tokens=12, do_sample=False)[0, read["input_ids"].shape[1] :]
    (answer,) = task.predict(model, [task.encode_scored(rows[0], labelled=False)[0]])
    assert answer.value == task.tokenizer.decode(out, skip_special_tokens=True).strip()


def test_messages_need_a_template_that_shows_a_picture():
    _, task = captioner("llava", prompt=[{"role": "user", "content": "say it"}])
    assert [fault.kind for fault in task.recipe_faults()] == ["messages not read"]


def test_a_caption_is_cut_to_what_the_decoder_can_write():
    _, task = captioner("vit gpt2", target_max_length=None, max_new_tokens=500)
    assert (task.settings.target_max_length, task.settings.max_new_tokens) == (48, 48)
    _, task = captioner("llava", max_new_tokens=500)
    assert task.settings.max_new_tokens == 64 - len(task.probes[0].tokens["input_ids"])
    assert task.probes[0].tokens["input_ids"].count(task.settings.config.image_token_id) == 16


# Exactness


@EVERY_KIND
def test_the_loss_is_the_models_own_times_its_count(kind, rows):
    model, task = unchanged(kind)
    batch = task.collate([e for row in rows for e in task.encode(row)])
    ours = task.cross_entropy(task.rows(task.forward(model, batch), batch), batch).item()
    labels = torch.full(batch["predicted"].shape, -100)
    labels[batch["predicted"]] = batch["targets"]
    if kind in DECODERS:  # theirs shifts by itself
        labels = torch.cat([torch.full((len(labels), 1), -100), labels[:, :-1]], dim=1)
    theirs = model(**batch["inputs"], labels=labels).loss.item() * len(batch["targets"])
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert task.counts(batch)[0] == len(batch["targets"])


@EVERY_KIND
def test_padding_changes_nothing(kind, rows):
    model, task = unchanged(kind)
    examples = [e for row in rows for e in task.encode(row)]
    with torch.no_grad():
        batch = task.collate(examples)
        together = task.rows(task.forward(model, batch), batch).log_probs(slice(None))
        alone = [task.collate([example]) for example in examples]
        alone = [task.rows(task.forward(model, one), one).log_probs(slice(None)) for one in alone]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


@EVERY_KIND
def test_a_prediction_does_not_see_the_words_behind_it(kind, rows):
    """PaliGemma would, were its caption marked as the prompt, which it reads in both directions."""
    model, task = unchanged(kind)
    found = []
    for caption in ("a red square", "a red bar on the black ground"):
        batch = task.collate([task.architecture.encode(rows[0], caption)])
        with torch.no_grad():
            found.append((batch["targets"], task.rows(task.forward(model, batch), batch).log_probs(slice(None))))
    (one, first), (two, second) = found
    shared = next(i for i, (a, b) in enumerate(zip(one.tolist(), two.tolist(), strict=False)) if a != b)
    assert shared > 1
    torch.testing.assert_close(first[: shared + 1], second[: shared + 1], rtol=1e-5, atol=1e-5)


@EVERY_KIND
def test_the_head_sees_the_predictions_alone_and_changes_nothing(kind, rows):
    """GIT puts a picture's positions before the text: they are no predictions."""
    model, task = unchanged(kind)
    batch = task.collate([e for row in rows for e in task.encode(row)])
    found = {}
    for how, large in (("whole", None), ("selected", 2**40), ("sliced", 0)):
        model.zero_grad()
        if how == "whole":
            logits = model(**batch["inputs"]).logits
            made = Dense(logits[:, logits.shape[1] - batch["predicted"].shape[1] :][batch["predicted"]])
        else:
            made = lm_head.rows(lm_head.forward(model, batch, large), batch)
        loss = task.cross_entropy(made, batch) / 7
        loss.backward()
        found[how] = loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    for how in ("selected", "sliced"):
        torch.testing.assert_close(found[how][0], found["whole"][0], rtol=1e-6, atol=0)
        assert ((found[how][1] - found["whole"][1]).norm() / found["whole"][1].norm()).item() < 1e-6


@EVERY_KIND
def test_what_is_written_is_the_likeliest_next_token(kind, rows):
    """Greedy by hand, token by token with all that is read again each time as in training, against `generate`."""
    model, task = unchanged(kind)
    examples = [e for row in rows[:4] for e in task.encode_scored(row)]
    answers = [p.value for p in task.predict(model, examples)]
    for example, answer in zip(examples, answers, strict=True):
        ids: list[int] = []
        while len(ids) < 12 and ids[-1:] != task.architecture.end:
            # an encoder-decoder predicts its last token before it reads it
            seen = task.architecture.answered(example, [*ids, 0] if kind in ENCODER_DECODERS else ids)
            with torch.no_grad():
                ids.append(int(model(**task.collate([seen])["inputs"]).logits[0, -1].argmax()))
        assert answer == task.tokenizer.decode(ids, skip_special_tokens=True).strip()


@EVERY_KIND
def test_the_reference_sees_the_pixels(kind, rows):
    """Trap 16: a reference without pixels would answer the same for every picture."""
    model, task = captioner(kind)
    reference = Model(model, task.rows, forward=task.forward)
    examples = [e for row in rows[:3] for e in task.encode(row)]
    batch = task.collate(examples)
    seen = reference.rows(batch).log_probs(slice(None))
    for name in examples[0].inputs.keys() & {"pixel_values", "flattened_patches"}:
        batch["inputs"][name] = batch["inputs"][name].flip(0)
    assert (reference.rows(batch).log_probs(slice(None)) - seen).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["vit gpt2", "git"])
def test_captions_that_a_model_writes_stand_in_the_rows_place(kind, rows):
    """A teacher's caption in place of all; and one that the student draws, which carries D alone."""
    model, task = captioner(kind)
    (example,) = task.encode(task.with_target(rows[0], "a dog"))
    assert task.tokenizer.decode(example.targets, skip_special_tokens=True).strip() == "a dog"
    torch.manual_seed(0)
    drawn = task.sample(model, [e for row in rows[:3] for e in task.encode_scored(row, labelled=False)], "cpu")
    batch = task.collate(drawn)
    assert task.counts(batch)[0] == 0
    found = task.rows(task.forward(model, batch), batch).log_probs(slice(None))
    assert len(found) == sum(e.predictions for e in drawn) > 0


@pytest.mark.parametrize("kind", ["idefics3", "smolvlm", "qwen2_vl", "qwen2_5_vl", "pix2struct"])
def test_pictures_of_several_sizes_share_a_batch(kind, tmp_path):
    """More tokens or parts for a larger picture: in a batch, beside others, each is read as alone."""
    model, task = captioner(kind, max_new_tokens=6)
    made = captioners.rows(tmp_path, 4)
    for row, size in zip(made, ((48, 40), (40, 96), (20, 20), (110, 30)), strict=True):
        media = row.fields["image"]
        Image.open(media.path).resize(size).save(media.path)
        media.digest = hashlib.sha256(media.path.read_bytes()).hexdigest()
    examples = [e for row in made for e in task.encode(row)]
    if kind != "pix2struct":  # as many patches for all, of which some are empty
        assert len({len(e.notes["prompt"]["input_ids"]) for e in examples}) > 1
    assert not [fault for row in made for fault in task.row_faults(row, task.encode(row))]
    with torch.no_grad():
        batch = task.collate(examples)
        together = task.rows(task.forward(model, batch), batch).log_probs(slice(None))
        ones = [task.collate([example]) for example in examples]
        alone = torch.cat([task.rows(task.forward(model, one), one).log_probs(slice(None)) for one in ones])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    asked = [e for row in made for e in task.encode_scored(row, labelled=False)]
    written = [p.value for p in task.predict(model, asked)]
    assert written == [task.predict(model, [example])[0].value for example in asked]


def test_what_is_written_is_marked_as_generation_marks_it():
    """PaliGemma reads its prompt in both directions and its answer in one; Gemma 3's marks say where the picture is."""
    for kind, mark in (("paligemma", 1), ("gemma3", 0), ("qwen2_vl", 0)):
        _, task = captioner(kind)
        name = "mm_token_type_ids" if kind == "qwen2_vl" else "token_type_ids"
        assert task.lengthened(name, [0, 1, 0], 3) == [0, 1, 0, mark, mark, mark]


def test_a_picture_without_room_for_a_caption_behind_it_is_named(tmp_path):
    given = spec(tmp_path, "smolvlm", "fine-tuning")
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 36
    (tmp_path / "student" / "config.json").write_text(json.dumps(config))
    captioners.draw("red", "bar").resize((90, 30)).save(tmp_path / "pictures" / "red-square.png")
    with pytest.raises(UserError) as caught:
        prepare.prepare(recipe.from_dict(given, tmp_path))
    assert {(p.field, p.kind) for p in caught.value.problems} == {("image", "picture too large")}
    assert "tokens of picture and prompt" in str(caught.value)


def test_arrays_are_joined_and_filled_up_with_zeros():
    one, two = np.arange(1, 5, dtype=np.float32).reshape(1, 2, 2), np.full((2, 1, 3), 7, dtype=np.float32)
    expected = [[[1, 2, 0], [3, 4, 0]], [[7, 7, 7], [0, 0, 0]], [[7, 7, 7], [0, 0, 0]]]
    assert images.joined([one, two]).tolist() == expected


# Metrics


def cider_by_hand(answers: list[str], captions: list[list[str]]) -> list[float]:
    """CIDEr-D, written anew from the paper and pycocoevalcap's choices: document frequency at least 1, weights
    tf · (log N − log df), clipped, a Gaussian of the difference in bigrams (sigma 6), mean over n, times 10."""

    def grams(text: str, n: int) -> Counter:
        tokens = text.split()
        return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))

    pictures_count, scores = len(answers), []
    for answer, right in zip(answers, captions, strict=True):
        total = 0.0
        for caption in right:
            for n in range(1, 5):
                seen = Counter(g for others in captions for g in {g for c in others for g in grams(c, n)})

                def weigh(text: str, n: int = n, seen: Counter = seen) -> dict:
                    logs = math.log(pictures_count)
                    return {g: c * (logs - math.log(max(1, seen[g]))) for g, c in grams(text, n).items()}

                a, b = weigh(answer), weigh(caption)
                dot = sum(min(v, b.get(g, 0.0)) * b.get(g, 0.0) for g, v in a.items())
                length = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
                delta = max(len(answer.split()) - 1, 0) - max(len(caption.split()) - 1, 0)
                total += (dot / length if length else 0.0) * math.exp(-(delta**2) / 72)
        scores.append(10 * total / 4 / len(right))
    return scores


ANSWERS = [
    "A red square!",
    "there is a dog on the ground",
    "a bar",
    "",
    "a a a a a",
    "two cats sit on a red sofa, asleep",
]
GOLDS = [
    ["a red square", "there is a red square on the black ground"],
    ["a dog lies on the ground", "there is a dog", "a black dog"],
    ["a white bar", "a bar that is white"],
    ["a green disc", "one disc, green"],
    ["a b c d", "a a"],
    ["two cats sleep on a sofa", "two cats sit on a red couch asleep", "cats on a sofa."],
]


@pytest.fixture
def task():
    return ImageCaptioning(unchanged("vit gpt2")[1].processor, Settings())


def test_cider_is_that_of_an_independent_count(task):
    found = task.statistics(ANSWERS, GOLDS)
    expected = cider_by_hand([words(a) for a in ANSWERS], [[words(c) for c in gold] for gold in GOLDS])
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-12)
    assert task.scores(found.sum(0))["cider"] == pytest.approx(sum(expected) / len(expected), rel=1e-12)
    assert 0 < expected[0] < 10
    assert expected[3] == 0


def test_cider_in_closed_form(task):
    """Captions without a common n-gram, answered word for word: cosine 1, no penalty, so 10. Every answer wrong: 0.
    Of one picture each n-gram is in all pictures, and weighs nothing."""
    gold = [["a b c d"], ["e f g h"], ["i j k l"]]
    answers = [g[0] for g in gold]
    assert task.scores(task.statistics(answers, gold).sum(0))["cider"] == pytest.approx(10)
    assert task.scores(task.statistics(answers[1:] + answers[:1], gold).sum(0))["cider"] == 0
    # two more words of another picture's: 4, 3, 2, 1 n-grams of the caption among 6, 5, 4, 3, each of weight log 3
    longer = task.statistics(["a b c d e f", *answers[1:]], gold)[0, 0]
    cosines = [math.sqrt(right / total) for right, total in ((4, 6), (3, 5), (2, 4), (1, 3))]
    assert longer == pytest.approx(10 * sum(cosines) / 4 * math.exp(-4 / 72))
    assert task.statistics(answers[:1], gold[:1])[0, 0] == 0


def test_bleu4_is_that_of_pycocoevalcap(task):
    scorer_module = pytest.importorskip("pycocoevalcap.bleu.bleu_scorer", reason="comes with keeltune[vision]")
    scorer = scorer_module.BleuScorer(n=4)
    for answer, gold in zip(ANSWERS, GOLDS, strict=True):
        scorer += (words(answer), [words(c) for c in gold])
    expected, _ = scorer.compute_score(option="closest")
    sums = task.statistics(ANSWERS, GOLDS).sum(0)
    assert task.scores(sums)["bleu4"] == pytest.approx(expected[3], rel=1e-9)
    assert 0.1 < expected[3] < 1


def test_bleu4_in_closed_form(task):
    """5 words of 6: n-grams 5/5 4/4 3/3 2/2, brevity exp(1 − 6/5); of two captions the one of closest length counts."""
    found = task.scores(task.statistics(["a b c d e"], [["a b c d e f", "a b c d e f g h i"]])[0])["bleu4"]
    assert found == pytest.approx(math.exp(1 - 6 / 5), rel=1e-6)
    assert task.scores(task.statistics(["a b c d x"], [["a b c d e"]])[0])["bleu4"] == pytest.approx(
        (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, rel=1e-6
    )


def test_a_bootstrap_is_one_product_with_the_statistics(task):
    table = task.statistics(ANSWERS, GOLDS)
    draws = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 3, 0, 0]])
    found = task.scores(draws @ table)
    for draw, cider, bleu in zip(draws, found["cider"], found["bleu4"], strict=True):
        one = task.scores(np.repeat(table, draw, axis=0).sum(0))
        assert (cider, bleu) == pytest.approx((float(one["cider"]), float(one["bleu4"])))
    assert task.statistics([], []).shape == (0, table.shape[1])


def test_a_rows_own_score(task):
    assert task.row_score("A red square.", ["a red square", "square"]) == pytest.approx(1)
    assert task.row_score("", ["a red square"]) == 0
    assert task.row_score("blue", ["a red square"]) < 1e-3
    better, worse = (task.row_score(a, ["a red square on black"]) for a in ("a red square", "a red disc"))
    assert 1 > better > worse > 0


def test_words_are_lower_case_without_punctuation_and_chinese_by_character(task):
    assert words("A man's hat, close-up; “Red”!") == "a man's hat close up red"
    assert words("一只猫。") == "一 只 猫"
    assert task.row_score("一只红色的猫", ["一只红色的猫。"]) == pytest.approx(1)


# Whole runs


WHOLE = ["vit gpt2", "vit bert", "git", "llava", "gemma3", "paligemma", "smolvlm", "florence2", "pix2struct"]
OTHERWISE_ASKED = {("vit gpt2", "cross-domain"), ("git", "distillation"), ("llava", "cross-domain"),
                   ("florence2", "fine-tuning"), ("pix2struct", "distillation")}  # fmt: skip
"""Each as stock transformers asks it below."""


@pytest.mark.parametrize(
    ("kind", "method"), wide.all_but(families.by_turns([(kind,) for kind in WHOLE]), OTHERWISE_ASKED)
)
def test_a_run_trains_saves_and_predicts_the_same(tmp_path, kind, method):
    """Each kind under each method is trained in `contract/test_families`."""
    given = spec(tmp_path, kind, method)
    del given["data"]["validation"]
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    result = run.result
    assert result["status"] == "completed"
    assert result["training"]["examples"] == 2 * 12  # two epochs of two captions of six pictures
    before, after = result["metrics"]["before"]["test"], result["metrics"]["test"]
    assert list(after)[:2] == ["cider", "bleu4"]
    if method != "distillation":
        assert after["loss"] < before["loss"]
    low, high = result["intervals"]["test"]["cider"]
    assert low <= after["cider"] <= high
    assert (result["objective"]["divergence"] is None) == (method == "fine-tuning")
    stored = [json.loads(line) for line in (run.folder / "predictions" / "test.jsonl").read_text().splitlines()]
    assert [line["gold"] for line in stored] == list(CAPTIONS.values())[:6]
    again = kt.predict(run.folder, tmp_path / "test.jsonl", display=QUIET)
    assert [line["prediction"] for line in again] == [line["prediction"] for line in stored]
    assert kt.evaluate(run.folder, tmp_path / "test.jsonl", display=QUIET)["metrics"] == pytest.approx(
        {name: value for name, value in after.items() if isinstance(value, float)}
    )
    stock = transformers.AutoModelForImageTextToText.from_pretrained(run.model, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.model)
    picture = Image.open(tmp_path / "pictures" / "red-square.png")
    if kind in (*PAIRS, "pix2struct"):
        inputs = transformers.AutoImageProcessor.from_pretrained(run.model)(images=picture, return_tensors="pt")
        if kind in DECODERS:
            inputs["input_ids"] = torch.tensor([[tokenizer.bos_token_id]])
    else:
        processor = transformers.AutoProcessor.from_pretrained(run.model)
        text = "" if kind == "florence2" else f"{processor.image_token}\n"  # it puts its mark there itself
        inputs = processor(images=[picture], text=[text], return_tensors="pt")
    ids = stock.generate(**inputs, max_new_tokens=8, num_beams=1, do_sample=False)[0]
    written = ids if kind in ENCODER_DECODERS else ids[inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(written, skip_special_tokens=True).strip() == stored[0]["prediction"]


def test_show_follows_the_first_caption_of_a_picture(tmp_path):
    from keeltune.cli import row_journey
    from keeltune.utils.terminal import Terminal

    console = Terminal(file=io.StringIO(), width=120)
    row_journey.show_row(recipe.from_dict(spec(tmp_path, "vit gpt2", "cross-domain"), tmp_path), 2, console)
    assert "inputs.pixel_values" in console.file.getvalue()


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
NEW = {
    "vit gpt2": ({"model_type": "vision-encoder-decoder", "encoder": {"model_type": "vit", **PARTS["vit"]},
                  "decoder": {"model_type": "gpt2", **PARTS["gpt2"], "resid_pdrop": 0.0, "embd_pdrop": 0.0,
                              "attn_pdrop": 0.0}}, "bpe"),
    "vit bert": ({"model_type": "vision-encoder-decoder", "encoder": {"model_type": "vit", **PARTS["vit"]},
                  "decoder": {"model_type": "bert", **PARTS["bert"], **NO_DROPOUT}}, "wordpiece"),
    "git": ({"model_type": "git", **PARTS["git"], **NO_DROPOUT, "vision_config": PARTS["vit"]}, "bpe"),
}  # fmt: skip


@pytest.mark.parametrize("kind", wide.all_but(NEW, ("vit gpt2", "git")))
def test_a_model_from_nothing_learns_and_teaches(tmp_path, kind):
    """The pictures that it was trained on, and then as the teacher of a second one with the same tokens."""
    new, words_of = NEW[kind]
    fields = dict(new)
    given = spec(tmp_path, "vit gpt2", "fine-tuning")
    given["model"] = {"new": fields, "tokenizer": {"train": words_of, "size": 300}}
    given["data"] = {"train": captioners.write(tmp_path, "four.jsonl", 4), "test": "four.jsonl"}
    given["training"] |= {"epochs": 60, "learning_rate": 2e-2, "batch_size": 8}
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["metrics"]["before"]["test"] is None
    assert run.result["objective"]["cross_entropy"] < 0.5
    stock = transformers.AutoModelForImageTextToText.from_pretrained(run.model)
    assert stock.get_output_embeddings().weight.shape[0] == len(transformers.AutoTokenizer.from_pretrained(run.model))
    given |= {"method": "distillation", "reference": "out", "output": "small"}
    given["model"] = {"new": dict(new), "tokenizer": "out"}
    given["training"] |= {"epochs": 2}
    small = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert small.result["objective"]["divergence"] > 0


def test_a_new_model_cannot_be_its_own_reference(tmp_path):
    given = spec(tmp_path, "vit gpt2", "cross-domain")
    given["model"] = {"new": NEW["vit gpt2"][0], "tokenizer": {"train": "bpe", "size": 300}}
    with pytest.raises(UserError, match="random"):
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)


# Warm starts


def encoder_folder(folder: Path) -> Path:
    torch.manual_seed(5)
    config = transformers.ViTConfig(**PARTS["vit"])
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    extractor = captioner("vit gpt2")[1].extractor
    extractor.image_mean = [0.1, 0.2, 0.3]
    extractor.save_pretrained(folder)
    return folder


def loaded(given: dict, folder: Path):
    return build.build(prepare.prepare(recipe.from_dict(given, folder)))


def same(part, whole, but: tuple[str, ...] = ()) -> list[str]:
    """The weights of `part` that are not bit for bit those of `whole` under the same name."""
    ours, theirs = part.state_dict(), whole.state_dict()
    return [n for n, v in ours.items() if not any(b in n for b in but) and not (n in theirs and v.equal(theirs[n]))]


def test_a_captioner_starts_from_a_pretrained_encoder_and_decoder(tmp_path, minilm):
    """Every weight of both folders is there; the cross-attention and the head between them are new."""
    encoder_folder(tmp_path / "vit")
    given = spec(tmp_path, "vit gpt2", "fine-tuning")
    given["model"] = {
        "new": {"model_type": "vision-encoder-decoder", "encoder": "vit", "decoder": str(minilm)},
        "tokenizer": str(minilm),
    }
    job = loaded(given, tmp_path)
    model = job.model
    assert type(model.decoder).__name__ == "BertLMHeadModel"
    assert not same(model.encoder, transformers.ViTModel.from_pretrained(tmp_path / "vit"), but=("pooler",))
    whole = transformers.AutoModel.from_pretrained(minilm, dtype=torch.float32)
    assert not same(model.decoder.bert, whole, but=("crossattention", "pooler"))
    assert any("crossattention" in name for name, _ in model.named_parameters())
    assert list(job.material.task.extractor.image_mean) == [0.1, 0.2, 0.3]  # the encoder's own
    assert model.config.decoder_start_token_id == job.material.processor.tokenizer.cls_token_id


def test_a_decoder_without_a_padding_token_keeps_its_weights(tmp_path, tiny):
    encoder_folder(tmp_path / "vit")
    given = spec(tmp_path, "vit gpt2", "fine-tuning")
    decoder = str(tiny("gpt2"))
    given["model"] = {
        "new": {"model_type": "vision-encoder-decoder", "encoder": "vit", "decoder": decoder},
        "tokenizer": decoder,
    }
    given["output"] = "captions"
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["status"] == "completed"
    model = loaded(given | {"output": "other"}, tmp_path).model
    whole = transformers.AutoModelForCausalLM.from_pretrained(decoder)
    assert same(model.decoder, whole, but=("cross",)) == []


@pytest.mark.slow  # a model of 45 million weights, scored, trained and saved
def test_a_text_encoder_decoder_starts_from_two_encoders(tmp_path, minilm):
    lines = [{"source": "the film is good", "target": "der Film ist gut"}] * 4
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    given = {
        "task": "translation", "method": "fine-tuning", "data": {"train": "train.jsonl", "test": "train.jsonl"},
        "model": {"new": {"model_type": "encoder-decoder", "encoder": str(minilm), "decoder": str(minilm)},
                  "tokenizer": str(minilm)},
        "training": {"max_steps": 2, "epochs": None, "batch_size": 2, "precision": "fp32", "learning_rate": 1e-4},
        "generation": {"max_new_tokens": 4}, "output": "out",
    }  # fmt: skip
    model = loaded(given, tmp_path).model
    whole = transformers.AutoModel.from_pretrained(minilm, dtype=torch.float32)
    assert not same(model.encoder, whole)
    assert not same(model.decoder.bert, whole, but=("crossattention", "pooler"))
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["status"] == "completed"
    transformers.AutoModelForSeq2SeqLM.from_pretrained(run.model)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "characters"])
def test_a_tokenizer_is_a_function_of_its_texts(kind):
    """The trainers of WordPiece and Unigram number letters in an order that changes from call to call."""
    texts = [f"a {a} {b} and {c} others" for c in map(str, range(40)) for a, b in CAPTIONS]
    made = [tokenizer_training.train(TrainTokenizer(train=kind, size=280), texts, ends=True) for _ in range(4)]
    assert len({one.backend_tokenizer.to_str() for one in made}) == 1
    one = made[0]
    assert len(one) <= 280
    if kind != "characters":
        assert one.decode(one("a red disc")["input_ids"], skip_special_tokens=True).strip() == "a red disc"
        assert (one.unk_token_id, one.pad_token_id) == tuple(one.convert_tokens_to_ids([one.unk_token, one.pad_token]))


def test_a_part_with_other_shapes_is_no_warm_start(tmp_path, minilm):
    encoder_folder(tmp_path / "vit")
    given = spec(tmp_path, "vit gpt2", "fine-tuning")
    given["model"] = {
        "new": {"model_type": "vision-encoder-decoder", "encoder": "vit", "decoder": str(minilm)},
        "tokenizer": {"train": "wordpiece", "size": 100},
    }
    with pytest.raises(UserError, match=r"word_embeddings[\s\S]*the one of the part that writes"):
        loaded(given, tmp_path)


# Models that do not fit


def test_models_whose_pictures_or_texts_are_of_another_kind_are_refused(tmp_path):
    given = spec(tmp_path, "vit gpt2", "fine-tuning")
    vision = PARTS["vit"]
    assert own_generation.writes_in_its_own_way(transformers.Kosmos2Config())
    assert not own_generation.writes_in_its_own_way(transformers.BlipConfig())
    given["model"] = {"tokenizer": {"train": "wordpiece", "size": 100}}
    given["model"]["new"] = {
        "model_type": "llava",
        "vision_config": {"model_type": "clip_vision_model", **vision},
        "text_config": {"model_type": "llama", **PARTS["llama"]},
    }
    with pytest.raises(UserError, match="without what marks the picture"):
        prepare.prepare(recipe.from_dict(given, tmp_path))


@pytest.mark.parametrize("kind", ["florence2", "qwen2_vl"])
def test_a_model_whose_processor_cannot_be_had_is_refused(tmp_path, kind):
    """Qwen2-VL's own wants torchvision; of Florence-2 the file is missing."""
    given = spec(tmp_path, kind, "fine-tuning")
    (tmp_path / "student" / "processor_config.json").unlink(missing_ok=True)
    captioner("vit gpt2")[1].extractor.save_pretrained(tmp_path / "student")
    with pytest.raises(UserError, match=r"(without what marks|fails on a plain picture)[\s\S]*processor_config"):
        prepare.prepare(recipe.from_dict(given, tmp_path))


def test_pictures_of_no_fixed_size_need_something_that_says_which_they_have():
    _, task = captioner("llava")
    task.extractor.do_center_crop = task.extractor.do_resize = False
    task.setup()
    assert [fault.kind for fault in task.recipe_faults()] == ["pictures of another form"]


def test_a_prompt_that_names_a_column_is_refused(tmp_path):
    given = spec(tmp_path, "git", "fine-tuning") | {"prompt": "{image} {title}"}
    with pytest.raises(UserError, match=r"\{title\}"):
        prepare.prepare(recipe.from_dict(given, tmp_path))


def test_a_teacher_that_reads_smaller_pictures_gets_its_own(tmp_path):
    given = spec(tmp_path, "vit gpt2", "distillation")
    _, task = captioner("vit gpt2")
    model, _ = captioner("vit gpt2", seed=1)
    model.config.encoder.image_size = 16
    small = transformers.AutoModelForImageTextToText.from_config(model.config, dtype=torch.float32)
    task.extractor.size = {"height": 16, "width": 16}
    saving.save(small, task.processor, tmp_path / "teacher")
    del given["data"]["validation"]
    given["training"]["epochs"] = 1
    material = prepare.prepare(recipe.from_dict(given, tmp_path))
    assert [files.companion for files in material.references] == ["reference_0"]
    batch = material.task.collate(material.examples["train"][:2])
    assert batch["inputs"]["pixel_values"].shape[-1] == 32
    assert batch["reference_0"]["inputs"]["pixel_values"].shape[-1] == 16
    assert kt.train(recipe.from_dict(given, tmp_path), display=QUIET).result["status"] == "completed"
    assert head_compatibility.NEW == "a new model"


# Bad pictures (FAULTS.md I1 to I7), and those that only look bad


def saved(kind: str, folder: Path) -> Path:
    """A picture file of this kind."""
    base = captioners.draw("red", "disc").resize((200, 150))
    path = folder / "p.png"
    if kind == "CMYK":
        base.convert("CMYK").save(path := folder / "p.jpg")
    elif kind == "16 bits":
        Image.fromarray(np.full((20, 30), 0x8012, dtype=np.uint16)).save(path)
    elif kind == "transparent":
        Image.new("RGBA", (20, 30), (200, 0, 0, 0)).save(path)
    elif kind == "animated":
        base.save(path := folder / "p.gif", save_all=True, append_images=[Image.new("RGB", (200, 150), "white")])
    elif kind == "grey":
        base.convert("L").save(path)
    elif kind == "palette":
        base.convert("P").save(path)
    elif kind == "turned":
        tags = Image.Exif()
        tags[0x0112] = 6  # the camera was held upright
        base.save(path := folder / "p.jpg", exif=tags)
    elif kind == "webp":
        base.save(path := folder / "p.webp")
    elif kind == "tiff":
        base.save(path := folder / "p.tiff")
    elif kind == "jpeg under another name":
        base.save(path, format="JPEG")
    return path


@pytest.mark.parametrize(
    "kind", ["CMYK", "16 bits", "transparent", "animated", "grey", "palette", "turned", "webp", "tiff",
             "jpeg under another name"],
)  # fmt: skip
def test_pictures_of_other_kinds_become_rgb(tmp_path, kind):
    path = saved(kind, tmp_path)
    picture = images.read(path)
    assert picture.mode == "RGB"
    named = {"CMYK", "16 bits", "transparent", "animated"}
    assert images.conversion(path) == (kind if kind in named else "")
    pixels = np.asarray(picture).astype(int)
    if kind == "16 bits":
        assert (pixels == 0x80).all()
    elif kind == "transparent":
        assert (pixels == 255).all()  # it lies on white, whatever colour is hidden
    elif kind == "turned":
        assert picture.size == (150, 200)
    elif kind in ("CMYK", "animated", "palette", "webp", "tiff"):
        red = pixels[75, 100]
        assert red[0] > 150 and red[1] < 90 and red[2] < 90


def test_a_conversion_is_told(tmp_path, rows):
    _, task = captioner("vit gpt2")
    media = Media("p.jpg")
    media.path = saved("CMYK", tmp_path)
    media.digest = hashlib.sha256(media.path.read_bytes()).hexdigest()
    row = dataset.Row({"image": media, "captions": ["a red disc", "a disc"]}, "f", 1, "k")
    examples = [e for r in (row, *rows[:2]) for e in task.encode(r)]
    assert task.notices(examples) == ["1 pictures are made RGB of 8 bits: 1 CMYK"]


@pytest.mark.parametrize(("module", "said"), [("PIL", "no Pillow"), ("pycocoevalcap", "no pycocoevalcap")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, module, said):
    given = spec(tmp_path, "vit gpt2", "fine-tuning")
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(image_captioning, "find_spec", lambda name: None if name == module else name)
    with pytest.raises(UserError, match=rf"{said}[\s\S]*keeltune\[vision\]"):
        prepare.prepare(recipe.from_dict(given, tmp_path))


def png_header(width: int, height: int) -> bytes:
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data_chunk = b"IDAT" + zlib.compress(b"")
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (body, data_chunk))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg(folder: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "whole.jpg")
    return (folder / "whole.jpg").read_bytes()


BAD = {
    "missing": (None, "missing file"),
    "zero bytes": (lambda folder: b"", "a file with content"),
    "truncated": (lambda folder: jpeg(folder)[:2000], "broken picture"),
    "cut header": (lambda folder: jpeg(folder)[:20], "broken picture|no picture"),
    "html": (lambda folder: b"<!DOCTYPE html><html>404</html>", "an HTML page"),
    "git-lfs": (lambda folder: b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "text": (lambda folder: b"hello, no picture", "no picture: it begins with"),
    "bomb": (lambda folder: png_header(20_000, 20_000), "at most 100,000,000 pixels"),
    "bomb beyond Pillow's limit": (lambda folder: png_header(60_000, 60_000), "at most 100,000,000 pixels"),
    "broken png": (lambda folder: png_header(20, 20), "broken picture"),
    "eps": (lambda folder: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture: it begins with"),
    "float": (lambda folder: _float_tiff(), "floating-point"),
}


def _float_tiff() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(stream, format="TIFF")
    return stream.getvalue()


def test_bad_pictures_are_refused_by_file_row_and_field(tmp_path):
    """All of them at once, or left out at once."""
    given = spec(tmp_path, "vit gpt2", "fine-tuning")
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as file:
        for number, (make, _) in enumerate(BAD.values()):
            if make is not None:
                (tmp_path / "pictures" / f"bad{number}.jpg").write_bytes(make(tmp_path))
            file.write(json.dumps({"image": f"pictures/bad{number}.jpg", "captions": ["a disc"]}) + "\n")
    skipped = refused_or_skipped(given, tmp_path, "image", "bad{}.jpg", BAD, first=7)
    assert len(skipped.rows["train"]) == 6


@pytest.mark.parametrize("path", ["/etc/hostname", "../pictures/a.png", "https://example.org/cat.jpg"])
def test_a_path_that_leads_elsewhere_is_refused(tmp_path, path):
    given = spec(tmp_path, "vit gpt2", "fine-tuning")
    (tmp_path / "train.jsonl").write_text(json.dumps({"image": path, "captions": ["a"]}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.jsonl:1 · image"):
        prepare.prepare(recipe.from_dict(given, tmp_path))


@pytest.mark.parametrize("captions", [[], "a red disc", [""], None, [3]])
def test_captions_that_are_none_are_refused(tmp_path, captions):
    given = spec(tmp_path, "vit gpt2", "fine-tuning")
    line = {"image": "pictures/red-disc.png", "captions": captions}
    captioners.write(tmp_path, "train.jsonl", 12)
    (tmp_path / "train.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.jsonl:1 · captions"):
        prepare.prepare(recipe.from_dict(given, tmp_path))


def test_all_bad_pictures_to_predict_on_are_named_at_once(tmp_path):
    captioners.save("vit gpt2", tmp_path / "model")
    (tmp_path / "bad.jpg").write_bytes(jpeg(tmp_path)[:2000])
    (tmp_path / "page.png").write_bytes(b"<html>404</html>")
    names = ["bad.jpg", "whole.jpg", "page.png", "none.png"]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"image": name}) for name in names), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        kt.predict(tmp_path / "model", tmp_path / "rows.jsonl", task="image-captioning", display=QUIET)
    places = sorted(p.where for p in caught.value.problems)
    assert places == [f"{tmp_path / 'rows.jsonl'}:{line}" for line in (1, 3, 4)]


# Real photographs


@pytest.mark.realdata
def test_every_validation_photograph_of_coco_encodes(real_data):
    _, task = captioner("vit gpt2")
    source = str(real_data / "caption-coco" / "validation.jsonl")
    found, problems = reading.read(DataSource(source), ImageCaptioning.columns, {})
    assert not problems and len(found) == 13
    assert not [fault for row in found for fault in task.faults(row)]
    for row in found:
        batch = task.collate(task.encode(row))
        assert batch["inputs"]["pixel_values"].shape == (len(row.fields["captions"]), 3, 32, 32)
        assert torch.isfinite(batch["inputs"]["pixel_values"]).all()
    # each caption against the others of its photograph: people score well, as they must if the count is right
    answers = [row.fields["captions"][0] for row in found]
    golds = [row.fields["captions"][1:] for row in found]
    scores = task.scores(task.statistics(answers, golds).sum(0))
    strangers = task.scores(task.statistics(answers[1:] + answers[:1], golds).sum(0))
    assert scores["cider"] > 0.5 > 5 * strangers["cider"]
    assert scores["bleu4"] > strangers["bleu4"]


@pytest.mark.realdata
def test_a_tiny_model_learns_the_captions_of_four_photographs_by_heart(real_data, tmp_path):
    folder = real_data / "caption-coco"
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text("utf-8").splitlines()[:4]]
    (tmp_path / "images").mkdir()
    for line in lines:
        (tmp_path / line["image"]).write_bytes((folder / line["image"]).read_bytes())
        line["captions"] = line["captions"][:1]
    (tmp_path / "four.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    vit = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
           "intermediate_size": 64, "image_size": 32, "patch_size": 8}  # fmt: skip
    gpt2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64,
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # fmt: skip
    given = {
        "task": "image-captioning", "method": "fine-tuning",
        "model": {"new": {"model_type": "vision-encoder-decoder", "encoder": vit, "decoder": gpt2},
                  "tokenizer": {"train": "bpe", "size": 400}},
        "data": {"train": "four.jsonl", "test": "four.jsonl"},
        "training": {"epochs": 120, "batch_size": 4, "learning_rate": 1e-2, "precision": "fp32"},
        "generation": {"max_new_tokens": 60}, "output": "out",
    }  # fmt: skip
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["metrics"]["test"]["loss"] < 0.5
    written = [json.loads(line) for line in (run.folder / "predictions" / "test.jsonl").read_text("utf-8").splitlines()]
    assert sum(line["score"] for line in written) / 4 > 0.9
