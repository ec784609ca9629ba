"""Model folders as users have them, whole and broken; students, adapters, padding tokens, and saved models."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    XLNetConfig,
)

from keeltune.data.dataset import Row
from keeltune.models import configuration, initialization, loading, lora, model_files, positions, saving, surgery
from keeltune.recipe.training_fields import Lora
from keeltune.tasks.common.settings import Settings
from keeltune.training.preparation import compatibility
from keeltune.utils import device
from keeltune.utils.errors import UserError
from keeltune.utils.registry import find
from tests.helpers.models import ARCHITECTURES, WORDS, save_tiny, tiny_config, word_tokenizer
from tests.helpers.writers import SIZES, tokenizer

HEAD = "AutoModelForSequenceClassification"
LABELS = ["negative", "positive"]
TEXTS = ["the film is good", "bad", "a very long and dull plot", "it was fine"]


def open_folder(folder: Path | str, labels=LABELS, **head) -> loading.Loaded:
    """What training does with a recipe's `model`: find it, then load it."""
    with loading.quiet_transformers():
        source = model_files.locate(str(folder), Path, "recipe.yaml:3", "model")
        return loading.load(source, HEAD, loading.Head(labels, **head), where="recipe.yaml:3", field="model")


@torch.no_grad()
def logits(model, tokenizer, texts=TEXTS) -> torch.Tensor:
    modes = model.training
    found = [model.eval()(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    model.train(modes)
    return torch.stack(found)


# Faulty folders


class Canary:
    """Unpickling it writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(folder / "canary")))


def change_config(folder: Path, **fields) -> None:
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def change_weights(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lfs_pointer(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (folder / "model.safetensors").write_text(text)


def missing_shard(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    names = dict.fromkeys(weights, "model-00001-of-00002.safetensors")
    names["classifier.bias"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def cut_index(folder: Path) -> None:
    missing_shard(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def more_tokens(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zzz"])
    tokenizer.save_pretrained(folder)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


QUERY = "bert.encoder.layer.0.attention.self.query.weight"
FAULTS = {
    "missing": (shutil.rmtree, "tried as"),
    "empty": (empty, "no config.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config cut": (lambda f: (f / "config.json").write_text('{"model_type": "be'), "config.json: Unterminated"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: list at the top"),
    "no model_type": (lambda f: change_config(f, model_type=None), "names no model_type"),
    "unknown model_type": (lambda f: change_config(f, model_type="bertt"), "bertt"),
    "auto_map": (lambda f: change_config(f, auto_map={"AutoModel": "evil.Model"}), "code of its own"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"no \*.safetensors"),
    "only pickle": (only_pickle, "weights only as pickle ..pytorch_model.bin.."),
    "cut": (cut, r"model.safetensors: \d+ bytes of data, expected \d+"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "no safetensors header"),
    "git-lfs pointer": (lfs_pointer, "git-lfs pointer"),
    "missing shard": (missing_shard, '"model-00002-of-00002.safetensors", which is not there'),
    "index cut": (cut_index, "model.safetensors.index.json"),
    "a field of another type": (lambda f: change_config(f, hidden_size="thirty"), "hidden_size"),
    "no tokenizer": (no_tokenizer, "tokenizer"),
    "missing weight": (lambda f: change_weights(f, lambda w: w.pop(QUERY)), QUERY),
    "wrong shape": (lambda f: change_weights(f, lambda w: w.update({QUERY: w[QUERY][:5].clone()})), QUERY),
    "NaN": (lambda f: change_weights(f, lambda w: w[QUERY].view(-1)[:1].fill_(torch.nan)), f"{QUERY} hold NaN"),
    "infinity": (lambda f: change_weights(f, lambda w: w[QUERY].view(-1)[:1].fill_(torch.inf)), f"{QUERY} hold NaN"),
    "too many tokens": (more_tokens, "a tokenizer of 26 tokens for 25 embeddings"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_folder_is_refused_with_its_cure(name, tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny("bert"), folder)
    spoil, message = FAULTS[name]
    spoil(folder)
    with pytest.raises(UserError, match=message) as refused:
        open_folder(folder)
    (problem,) = refused.value.problems
    assert refused.value.exit_status == 2
    assert (problem.where, problem.field) == ("recipe.yaml:3", "model")
    assert problem.fix
    assert problem.expected
    if name != "too many tokens":
        assert str(folder) in str(problem)
    assert not (folder / "canary").exists()


def test_pickle_beside_sound_weights_is_never_read(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny("bert"), folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(folder / "canary")))
    open_folder(folder)
    assert not (folder / "canary").exists()
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError):
        loading.load(str(folder), HEAD, loading.Head(LABELS), where="w", field="model")
    assert not (folder / "canary").exists()


def test_a_hub_id_that_cannot_be_had_is_refused():
    assert model_files.locate("someone/some-model", Path, "w", "model") == "someone/some-model"
    with pytest.raises(UserError, match="connect to the hub"):
        configuration.read_config("someone/some-model", "w", "model")


def test_a_run_folder_stands_for_its_model(tiny, tmp_path):
    shutil.copytree(tiny("bert"), tmp_path / "run" / "model")
    (tmp_path / "run" / "result.json").write_text("{}")
    assert model_files.locate("run", tmp_path.joinpath, "w", "model") == str(tmp_path / "run" / "model")


# Loading


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_loaded_in_float32(tiny, tmp_path, dtype):
    model = AutoModelForSequenceClassification.from_pretrained(tiny("bert")).to(dtype)
    model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    loaded = open_folder(tmp_path)
    assert loaded.fresh == ()
    for name, weight in loaded.model.state_dict().items():
        if weight.is_floating_point():
            assert weight.dtype == torch.float32
            assert torch.equal(weight, model.state_dict()[name].float())


HEADS = {
    "bert": {"classifier.weight", "classifier.bias"},
    "roberta": {f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")},
    "distilbert": {f"{part}.{kind}" for part in ("classifier", "pre_classifier") for kind in ("weight", "bias")},
    "gpt2": {"score.weight"},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_head_that_no_checkpoint_holds_is_named(tiny, tmp_path, architecture):
    whole = str(tiny(architecture))
    config = configuration.read_config(whole, "w", "model")
    assert loading.untrained_head(whole, config, HEAD) == []
    assert open_folder(whole).fresh == ()
    with loading.quiet_transformers():
        AutoModel.from_pretrained(whole).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(whole).save_pretrained(tmp_path)
    config = configuration.read_config(str(tmp_path), "w", "model")
    assert set(loading.untrained_head(str(tmp_path), config, HEAD)) == HEADS[architecture]
    assert HEADS[architecture] <= set(open_folder(tmp_path).fresh)


HOLES = {"bart": "encoder.layers.1.fc1.weight"} | dict.fromkeys(
    ("t5", "umt5"), "encoder.block.1.layer.1.DenseReluDense.wo.weight"
)


@pytest.mark.parametrize("saved", [AutoModel, AutoModelForSeq2SeqLM])
@pytest.mark.parametrize("task", ["question-answering", "sentiment-analysis", "semantic-role-labeling"])
@pytest.mark.parametrize("architecture", HOLES)
def test_an_encoder_decoder_gets_the_head_of_another_task(tmp_path, architecture, task, saved):
    """Only the head is new, the body is that of the folder bit for bit, and a hole in the body is refused."""
    auto = find("tasks", task).auto_models[0]
    config = AutoConfig.for_model(architecture, **SIZES[architecture])
    if type(config) not in getattr(transformers, auto)._model_mapping:
        pytest.skip("transformers has no such class")
    words = tokenizer()
    initialization._fit_vocabulary(config, words, {})
    whole = saved.from_config(config)
    with loading.quiet_transformers():
        whole.save_pretrained(tmp_path)
        words.save_pretrained(tmp_path)
        config = configuration.read_config(str(tmp_path), "w", "model")
        fresh = loading.untrained_head(str(tmp_path), config, auto)
        labels = LABELS if find("tasks", task).choices == "labels" else []
        found = loading.load(str(tmp_path), auto, loading.Head(labels), where="w", field="model")
    heads = {"question-answering": "qa_outputs.", "semantic-role-labeling": "classifier."}
    assert fresh == list(found.fresh)
    assert {name[: name.index(".") + 1] for name in fresh} == {heads.get(task, "classification_head.")}
    stored = load_file(tmp_path / "model.safetensors")
    prefix = f"{found.model.base_model_prefix}."
    plain = {name.removeprefix(prefix): value for name, value in stored.items()}
    body = {n.removeprefix(prefix): v for n, v in found.model.state_dict().items() if n not in fresh}
    same = [name for name, value in body.items() if name in plain and torch.equal(value, plain[name])]
    assert len(same) > 10
    assert not {name for name in body if name in plain} - set(same)
    (lost,) = [name for name in stored if name.endswith(HOLES[architecture])]
    del stored[lost]
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=re.escape(HOLES[architecture])), loading.quiet_transformers():
        loading.load(str(tmp_path), auto, loading.Head(labels), where="w", field="model")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_new_head_leaves_the_body(tiny, architecture):
    old, new = open_folder(tiny(architecture)), open_folder(tiny(architecture), ["a", "b"], new=True)
    assert HEADS[architecture] <= set(new.fresh)
    before, after = old.model.state_dict(), new.model.state_dict()
    base = f"{new.model.base_model_prefix}."
    for name in after:
        if name.startswith(base):
            kept = 25 if name.endswith("wte.weight") else None  # GPT-2's padding token is new in both
            assert torch.equal(before[name][:kept], after[name][:kept])
    assert any(not torch.equal(before[name], after[name]) for name in HEADS[architecture])
    more = open_folder(tiny(architecture), ["a", "b", "c"])
    assert more.fresh
    assert more.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert logits(more.model, more.processor).shape == (4, 3)


def test_label_names():
    assert configuration.head_names(tiny_config("bert", ["b", "a"])) == ["b", "a"]
    generic = ["LABEL_0", "LABEL_1"]
    assert compatibility.known_names(generic, ["0", "1"]) == ["0", "1"]
    assert compatibility.known_names(generic, ["negative", "positive"]) is None
    assert compatibility.known_names(["negative", "positive"], ["0", "1"]) == ["negative", "positive"]
    assert compatibility.known_names(None, ["0"]) is None


@pytest.mark.parametrize(("architecture", "bound"), [("bert", 64), ("roberta", 62), ("distilbert", 64), ("gpt2", 64)])
def test_positions_are_what_the_model_can_read(architecture, bound):
    config = tiny_config(architecture, LABELS)
    if architecture == "roberta":
        config.pad_token_id = 1  # as real ones have it: positions begin after it
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert positions.positions(model) == positions.positions(loading.skeleton(config, HEAD)) == bound
    model(input_ids=torch.full((1, bound), 7))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, bound + 1), 7))


# Padding


def test_a_padding_token_that_is_there_stays(tiny):
    loaded = open_folder(tiny("bert"))
    assert loaded.notes == ()
    assert loaded.processor.pad_token == "[PAD]"


# Students


def six_layers(architecture: str) -> loading.Loaded:
    torch.manual_seed(1)
    config = tiny_config(architecture, LABELS)
    config.num_hidden_layers = 6
    if architecture == "gpt2":
        config.pad_token_id = 0
    model = AutoModelForSequenceClassification.from_config(config)
    for parameter in model.parameters():  # biases and norms too must differ between layers
        parameter.data += 0.05 * torch.randn_like(parameter)
    return loading.Loaded(model, word_tokenizer(), "teacher")


def layers_of(model) -> torch.nn.ModuleList:
    (found,) = (m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) > 1)
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("layers", "chosen"), [(2, [0, 5]), (3, [0, 2, 5]), ([4, 1], [4, 1])])
def test_a_student_is_the_teacher_without_the_other_layers(architecture, layers, chosen):
    teacher = six_layers(architecture)
    student = surgery.cut_layers(teacher, HEAD, layers, "w", "model.layers")
    assert student.model.config.num_hidden_layers == len(layers_of(student.model)) == len(chosen)
    theirs = layers_of(teacher.model)
    for ours, place in zip(layers_of(student.model), chosen, strict=True):
        expected = theirs[place].state_dict()
        assert all(torch.equal(weight, expected[name]) for name, weight in ours.state_dict().items())
    assert str(chosen).strip("[]") in student.notes[-1]
    assert len(theirs) == teacher.model.config.num_hidden_layers == 6  # the teacher is left as it was
    kept = [theirs[place] for place in chosen]
    del theirs[len(chosen) :]
    for place, layer in enumerate(kept):
        theirs[place] = layer
    teacher.model.config.use_cache = False  # GPT-2's cache knows its layers by their old numbers
    expected = logits(teacher.model, teacher.processor)
    torch.testing.assert_close(logits(student.model, student.processor), expected, rtol=0, atol=1e-6)


def test_all_layers_are_the_teacher(tmp_path):
    teacher = six_layers("bert")
    student = surgery.cut_layers(teacher, HEAD, 6, "w", "model.layers")
    torch.testing.assert_close(
        logits(student.model, student.processor), logits(teacher.model, teacher.processor), rtol=1e-5, atol=1e-6
    )
    assert not {p.data_ptr() for p in student.model.parameters()} & {p.data_ptr() for p in teacher.model.parameters()}
    saving.save(student.model, student.processor, tmp_path / "student")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    torch.testing.assert_close(
        logits(stock, student.processor), logits(teacher.model, teacher.processor), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("layers", [7, [0, 0], [6], [-1, 2]])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(UserError, match="of a model of 6") as refused:
        surgery.cut_layers(six_layers("bert"), HEAD, layers, "recipe.yaml:4", "model.layers")
    assert refused.value.problems[0].where == "recipe.yaml:4"


# Adapters


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
def test_an_adapter_starts_at_nothing_and_merges_exactly(tiny, architecture):
    loaded = open_folder(tiny(architecture))
    before = logits(loaded.model, loaded.processor)
    adapted = lora.add_adapter(loaded.model, Lora(rank=4, alpha=8, dropout=0.1))
    torch.testing.assert_close(logits(adapted, loaded.processor), before, rtol=1e-5, atol=1e-6)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    for name in HEADS[architecture]:
        module, kind = name.rsplit(".", 1)
        root, _, rest = module.partition(".")
        path = f"modules_to_save.default.{rest}." if rest else "modules_to_save.default."
        assert any(t.endswith(f"{root}.{path}{kind}") for t in trained), name
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    changed = logits(adapted, loaded.processor)
    assert (changed - before).abs().max() > 0.01
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged, loaded.processor), changed, rtol=0, atol=1e-5)


# Tokenizers


def same_encoding(ours, theirs, texts=TEXTS) -> bool:
    task = find("tasks", "text-classification")
    rows = [Row({"text": text, "text_pair": "fine"}, "f", i + 1, str(i)) for i, text in enumerate(texts)]
    return compatibility._same_encoding(task(ours, Settings(LABELS)), task(theirs, Settings(LABELS)), rows)


def test_equal_sizes_are_not_the_same_encoding():
    ours, same, other = word_tokenizer(), word_tokenizer(), word_tokenizer(words=WORDS[::-1])
    assert len(ours) == len(other)
    assert same_encoding(ours, same)
    assert not same_encoding(ours, other)
    assert not same_encoding(ours, word_tokenizer(words=WORDS[:-1]))


def test_the_same_vocabulary_read_otherwise_is_not_the_same_encoding():
    from tokenizers import normalizers

    ours, lower, left, plain = (word_tokenizer() for _ in range(4))
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert same_encoding(ours, lower)
    assert not same_encoding(ours, lower, [*TEXTS, "The Film"])
    left.padding_side = "left"
    assert not same_encoding(ours, left)
    plain.model_input_names = ["input_ids", "attention_mask"]  # as DistilBERT's, which has no segments
    ours.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert not same_encoding(ours, plain)


# Saving


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stock_transformers_loads_what_was_saved(tiny, tmp_path, architecture):
    loaded = open_folder(tiny(architecture), ["a", "b", "c"])
    (tmp_path / ".staging-model").mkdir()  # what a killed run leaves
    for _ in range(2):  # the second time over the first
        saving.save(loaded.model, loaded.processor, tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    stock, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert stock.config.id2label == {0: "a", 1: "b", 2: "c"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.get_vocab() == loaded.processor.get_vocab()
    torch.testing.assert_close(logits(stock, tokenizer), logits(loaded.model, loaded.processor), rtol=1e-5, atol=1e-6)
    assert sorted(p.suffix for p in (tmp_path / "model").iterdir()).count(".safetensors") == 1


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(tiny, tmp_path, half):
    loaded = open_folder(tiny("bert"))
    saving.save(loaded.model, loaded.processor, tmp_path / "model", half=half)
    assert {w.dtype for w in load_file(tmp_path / "model" / "model.safetensors").values()} == {half}
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert stock.dtype == half
    assert open_folder(tmp_path / "model").model.dtype == torch.float32


def test_tokenizers_of_saved_folders_are_the_fixtures(tmp_path):
    assert AutoTokenizer.from_pretrained(save_tiny(tmp_path / "m"))("the film")["input_ids"] == [2, 5, 7, 3]


def test_precision():
    assert device.choose_precision("fp32", "cpu") == "fp32"
    assert device.choose_precision("auto", "cpu") in ("fp32", "bf16")
    with device.autocast("bf16", "cpu")():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with device.autocast("fp32", "cpu")():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_padding_at_the_left_is_mended_where_it_would_change_a_row(tmp_path):
    """Positions are counted from the start, and the first token may stand for the text; XLNet reads the last."""
    xlnet = XLNetConfig(vocab_size=25, d_model=32, n_layer=2, n_head=2, d_inner=64, num_labels=2, pad_token_id=0)
    for architecture in (*ARCHITECTURES, "xlnet"):
        folder = save_tiny(tmp_path / architecture, "bert" if architecture == "xlnet" else architecture)
        if architecture == "xlnet":
            AutoModelForSequenceClassification.from_config(xlnet).save_pretrained(folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
        loaded = open_folder(folder)
        with torch.no_grad():  # fresh weights are so small that no input matters
            for parameter in loaded.model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        task = find("tasks", "text-classification")(loaded.processor, Settings(LABELS))
        rows = [
            Row({"text": t, "label": LABELS[0]}, "f", 1, t) for t in ("bad", "a very long and dull plot but not bad")
        ]
        examples = [e for row in rows for e in task.encode(row)]
        loaded.model.eval()
        together = task.rows(loaded.model(**task.collate(examples)["inputs"]), {}).log_probs(slice(None))
        alone = [task.rows(loaded.model(**task.collate([e])["inputs"]), {}).log_probs(slice(None)) for e in examples]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
        side = "left" if architecture == "xlnet" else "right"
        assert loaded.processor.padding_side == side
        assert any("pads at the left" in note for note in loaded.notes) is (side == "right")
