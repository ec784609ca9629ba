"""Tokenizers that do not fit their models: padding without a row of its own, heads for other letters, unknown ids."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

import keeltune as kt
from keeltune import recipe
from keeltune.data.dataset import Row
from keeltune.models import loading, positions, tokenizer_training, vocabulary
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.training.build import build, collated
from keeltune.training.preparation.prepare import prepare
from keeltune.training.step_loss import step_loss
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import models, speakers, writers
from tests.helpers.families import write_lines

QUIET = Display(quiet=True)
ROWS = [
    {"prompt": "the film is", "completion": "good"},
    {"prompt": "a", "completion": "very long and dull plot but not bad"},
    {"prompt": "it was", "completion": "fine and short"},
    {"prompt": "i", "completion": "was in the film"},
]
DECODERS = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": {**writers.SIZES["llama"], "tie_word_embeddings": False, "pad_token_id": -1},
}


def reluctant(folder: Path, architecture: str, seed: int) -> Path:
    """A decoder without a padding token whose logits are strongly negative: a random row would take all probability."""
    torch.manual_seed(seed)
    words = models.word_tokenizer(pad=False)
    sizes = {**DECODERS[architecture], "bos_token_id": 2, "eos_token_id": 3}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, vocab_size=len(words), **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        head = model.get_output_embeddings().weight
        head.add_(0.4 * torch.randn(head.shape))
        if architecture == "gpt2":
            head[:, 0] = -1.0
            model.transformer.ln_f.bias[0] = 8.0
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def distilling(folder: Path, architecture: str = "gpt2", **fields) -> dict:
    write_lines(folder / "rows.jsonl", ROWS)
    return {
        "task": "text-generation", "method": "distillation",
        "model": str(reluctant(folder / "student", architecture, 0)),
        "reference": str(reluctant(folder / "teacher", architecture, 1)), "data": {"train": "rows.jsonl"},
        "training": {"max_steps": 1, "batch_size": 4, "precision": "fp32"}, **fields,
    }  # fmt: skip


def prepared(given: dict, folder: Path):
    return prepare(recipe.from_dict({"output": "out", **given}, folder))


def terms(job) -> tuple[float, float]:
    """CE and D of the training rows, padded to one batch, as training computes them in its first step."""
    batch = collated(job, job.plan.anchored_examples())
    loss = step_loss(job)
    n_ce, n_d = loss.counts(batch)
    job.model.eval()
    with torch.no_grad():
        sums = loss(job.model, batch, [torch.tensor(float(n)) for n in (n_ce, n_d, 4)]).sums
    return float(sums[0]) / n_ce, float(sums[1]) / n_d


@pytest.mark.parametrize("architecture", DECODERS)
def test_padding_takes_no_probability(tmp_path, architecture):
    """Cross-entropy and divergence of padded rows are those of each row alone, in float64, by two stock models."""
    material = prepared(distilling(tmp_path, architecture), tmp_path)
    job = build(material, QUIET)
    found = terms(job)
    folders = [tmp_path / name for name in ("student", "teacher")]
    by_hand = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval() for folder in folders]
    cross_entropy = divergence = 0.0
    count = 0
    for example in material.examples["train"]:
        ids, places = torch.tensor([example.inputs["input_ids"]]), torch.tensor(example.predicted)
        with torch.no_grad():
            student, teacher = (m(input_ids=ids).logits[0].log_softmax(-1)[places] for m in by_hand)
        cross_entropy -= float(student[range(len(student)), example.targets].sum())
        divergence += float((student.exp() * (student - teacher)).sum())
        count += len(student)
    assert found == pytest.approx((cross_entropy / count, divergence / count), rel=1e-6)
    assert len(job.model.get_output_embeddings().weight) == len(job.model.get_input_embeddings().weight) == 25


def test_a_run_leaves_vocabulary_and_tokenizer_as_large_as_they_were(tmp_path):
    given = distilling(tmp_path, training={"max_steps": 1, "batch_size": 2, "precision": "fp32"})
    given["data"]["test"] = "rows.jsonl"
    run = kt.train(recipe.from_dict({**given, "output": "out"}, tmp_path), display=QUIET)
    words, model = AutoTokenizer.from_pretrained(run.model), AutoModelForCausalLM.from_pretrained(run.model)
    assert len(words) == len(models.word_tokenizer(pad=False)) == 25
    assert model.config.vocab_size == len(model.get_input_embeddings().weight) == 25
    together = kt.predict(run.folder, tmp_path / "rows.jsonl", display=QUIET)
    for row, line in zip(ROWS, together, strict=True):  # padded at the left, where positions are counted by the mask
        write_lines(tmp_path / "one.jsonl", [row])
        assert kt.predict(run.folder, tmp_path / "one.jsonl", display=QUIET)[0]["prediction"] == line["prediction"]
    scored = kt.evaluate(run.folder, tmp_path / "rows.jsonl", display=QUIET)
    assert scored["metrics"]["loss"] == pytest.approx(run.result["metrics"]["test"]["loss"], rel=1e-6)


@pytest.mark.parametrize("stored", [None, "[SEP]", "<new>"])
@pytest.mark.parametrize("architecture", models.DECODERS)
def test_padding_is_a_token_that_no_text_ends_in(tmp_path, architecture, stored):
    """No padding token, the one that ends every text, or one without a row: a classifier reads the same last token."""
    folder = models.save_tiny(tmp_path / "model", architecture)
    words = AutoTokenizer.from_pretrained(folder)
    words.eos_token = "[SEP]"
    if stored is not None:
        words.add_special_tokens({"pad_token": stored})
    words.save_pretrained(folder)
    with loading.quiet_transformers():
        loaded = loading.load(
            str(folder),
            "AutoModelForSequenceClassification",
            loading.Head(("negative", "positive")),
            where="",
            field="",
        )
    (note,) = loaded.notes
    assert "pads with [CLS]" in note
    assert loaded.model.config.pad_token_id == loaded.processor.pad_token_id == words.cls_token_id
    assert len(loaded.model.get_input_embeddings().weight) == 25
    assert len(loaded.processor) == len(words)
    stock = AutoModelForSequenceClassification.from_pretrained(folder, pad_token_id=None).eval()
    texts = ["the film is good", "bad", "a very long and dull plot", "it was fine"]
    with torch.no_grad():
        alone = torch.cat([stock(**words(text, return_tensors="pt")).logits for text in texts])
        padded = loaded.model.eval()(**loaded.processor(texts, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)


def test_a_new_model_pads_with_a_token_of_its_tokenizer(tmp_path):
    models.save_tiny(tmp_path / "words", "gpt2")
    write_lines(tmp_path / "rows.jsonl", ROWS)
    given = {
        "task": "text-generation", "method": "fine-tuning",
        "model": {"new": {"model_type": "llama", **writers.SIZES["llama"]}, "tokenizer": "words"},
        "data": {"train": "rows.jsonl"}, "training": {"max_steps": 1, "batch_size": 2, "precision": "fp32"},
    }  # fmt: skip
    job = build(prepared(given, tmp_path), QUIET)
    assert len(job.model.get_input_embeddings().weight) == len(job.material.task.tokenizer) == 25
    assert job.material.task.tokenizer.pad_token_id is not None
    assert job.model.get_input_embeddings().padding_idx is None  # such a row is never trained


def test_a_decoder_that_starts_with_its_padding_sees_its_start(tmp_path):
    """Of GPT-2 one special token begins, ends and pads: the joined model, left alone, would mask all three."""
    models.save_tiny(tmp_path / "encoder", "bert")
    decoder = reluctant(tmp_path / "decoder", "gpt2", 0)
    words = AutoTokenizer.from_pretrained(decoder)
    words.bos_token = words.eos_token = "[SEP]"
    words.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    words.save_pretrained(decoder)
    lines = [{"source": "the film is good", "target": "good"}, {"source": "a plot", "target": "a very long plot it is"}]
    write_lines(tmp_path / "rows.jsonl", lines)
    given = {
        "task": "translation", "method": "fine-tuning", "data": {"train": "rows.jsonl"},
        "model": {"new": {"model_type": "encoder-decoder", "encoder": "encoder", "decoder": "decoder"},
                  "tokenizer": "decoder"},
        "training": {"max_steps": 1, "batch_size": 2, "precision": "fp32"}, "generation": {"max_new_tokens": 4},
    }  # fmt: skip
    job = build(prepared(given, tmp_path), QUIET)
    task, examples, model = job.material.task, job.material.examples["train"], job.model.eval()
    assert task.tokenizer.pad_token_id == model.config.decoder_start_token_id == 3
    batch = task.collate(examples)
    together = task.candidates(model, examples, "cpu")
    assert together == [task.candidates(model, [example], "cpu")[0] for example in examples]
    with torch.no_grad():
        found = task.losses(task.rows(task.forward(model, batch), batch), batch)
        model.double()
        for example, loss in zip(examples, found, strict=True):
            inputs = {name: torch.tensor([ids]) for name, ids in example.inputs.items()}
            seen = torch.ones_like(inputs["decoder_input_ids"])
            log_probs = model(**inputs, decoder_attention_mask=seen).logits[0].log_softmax(-1)
            by_hand = -log_probs[range(len(example.targets)), example.targets].sum()
            assert loss == pytest.approx(float(by_hand), rel=1e-5)


# Heads and tables that lack ids


def with_letters(folder: Path, letters: str) -> None:
    """Another vocabulary beside a model, as for a new language."""
    words = tokenizer_training.train(TrainTokenizer(train="characters", size=200), [letters], ends=False, spells=True)
    words.save_pretrained(folder)


def spelling(folder: Path, kind: str, **fields) -> dict:
    return {
        "task": "speech-recognition", "method": "fine-tuning", "model": speakers.save(kind, folder / "student"),
        "data": {"train": speakers.write(folder, "train.jsonl", range(4))},
        "training": {"max_steps": 1, "batch_size": 2, "precision": "fp32"}, **fields,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-bert"])
def test_a_head_for_fewer_letters_is_new_and_of_the_tokenizers_size(tmp_path, kind):
    given = spelling(tmp_path, kind)
    with_letters(tmp_path / "student", "".join(speakers.TEXTS) + "äöüßéèêç")
    material = prepared(given, tmp_path)
    job = build(material, QUIET)
    letters = len(material.task.tokenizer)
    assert job.model.lm_head.out_features == job.model.config.vocab_size == material.config.vocab_size == letters
    assert job.model.config.pad_token_id == material.task.tokenizer.pad_token_id
    assert any("new head" in note for note in job.student.notes)
    assert "lm_head.weight" in job.student.fresh
    assert max(max(e.targets) for e in material.examples["train"]) < letters
    with pytest.raises(UserError, match="no trained head: lm_head"):
        kt.evaluate(tmp_path / "student", tmp_path / "train.jsonl", task="speech-recognition", display=QUIET)
    with pytest.raises(UserError, match="no trained head"):
        prepared({**given, "method": "distillation", "reference": given["model"]}, tmp_path)


def test_a_head_of_the_tokenizers_letters_is_kept_though_the_tokenizer_names_a_start(tmp_path):
    given = spelling(tmp_path, "wav2vec2")
    words = AutoTokenizer.from_pretrained(tmp_path / "student")
    words.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    words.save_pretrained(tmp_path / "student")
    job = build(prepared(given, tmp_path), QUIET)
    assert job.student.fresh == ()


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused_by_check(tmp_path):
    for task, architecture in (("translation", "marian"), ("text-generation", "gpt2"), ("summarization", "t5")):
        model, writer = writers.writer(architecture, task=task)
        folder = writers.folder_of(model, writer, tmp_path / architecture)
        words = AutoTokenizer.from_pretrained(folder)
        words.add_tokens(["film"])
        words.save_pretrained(folder)
        rows = writers.write(tmp_path / f"{task}.jsonl", task)
        given = {"task": task, "method": "fine-tuning", "model": architecture, "data": {"train": rows}}
        with pytest.raises(UserError, match='none for "film"'):
            prepared(given, tmp_path)


def with_a_start(folder: Path) -> Path:
    """A model whose tokenizer puts a special token before each text that the model has no row for."""
    models.save_tiny(folder)
    words = models.word_tokenizer()
    words.add_special_tokens({"cls_token": "<start>"})
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="<start> $A", pair="<start> $A $B", special_tokens=[("<start>", 25)]
    )
    words.save_pretrained(folder)
    rows = [{"text": "good", "label": "positive"}, {"text": "bad", "label": "negative"}]
    write_lines(folder.parent / "rows.jsonl", rows * 4)
    return folder


CLASSES = {"task": "text-classification", "data": {"train": "rows.jsonl"}}


def test_ids_beyond_a_table_are_refused_by_check(tmp_path):
    with_a_start(tmp_path / "model")
    with pytest.raises(UserError, match="input_ids of 25"):
        prepared({**CLASSES, "method": "fine-tuning", "model": "model"}, tmp_path)


def test_ids_beyond_a_table_of_the_reference_are_refused_by_check(tmp_path):
    """It has the student's tokenizer and reads the student's ids, of which its own table has no row for one."""
    student = with_a_start(tmp_path / "student")
    with_a_start(tmp_path / "teacher")
    model = AutoModelForSequenceClassification.from_pretrained(student)
    model.resize_token_embeddings(26)
    model.save_pretrained(student)
    prepared({**CLASSES, "method": "fine-tuning", "model": "student"}, tmp_path)
    given = {**CLASSES, "method": "distillation", "model": "student", "reference": "teacher"}
    with pytest.raises(UserError, match="input_ids of 25"):
        prepared(given, tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    words.add_tokens(["film2"])
    words.save_pretrained(tmp_path / "teacher")
    with pytest.raises(UserError, match=r"reference\n.*with none for"):
        prepared(given, tmp_path)


def test_a_decoder_without_a_start_is_refused_or_starts_as_transformers_would(tmp_path):
    model, writer = writers.writer("t5")
    folder = writers.folder_of(model, writer, tmp_path / "model")
    rows = writers.write(tmp_path / "rows.jsonl", "translation")
    given = {"task": "translation", "method": "fine-tuning", "model": "model", "data": {"train": rows}}

    def without(*names: str) -> None:
        for file in (folder / "config.json", folder / "generation_config.json"):
            fields = json.loads(file.read_text())
            file.write_text(json.dumps({name: value for name, value in fields.items() if name not in names}))

    without("decoder_start_token_id")
    (example, *_) = prepared(given, tmp_path).examples["train"]
    assert example.inputs["decoder_input_ids"][0] == model.config.bos_token_id
    without("bos_token_id")
    words = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**words, "bos_token": None}))
    with pytest.raises(UserError, match="no decoder_start_token_id"):
        prepared(given, tmp_path)


# Places


@pytest.mark.parametrize(
    ("architecture", "auto", "fields", "reads", "writes"),
    [
        ("led", "AutoModelForSeq2SeqLM", {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 32,
                                          "attention_window": 8}, 64, 32),
        ("bart", "AutoModelForSeq2SeqLM", {"max_position_embeddings": 64}, 64, 64),
        ("xlm-roberta", "AutoModelForSequenceClassification", {"max_position_embeddings": 66, "pad_token_id": 1},
         64, 64),
        ("mpnet", "AutoModelForSequenceClassification", {"max_position_embeddings": 66}, 64, 64),
        ("nystromformer", "AutoModelForSequenceClassification", {"max_position_embeddings": 64, "num_landmarks": 4,
                                                                 "segment_means_seq_len": 64}, 64, 64),
        ("ibert", "AutoModelForSequenceClassification", {"max_position_embeddings": 66, "pad_token_id": 1}, 64, 64),
        ("mpt", "AutoModelForCausalLM", {"d_model": 32, "n_layers": 1, "n_heads": 2, "max_seq_len": 64}, 64, 64),
        ("t5", "AutoModelForSeq2SeqLM", {}, None, None),
    ],
)  # fmt: skip
def test_places_are_what_a_model_has(architecture, auto, fields, reads, writes):
    sizes = {"t5": writers.SIZES["t5"], "mpt": {}, **dict.fromkeys(("led", "bart"), writers.SIZES["marian"])}
    config = AutoConfig.for_model(architecture, vocab_size=25, **{**sizes.get(architecture, models.BODY), **fields})
    shape = loading.skeleton(config, auto)
    assert (positions.positions(shape), positions.target_positions(shape)) == (reads, writes)
    if reads is None:
        return
    torch.manual_seed(0)
    import transformers

    model = getattr(transformers, auto).from_config(config).eval()
    two = {"decoder_input_ids": torch.full((1, writes), 7)} if config.is_encoder_decoder else {}
    model(input_ids=torch.full((1, reads), 7), **two)  # all of them can be read


def test_a_longer_text_is_cut_where_the_tokenizer_names_no_maximum(tmp_path):
    """LED's kind names its places otherwise: a long text ended in an IndexError."""
    sizes = {**writers.SIZES["marian"], "max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 16}
    ids = {"pad_token_id": 3, "bos_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 1}
    config = AutoConfig.for_model("led", vocab_size=300, attention_window=8, **sizes, **ids)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path / "model")
    writers.tokenizer().save_pretrained(tmp_path / "model")
    row = {"document": "the film is very good " * 30, "summary": "good film " * 30}
    write_lines(tmp_path / "rows.jsonl", [row, {**row, "summary": "bad"}])
    given = {"task": "summarization", "method": "fine-tuning", "model": "model", "data": {"train": "rows.jsonl"},
             "training": {"max_steps": 1, "batch_size": 2, "precision": "fp32"}}  # fmt: skip
    material = prepared(given, tmp_path)
    for example in material.examples["train"]:
        assert len(example.inputs["input_ids"]) <= 32
        assert len(example.targets) <= 16
    assert any("are cut" in warning.found for warning in material.warnings)


def test_what_is_given_takes_places_of_the_decoder_too(tmp_path):
    """NLLB's kind is given a language behind its start: a text of all places ended in an IndexError."""
    _, task = writers.writer("marian")
    german = task.tokenizer.convert_tokens_to_ids("<unk>")
    task.settings = replace(task.settings, bounds=vocabulary.Bounds(written=6), target_max_length=6)
    task.architecture.__dict__ |= {"frame": ([german], []), "languages": frozenset([german])}
    (example,) = task.encode(Row({"source": "a", "target": "the film is very very good"}, "f", 1, "k"))
    assert len(example.inputs["decoder_input_ids"]) == 6
    assert example.notes["target_cut"]


def test_a_start_that_only_the_generation_settings_name(tmp_path):
    model, writer = writers.writer("bart")
    folder = writers.folder_of(model, writer, tmp_path / "model")
    fields = json.loads((folder / "config.json").read_text())
    del fields["decoder_start_token_id"]
    (folder / "config.json").write_text(json.dumps({**fields, "bos_token_id": 5}))
    stored = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**stored, "decoder_start_token_id": 2}))
    rows = writers.write(tmp_path / "rows.jsonl", "translation")
    given = {"task": "translation", "method": "fine-tuning", "model": "model", "data": {"train": rows}}
    assert {e.inputs["decoder_input_ids"][0] for e in prepared(given, tmp_path).examples["train"]} == {2}


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [("max_length", 1, "at least 2: 1 special tokens"), ("target_max_length", 1, "at least 2: a token, and the end"),
     ("target_max_length", 100_000, "at most 64, which is what the decoder can write")],
)  # fmt: skip
def test_lengths_that_leave_nothing_or_have_no_places_are_refused(tmp_path, field, value, expected):
    writers.folder_of(*writers.writer("marian"), tmp_path / "model")
    rows = writers.write(tmp_path / "rows.jsonl", "translation")
    given = {"task": "translation", "method": "fine-tuning", "model": "model", "data": {"train": rows}, field: value}
    with pytest.raises(UserError) as refused:
        prepared(given, tmp_path)
    (problem,) = refused.value.problems
    assert problem.expected.startswith(expected)
    assert problem.where


def test_what_a_model_knows():
    shape = loading.skeleton(models.tiny_config("bert", ["a", "b"]), "AutoModelForSequenceClassification")
    assert vocabulary.bounds_of(shape) == vocabulary.Bounds(25, 2, None, 64)
    shape = loading.skeleton(models.tiny_config("gpt2", ["a", "b"]), "AutoModelForCausalLM")
    assert vocabulary.bounds_of(shape) == vocabulary.Bounds(25, None, 25, 64)
