"""Adapters of every kind: where they lie, what they compute, and what trains beside a base held in half precision."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
import transformers

import keeltune as kt
from keeltune import recipe
from keeltune.models.lora import add_adapter
from keeltune.recipe.training_fields import Lora
from keeltune.training import build
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import families, models, wide, writers
from tests.helpers.interruption import copy_at, same

QUIET = Display(quiet=True)


def adapted_names(adapted: torch.nn.Module) -> tuple[set[str], set[str]]:
    """The names of the layers that have an adapter, and of the modules that are trained whole."""
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    low_rank = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in trained if ".lora_" in name}
    whole = {
        name.removeprefix("base_model.model.").split(".modules_to_save")[0] for name in trained if ".lora_" not in name
    }
    return low_rank, whole


@pytest.mark.parametrize("architecture", models.SIZES)
def test_a_classifier_trains_adapters_on_its_body_and_its_head_whole(architecture):
    config = models.tiny_config(architecture, ["a", "b"])
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | transformers.pytorch_utils.Conv1D)}
    low_rank, whole = adapted_names(add_adapter(model, Lora(rank=2)))
    assert low_rank == {name for name in linear if name.startswith(f"{model.base_model_prefix}.")}
    assert whole and not any(name.startswith(model.base_model_prefix + ".") for name in whole)
    assert linear - low_rank == {name for name in linear if any(name == w or name.startswith(f"{w}.") for w in whole)}


@pytest.mark.parametrize("architecture", [*writers.DECODERS, *writers.ENCODER_DECODERS])
def test_a_writer_trains_adapters_in_all_its_blocks_and_neither_head_nor_embeddings(architecture):
    model, _ = writers.writer(architecture, task="summarization")
    low_rank, whole = adapted_names(add_adapter(model, Lora(rank=2), train_head=False))
    assert not whole
    heads = {name for name, module in model.named_modules() if module is model.get_output_embeddings()}
    assert not low_rank & heads
    assert all(not isinstance(m, torch.nn.Embedding) for n, m in model.named_modules() if n in low_rank)
    if model.config.is_encoder_decoder:
        for side in ("encoder", "decoder"):
            assert any(f"{side}." in name for name in low_rank)
    else:
        assert len({name.rsplit(".", 1)[-1] for name in low_rank}) >= 3  # attention and feed-forward, both ways


def test_what_no_checkpoint_held_is_trained_whole():
    """A change of low rank teaches a random pooler nothing."""
    model = transformers.AutoModelForSequenceClassification.from_config(models.tiny_config("bert", ["a", "b"]))
    low_rank, whole = adapted_names(
        add_adapter(model, Lora(rank=2), fresh=["bert.pooler.dense.weight", "classifier.bias"])
    )
    assert whole == {"classifier", "bert.pooler.dense"}
    assert "bert.pooler.dense" not in low_rank and "bert.encoder.layer.0.attention.self.query" in low_rank


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("lora", "factor"),
    [(Lora(rank=4), 2.0), (Lora(rank=4, rslora=True), 4.0), (Lora(rank=4, alpha=8, rslora=True, dora=True), 4.0),
     (Lora(rank=4, alpha=2, dora=True), 0.5)],
)  # fmt: skip
def test_the_adapted_layer_is_the_formula(architecture, lora, factor):
    """W' = W + s B A; with DoRA each output's row of W' has the length m, which starts as that of W's."""
    model, _ = writers.writer(architecture, task="text-generation")
    plain = {n: m.weight.detach().double().clone() for n, m in model.named_modules() if hasattr(m, "weight")}
    conv = architecture == "gpt2"
    adapted = add_adapter(model, lora, train_head=False)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        start = adapted(input_ids=ids).logits
        with adapted.disable_adapter():
            torch.testing.assert_close(start, adapted(input_ids=ids).logits, rtol=1e-5, atol=1e-6)
        for name, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
        expected = {}
        for name, layer in adapted.get_base_model().named_modules():
            if hasattr(layer, "lora_A") and layer.lora_A:
                change = factor * layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
                whole = (plain[name].T if conv else plain[name]) + change
                if lora.dora:
                    length = layer.lora_magnitude_vector["default"].weight.double().reshape(-1, 1)
                    whole = length * whole / whole.norm(dim=1, keepdim=True)
                expected[name] = whole.T if conv else whole
        before = adapted(input_ids=ids).logits
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=ids).logits, before, rtol=1e-4, atol=1e-5)
    assert len(expected) >= 8
    for name, weight in expected.items():
        torch.testing.assert_close(merged.get_submodule(name).weight.double(), weight, rtol=1e-5, atol=1e-6)


def lora_run(folder: Path, task: str, architecture: str, method: str, **lora):
    given = families.spec(folder, task, architecture, method)
    given["training"] |= {"lora": {"rank": 2, **lora}, "max_steps": 3}
    return {**given, "output": "out"}


HELD = [
    ("text-classification", "distilbert", "cross-domain"),
    ("semantic-role-labeling", "bert", "fine-tuning"),
    ("summarization", "t5", "cross-domain"),
    ("text-generation", "gpt2", "cross-domain"),
    ("speech-recognition", "whisper", "fine-tuning"),
    ("speech-recognition", "wav2vec2", "cross-domain"),
    ("image-captioning", "vit gpt2", "fine-tuning"),
]


STAND_FOR_ALL = {HELD[0], HELD[2], HELD[5], HELD[6]}
"""A body with a head of its own, and one of each that writes, spells and reads pictures."""


@pytest.mark.parametrize(("task", "architecture", "method"), wide.all_but(HELD, STAND_FOR_ALL))
def test_a_base_in_half_precision_trains_float32_adapters_and_saves_what_it_scored(
    tmp_path, monkeypatch, task, architecture, method
):
    original, kinds = build.build, {True: set(), False: set()}

    def looked_at(*args, **kwargs):
        job = original(*args, **kwargs)
        for weight in job.model.parameters():
            kinds[weight.requires_grad].add(weight.dtype)
        return job

    monkeypatch.setattr(build, "build", looked_at)
    run = kt.train(
        recipe.from_dict(lora_run(tmp_path, task, architecture, method, base="bf16"), tmp_path), display=QUIET
    )
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    metrics = run.result["metrics"]["test"]
    again = kt.evaluate(run.folder, tmp_path / "rows.jsonl", display=QUIET)["metrics"]
    assert again["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
    if method == "cross-domain":
        assert run.result["reference"]["kind"] == "adapter-off"


def test_a_base_in_half_precision_goes_on_to_the_bit(tmp_path, monkeypatch):
    given = lora_run(tmp_path, "text-generation", "llama", "cross-domain", base="bf16", dora=True)
    given["training"]["save_steps"] = 1
    with monkeypatch.context() as patch:
        copy_at(patch, {2: (tmp_path / "whole", tmp_path / "out")})
        whole = kt.train(recipe.from_dict({**given, "output": "whole"}, tmp_path), display=QUIET)
    again = kt.train(recipe.from_dict(given, tmp_path), display=QUIET, resume=True)
    assert same(whole.folder, again.folder)


def test_a_base_in_half_precision_computes_what_transformers_does_with_it(tmp_path):
    """The start's texts and losses are those of the stock model in bfloat16, not of one in float32."""
    given = lora_run(tmp_path, "text-generation", "llama", "fine-tuning", base="bf16")
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["metrics"]["before"]["test"]["loss"] == pytest.approx(
        _stock_loss(tmp_path, torch.bfloat16), rel=1e-5
    )
    assert abs(_stock_loss(tmp_path, torch.float32) - _stock_loss(tmp_path, torch.bfloat16)) > 1e-4


