"""A row is answered alike alone and beside others, or the run says why it does not start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

import keeltune as kt
from keeltune import recipe
from keeltune.models import loading
from keeltune.tasks.common.settings import Settings
from keeltune.training.preparation.prepare import prepare
from keeltune.training.row_independence import TOLERANCE, dependence
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from keeltune.utils.registry import find
from tests.helpers import families, models, speakers, writers
from tests.helpers.families import write_lines

HEAD = "AutoModelForSequenceClassification"
QUIET = Display(quiet=True)
LONG = [{"text": " ".join(["good film"] * n), "label": "ab"[n % 2]} for n in (70, 3, 40, 12)]
SHORT = [{"text": " ".join(["good film"] * n), "label": "ab"[n % 2]} for n in (23, 3, 12)]
BIG_BIRD = {**models.BODY, "max_position_embeddings": 256, "block_size": 8, "num_random_blocks": 1, "pad_token_id": 0}


def perturbed(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def sparse(folder: Path) -> Path:
    torch.manual_seed(0)
    names = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    config = AutoConfig.for_model("big_bird", vocab_size=25, attention_type="block_sparse", **BIG_BIRD, **names)
    perturbed(AutoModelForSequenceClassification.from_config(config)).save_pretrained(folder)
    words = models.word_tokenizer()
    words.model_max_length = 256
    words.save_pretrained(folder)
    return folder


def measured(model, task, examples) -> float:
    return dependence(lambda batch: task.rows(task.forward(model.eval(), batch), batch), task, examples, "cpu")


def test_block_sparse_attention_is_found_and_made_whole(tmp_path):
    """Its first short batch turns it whole for good: 4 rows and 2 × 2 differed by 1.1 % of the update."""
    folder = sparse(tmp_path / "model")
    write_lines(tmp_path / "rows.jsonl", LONG)
    given = {"task": "text-classification", "method": "fine-tuning", "model": "model", "output": "out",
             "data": {"train": "rows.jsonl"},
             "training": {"max_steps": 1, "batch_size": 4, "precision": "fp32"}}  # fmt: skip
    material = prepare(recipe.from_dict(given, tmp_path))
    examples = material.examples["train"]
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    task = material.task
    assert dependence(lambda b: task.rows(stock.eval()(**b["inputs"]), b), task, examples, "cpu") > TOLERANCE
    loaded = loading.load(str(folder), material.auto_model, loading.Head(("a", "b")), where="", field="model")
    assert "whole in place of block-sparse" in loaded.notes[0]
    assert loaded.model.config.attention_type == "original_full"
    assert measured(loaded.model, material.task, examples) < 1e-5
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert json.loads((run.model / "config.json").read_text())["attention_type"] == "original_full"


@pytest.mark.parametrize("architecture", ["fnet", "yoso", "convbert"])
def test_a_model_that_mixes_rows_with_padding_reads_those_of_one_length(tmp_path, architecture):
    given = classifier(tmp_path, architecture, **models.BODY)
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["status"] == "completed"
    material = prepare(recipe.from_dict({**given, "output": "again"}, tmp_path))
    model = AutoModelForSequenceClassification.from_pretrained(run.model)
    assert measured(model, material.task, material.examples["train"]) < 1e-5
    with torch.no_grad():
        examples = material.examples["train"]
        stock = [model(**{n: torch.tensor([v]) for n, v in e.inputs.items()}).logits for e in examples]
        batch = material.task.collate(examples)
        torch.testing.assert_close(material.task.forward(model, batch).logits, torch.cat(stock), rtol=1e-5, atol=1e-6)
        assert (model(**batch["inputs"]).logits - torch.cat(stock)).abs().max() > 1e-4  # as they would be beside others


def test_a_model_that_answers_by_chance_is_refused(tmp_path, monkeypatch):
    from transformers import BertForSequenceClassification as Bert

    original = Bert.forward

    def noisy(self, *args, **kwargs):
        outputs = original(self, *args, **kwargs)
        outputs.logits = outputs.logits + torch.randn_like(outputs.logits)
        return outputs

    monkeypatch.setattr(Bert, "forward", noisy)
    with pytest.raises(UserError, match="depends on the rows beside it"):
        kt.train(recipe.from_dict(classifier(tmp_path, "bert", **models.BODY), tmp_path), display=QUIET)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "xlnet"])
def test_others_answer_a_row_alike(tmp_path, architecture):
    folder = models.save_tiny(tmp_path / "model", architecture)
    head = loading.Head(("negative", "positive"))
    loaded = loading.load(str(folder), HEAD, head, where="", field="model")
    task = find("tasks", "text-classification")(
        loaded.processor,
        Settings(labels=["a", "b"], auto_model=HEAD, config=loaded.model.config),
    )
    examples = [e for row in rows_of(SHORT) for e in task.encode(row)]
    assert measured(loaded.model, task, examples) < 1e-5


def rows_of(lines):
    from keeltune.data.dataset import Row

    return [Row(line, "f", number, f"k{number}") for number, line in enumerate(lines)]


def classifier(folder: Path, architecture: str, **fields) -> dict:
    torch.manual_seed(0)
    names = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    config = AutoConfig.for_model(architecture, **{"vocab_size": 25, "pad_token_id": 0, **names, **fields})
    perturbed(AutoModelForSequenceClassification.from_config(config)).save_pretrained(folder / "model")
    models.word_tokenizer().save_pretrained(folder / "model")
    write_lines(folder / "rows.jsonl", SHORT)
    return {"task": "text-classification", "method": "fine-tuning", "model": "model", "output": "out",
            "data": {"train": "rows.jsonl"},
            "training": {"max_steps": 1, "batch_size": 2, "precision": "fp32"}}  # fmt: skip


def test_a_model_whose_forward_pass_fails_on_rows_is_refused(tmp_path):
    """Nyströmformer takes texts of one length alone."""
    given = classifier(tmp_path, "nystromformer", **models.BODY, num_landmarks=4, segment_means_seq_len=64)
    with pytest.raises(UserError, match="nystromformer, whose forward pass fails on a row: shape"):
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)


def test_rows_with_and_without_a_pair_are_refused_where_ends_are_counted(tmp_path):
    given = classifier(tmp_path, "bart", **writers.SIZES["bart"], bos_token_id=2, eos_token_id=3)
    write_lines(tmp_path / "rows.jsonl", [*SHORT, {**SHORT[0], "text_pair": "the plot"}])
    with pytest.raises(UserError, match="a row of 2 ends of text, where others have 1"):
        prepare(recipe.from_dict(given, tmp_path))


# What there is to learn


def test_a_run_in_which_no_row_has_anything_to_learn_is_refused(tmp_path):
    """Every answer lies behind what a stride can hold whole."""
    given = families.spec(tmp_path, "question-answering", "bert", "fine-tuning")
    words = ["film", "good", "plot", "bad"] * 15
    text = " ".join(words)
    row = {"question": "the film ?", "context": text, "answers": {"text": [text], "answer_start": [0]}}
    write_lines(tmp_path / "rows.jsonl", [row, row, {**row, "question": "a plot ?"}] * 2)
    with pytest.raises(UserError, match="6 of 6 rows of train have nothing to learn"):
        prepare(recipe.from_dict({**given, "output": "out", "max_length": 24}, tmp_path))
    write_lines(tmp_path / "rows.jsonl", [row, {**row, "answers": {"text": ["film"], "answer_start": [0]}}] * 3)
    material = prepare(recipe.from_dict({**given, "output": "out", "max_length": 24}, tmp_path))
    assert [w.found for w in material.warnings if "nothing" in w.found] == [
        "3 of 6 rows of train have nothing to learn"
    ]


def test_rows_of_roles_that_are_o_alone_are_counted(tmp_path):
    architecture = families.family_of("semantic-role-labeling").architectures[0]
    given = families.spec(tmp_path, "semantic-role-labeling", architecture, "fine-tuning")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    bare = [{**row, "tags": ["O"] * len(row["tags"])} for row in rows]
    write_lines(tmp_path / "rows.jsonl", [*rows, *bare[:3]])
    material = prepare(recipe.from_dict({**given, "output": "out"}, tmp_path))
    (warning,) = [w for w in material.warnings if "nothing to learn" in w.found]
    assert warning.found.startswith(f"3 of {len(rows) + 3} rows")
    write_lines(tmp_path / "rows.jsonl", bare)
    with pytest.raises(UserError, match=r"BIO tags|nothing to learn"):
        prepare(recipe.from_dict({**given, "output": "out"}, tmp_path))


def test_a_routers_loss_that_is_asked_for_is_said_to_be_left_out(tmp_path):
    sizes = {**writers.SIZES["llama"], "num_local_experts": 4, "output_router_logits": True, "pad_token_id": 0}
    write_lines(tmp_path / "rows.jsonl", [{"prompt": "the film", "completion": "is good"}] * 4)
    given = {
        "task": "text-generation", "method": "fine-tuning", "output": "out", "data": {"train": "rows.jsonl"},
        "model": {"new": {"model_type": "mixtral", **sizes}, "tokenizer": {"train": "characters", "size": 60}},
        "training": {"max_steps": 1, "batch_size": 2, "precision": "fp32"},
    }  # fmt: skip
    warnings = prepare(recipe.from_dict(given, tmp_path)).warnings
    assert [w.found for w in warnings if "router_logits" in w.found] == [
        "output_router_logits: true, with router_aux_loss_coef: 0.001"
    ]


def test_infinity_in_a_buffer_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    speakers.save("hubert batch", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    (name, *_) = [name for name in weights if name.endswith("running_mean")]
    weights[name][0] = torch.inf
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="running_mean hold NaN or infinity"):
        loading.load(str(tmp_path / "model"), "AutoModelForCTC", loading.Head(), where="", field="m", reads="sound")