@torch.no_grad()
def _stock_loss(folder: Path, dtype: torch.dtype) -> float:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "student", dtype=dtype).eval()
    task = writers.writer("llama", task="text-generation")[1]
    examples = [e for row in writers.rows("text-generation") for e in task.encode(row)]
    batch = task.collate(sorted(examples, key=lambda e: -e.length))
    logits = model(**batch["inputs"]).logits[batch["predicted"]].float()
    return torch.nn.functional.cross_entropy(logits, batch["targets"]).item()


def test_what_holds_the_base_follows_the_precision_unless_it_is_said():
    assert [Lora().base_in(precision) for precision in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert [Lora(base="fp32").base_in("bf16"), Lora(base="bf16").base_in("fp32")] == ["fp32", "bf16"]
    assert [Lora(rank=4).factor_alpha, Lora(rank=16, rslora=True).factor_alpha, Lora(alpha=3).factor_alpha] == [8, 8, 3]


def test_a_model_that_mixes_precisions_keeps_float32_by_default_and_says_how_where_it_is_asked_otherwise(tmp_path):
    for folder, lora in (("a", {}), ("b", {"base": "bf16"})):
        place = tmp_path / folder
        place.mkdir()
        given = lora_run(place, "text-classification", "xlnet", "fine-tuning", **lora)
        given["training"]["precision"] = "bf16"
        if not lora:
            assert kt.train(recipe.from_dict(given, place), display=QUIET).result["status"] == "completed"
            continue
        with pytest.raises(UserError, match=r"training\.lora\.base: fp32"):
            kt.train(recipe.from_dict(given, place), display=QUIET)


@pytest.mark.parametrize(
    ("task", "architecture", "auto"),
    wide.all_but(
        [("text-generation", "llama", "CausalLM"), ("summarization", "t5", "Seq2SeqLM"),
         ("text-classification", "bert", "SequenceClassification"),
         ("semantic-role-labeling", "bert", "TokenClassification"),
         ("question-answering", "bert", "QuestionAnswering")],
        {("text-generation", "llama", "CausalLM"), ("summarization", "t5", "Seq2SeqLM"),
         ("question-answering", "bert", "QuestionAnswering")},
    ),
)  # fmt: skip
def test_a_runs_adapter_is_loaded_by_peft_alone(tmp_path, task, architecture, auto):
    run = kt.train(recipe.from_dict(lora_run(tmp_path, task, architecture, "fine-tuning"), tmp_path), display=QUIET)
    adapted = getattr(peft, f"AutoPeftModelFor{auto}").from_pretrained(run.folder / "adapter").eval()
    whole = getattr(transformers, f"AutoModelFor{auto}").from_pretrained(run.model).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if architecture == "t5" else {})}
    with torch.no_grad():
        torch.testing.assert_close(adapted(**inputs)[0], whole(**inputs)[0], rtol=1e-5, atol=1e-6)
    words = [transformers.AutoTokenizer.from_pretrained(place) for place in (run.folder / "adapter", run.model)]
    assert words[0].get_vocab() == words[1].get_vocab()
    assert transformers.AutoConfig.from_pretrained(run.folder / "adapter").id2label == whole.config.id2label
