"""Model folders and tokenizers, and the servers of teachers. Each is a copy of a small whole folder, changed."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.bad_inputs.case import Case, bad, good
from tests.bad_inputs.rows import ROWS, changed, json_lines

TRAIN = {"verb": "train"}
"""What only the weights can tell, `check` leaves to the start of a training."""
QA, CHAT, SUMMARIES = "question-answering", "text-generation", "summarization"
Change = Callable[[Path], object]


class Canary:
    """Unpickling it makes a file, which is found as one that the command began."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("canary"),)


def in_json(file: str, **fields: Any) -> Change:
    """Fields of a JSON file of the model's; `...` takes one out."""

    def change(folder: Path) -> None:
        path = folder / "student" / file
        held = (json.loads(path.read_text()) if path.is_file() else {}) | fields
        path.write_text(json.dumps({name: value for name, value in held.items() if value is not ...}))

    return change


def in_weights(edit: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def change(folder: Path) -> None:
        path = folder / "student" / "model.safetensors"
        weights = load_file(path)
        edit(weights)
        save_file(weights, path, metadata={"format": "pt"})

    return change


def without(*patterns: str) -> Change:
    def change(folder: Path) -> None:
        for pattern in patterns:
            for path in (folder / "student").glob(pattern):
                path.unlink()

    return change


def written(file: str, data: bytes) -> Change:
    return lambda folder: (folder / "student" / file).write_bytes(data)


def cut(file: str, to: float) -> Change:
    def change(folder: Path) -> None:
        path = folder / "student" / file
        path.write_bytes(path.read_bytes()[: int(len(path.read_bytes()) * to)])

    return change


def header(**entries: Any) -> Change:
    """Entries of the safetensors header that say something else; `...` takes one out."""

    def change(folder: Path) -> None:
        path = folder / "student" / "model.safetensors"
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        held = json.loads(data[8 : 8 + length])
        for name in list(held):
            if name != "__metadata__":
                held[name] |= entries
                break
        made = json.dumps(held).encode()
        path.write_bytes(len(made).to_bytes(8, "little") + made + data[8 + length :])

    return change


def in_shards(**renamed: str) -> Change:
    """The weights in two files with an index; a file of the index under another name where it is told."""

    def change(folder: Path) -> None:
        student = folder / "student"
        weights = load_file(student / "model.safetensors")
        (student / "model.safetensors").unlink()
        names = sorted(weights)
        halves = {"a": names[::2], "b": names[1::2]}
        place = {}
        for half, held in halves.items():
            save_file({name: weights[name] for name in held}, student / f"model-{half}.safetensors", {"format": "pt"})
            place |= dict.fromkeys(held, renamed.get(half, f"model-{half}.safetensors"))
        size = sum(weight.nbytes for weight in weights.values())
        (student / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": size}, "weight_map": place})
        )

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def first(weights: dict[str, torch.Tensor]) -> str:
    """A weight of the body."""
    return next(name for name in sorted(weights) if "layer" in name and name.endswith("weight"))


def as_pickle(folder: Path) -> None:
    (folder / "student" / "model.safetensors").unlink()
    (folder / "student" / "pytorch_model.bin").write_bytes(pickle.dumps(Canary()))


def template(text: str | None) -> Change:
    """A chat template; None: none."""

    def change(folder: Path) -> None:
        path = folder / "student" / "chat_template.jinja"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)

    return change


def in_tokenizer(edit: Callable[[dict[str, Any]], object]) -> Change:
    def change(folder: Path) -> None:
        path = folder / "student" / "tokenizer.json"
        held = json.loads(path.read_text())
        edit(held)
        path.write_text(json.dumps(held))

    return change


def seq(name: str, change: Change, *needles: str, kind: str, task: str = "sentiment-analysis", **more: Any) -> Case:
    return (
        bad(kind, name, *needles, task=task, model=change, **more)
        if needles
        else good(kind, name, task=task, model=change, **more)
    )


def unchanged(folder: Path) -> None:
    """A whole copy."""


LABELS = {"id2label": {"0": "bad", "1": "fair", "2": "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
ANCHORED = ("method=cross-domain",)

FOLDERS = [
    bad("M1", "not there", "override model", "no-such-model/x", overrides=("model=./no-such-model/x",)),
    seq("empty", lambda folder: (shutil.rmtree(folder / "student"), (folder / "student").mkdir()), "model", "no config.json", kind="M1"),
    seq("a run that is not finished", lambda folder: (folder / "student").rename(folder / "checkpoint"), "student", kind="M1"),
    seq("no config.json", without("config.json"), "no config.json", kind="M2"),
    seq("config.json is no JSON", cut("config.json", 0.5), "config.json", kind="M2"),
    seq("config.json is a list", written("config.json", b"[1]"), "config.json", kind="M2"),
    seq("config.json of 100,000 brackets", written("config.json", b"[" * 100_000), "config.json", kind="M2"),
    seq("no model_type", in_json("config.json", model_type=...), "model_type", kind="M2"),
    seq("an unknown model_type", in_json("config.json", model_type="brontosaurus"), "brontosaurus", kind="M2"),
    seq("a width that is text", in_json("config.json", hidden_size="wide"), "model", kind="M2"),
    seq("a width that its groups do not divide", in_json("config.json", hidden_size=7), "recipe.yaml", "groups", kind="M2", task="speech-recognition"),
    seq("heads that do not divide the width", in_json("config.json", num_attention_heads=5), "model", kind="M2"),
    seq("no layer that ends", in_json("config.json", num_hidden_layers=10**12), "num_hidden_layers", kind="M2"),
    seq("a tokenizer's settings that are a list", written("tokenizer_config.json", b"[]"), "tokenizer", kind="M2"),
    seq("a shard that is not there", both(in_shards(), without("model-b.safetensors")), "model-b.safetensors", kind="M3"),
    seq("a shard outside the folder", in_shards(b="../model-b.safetensors"), "../model-b.safetensors", kind="M3"),
    seq("an index that ends early", both(in_shards(), cut("model.safetensors.index.json", 0.5)), "index", kind="M3", task=QA),
    seq("an index without names", both(in_shards(), written("model.safetensors.index.json", b'{"weight_map": 3}')), "index", kind="M3"),
    seq("cut", cut("model.safetensors", 0.9), "model.safetensors", "cut or overwritten", kind="M4"),
    seq("cut within the header", cut("model.safetensors", 0.001), "model.safetensors", kind="M4", task=CHAT),
    seq("a git-lfs pointer", written("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull", kind="M4"),
    seq("zero bytes", written("model.safetensors", b""), "model.safetensors", kind="M4"),
    seq("offsets that overlap", header(data_offsets=[0, 8]), "model.safetensors", kind="M4"),
    seq("offsets that are no numbers", header(data_offsets=["a", None]), "model.safetensors", kind="M4"),
    seq("offsets that are none", header(data_offsets=[]), "model.safetensors", kind="M4"),
    seq("a shape that is not its bytes", header(shape=[7]), "model.safetensors", kind="M4"),
    seq("an unknown dtype", header(dtype="F31"), "model.safetensors", kind="M4"),
    seq("a weight of the body", in_weights(lambda w: w.pop(first(w))), "layer", kind="M5", **TRAIN),
    seq("the embeddings", in_weights(lambda w: w.pop(next(n for n in w if "word_embeddings" in n))), "embeddings", kind="M5", task=QA, **TRAIN),
    seq("a head that was never trained, as the reference", in_weights(lambda w: w.pop("classifier.bias")), "classifier.bias", kind="M5", overrides=ANCHORED),
    seq("a narrower weight", in_weights(lambda w: w.update({first(w): torch.zeros(3, 3)})), "[3, 3]", kind="M6", **TRAIN),
    seq("a body of another width", in_json("config.json", hidden_size=16), "16", kind="M6", **TRAIN),
    seq("NaN", in_weights(lambda w: w[first(w)].fill_(float("nan"))), "NaN or infinity", kind="M7", **TRAIN),
    seq("infinity", in_weights(lambda w: w[first(w)].fill_(float("inf"))), "NaN or infinity", kind="M7", task=SUMMARIES, **TRAIN),
    seq("pickle alone", as_pickle, "only as pickle", kind="M8"),
    seq("pickle alone, loaded", as_pickle, "only as pickle", kind="M8", **TRAIN),
    seq("auto_map", in_json("config.json", auto_map={"AutoModel": "code.Model"}), "auto_map", kind="M9"),
    seq("auto_map of a type that is none", in_json("config.json", model_type="mine", auto_map={"AutoConfig": "code.C"}), "auto_map", kind="M9", task=CHAT),
    seq("an adapter without its base", both(without("config.json", "model.safetensors"), written("adapter_config.json", b'{"base_model_name_or_path": "./gone", "peft_type": "LORA"}')), "student", kind="M10"),
    seq("an adapter's settings that are no JSON", both(without("config.json", "model.safetensors"), written("adapter_config.json", b"{")), "student", kind="M10"),
    seq("three names for two, as the reference", in_json("config.json", **LABELS), "reference", "no trained head", kind="M11", overrides=ANCHORED),
    seq("names that are no list", in_json("config.json", id2label=3), "model", kind="M11"),
    seq("a vocabulary of 10¹²", in_json("config.json", vocab_size=10**12), "model", kind="M12", **TRAIN),
    seq("a width of 10⁹", in_json("config.json", hidden_size=10**9, num_attention_heads=1), "model", kind="M12", **TRAIN),
    seq("a whole copy", unchanged, kind="M1"),
    seq("a path with a blank and a dot", lambda folder: (folder / "student").rename(folder / "my model.v2"), kind="M1", overrides=("model=./my model.v2/",)),
    seq("fields that no one knows", in_json("config.json", my_note={"a": [1]}), kind="M2"),
    seq("a BOM would be one, blanks are none", lambda folder: (folder / "student/config.json").write_text("\n " + (folder / "student/config.json").read_text() + "\n\n"), kind="M2"),
    seq("two shards", in_shards(), kind="M3"),
    seq("two shards of a reader", in_shards(), kind="M3", task=QA),
    seq("bytes of another kind beside them", written("notes.bin", b"x"), kind="M4"),
    seq("half precision", in_weights(lambda w: w.update({n: v.half() if v.is_floating_point() else v for n, v in w.items()})), kind="M4"),
    seq("the task's head alone", in_weights(lambda w: w.pop("classifier.bias")), kind="M5"),
    seq("a weight too many", in_weights(lambda w: w.update({"extra.weight": torch.zeros(2)})), kind="M5"),
    seq("a head of other classes", in_weights(lambda w: w.update({"classifier.weight": torch.zeros(3, 32), "classifier.bias": torch.zeros(3)})), kind="M6"),
    seq("a head of five names for two", in_json("config.json", id2label={str(n): f"c{n}" for n in range(5)}, label2id={f"c{n}": n for n in range(5)}), kind="M6"),
    seq("zeros", in_weights(lambda w: w[first(w)].zero_()), kind="M7", **TRAIN),
    seq("the largest number", in_weights(lambda w: w["classifier.bias"].fill_(3e38)), kind="M7"),
    seq("pickle beside safetensors", written("pytorch_model.bin", pickle.dumps(Canary())), kind="M8"),
    seq("pickle beside safetensors, loaded", both(written("pytorch_model.bin", pickle.dumps(Canary())), written("training_args.bin", pickle.dumps(Canary()))), kind="M8", **TRAIN),
    seq("a file of code that nothing names", written("modeling.py", b"raise SystemExit(9)"), kind="M9"),
    seq("trust_remote_code in its own settings", in_json("config.json", trust_remote_code=True), kind="M9"),
    seq("an adapter's folder beside it", lambda folder: (folder / "adapter").mkdir(), kind="M10"),
    seq("a folder that names its base", in_json("config.json", base_model_name_or_path="somewhere/else"), kind="M10"),
    seq("the names in another order", in_json("config.json", id2label={"0": "positive", "1": "negative"}, label2id={"positive": 0, "negative": 1}), kind="M11"),
    seq("no names", in_json("config.json", id2label=..., label2id=...), kind="M11"),
    seq("a long maximum that costs nothing", in_json("config.json", max_position_embeddings=64), kind="M12"),
    seq("a size that its settings overstate", in_json("config.json", total_size=10**15), kind="M12"),
]  # fmt: skip

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"
ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
TALK = [{"role": "user", "content": "is it good?"}, {"role": "assistant", "content": "it is"}]
TALKS = json_lines([{"messages": TALK}] * 2)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
CAREFUL = "{% if not messages %}{{ raise_exception('none') }}{% endif %}" + PLAIN


def smaller_vocabulary(folder: Path) -> None:
    """Embeddings for fewer tokens than the tokenizer has."""
    in_weights(lambda w: w.update({n: v[:9].contiguous() for n, v in w.items() if "word_embeddings" in n}))(folder)
    in_json("config.json", vocab_size=9)(folder)


def sized(kind: str, name: str, file: str, *needles: str, **more: Any) -> Case:
    return seq(name, written(file, b"{"), *needles, kind=kind, **more)


TOKENIZERS = [
    seq("no file of it", without("token*", "special*"), "tokenizer", kind="T1"),
    seq("no file of a writer's", without("token*", "special*", "vocab*", "merges*"), "tokenizer", kind="T1", task=CHAT),
    sized("T1", "no JSON", "tokenizer.json", "tokenizer"),
    seq("100,000 brackets", written("tokenizer.json", b"[" * 100_000), "tokenizer", kind="T1"),
    seq("more tokens than embeddings", smaller_vocabulary, "9", kind="T2"),
    seq("an id of 10⁹", in_tokenizer(lambda t: t["model"]["vocab"].update({"film": 10**9})), "tokenizer", kind="T2"),
    seq("a padding token that is no token", in_json("tokenizer_config.json", pad_token={"a": 1}), "tokenizer", kind="T3"),
    seq("a padding token that is a number", in_json("tokenizer_config.json", pad_token=3), "tokenizer", kind="T3"),
    bad("T4", "max_length beyond the positions", "max_length", "at most", overrides=("max_length=100000",)),
    bad("T4", "max_length beyond a reader's", "max_length", "at most", task=QA, overrides=("max_length=100000",)),
    seq("a template that raises", template("{{ raise_exception('no talk') }}"), "no talk", kind="T5", task=CHAT, train=TALKS),
    seq("a template that does not end", template("{% for m in messages %}"), "template", kind="T5", task=CHAT, train=TALKS),
    seq("a template that reaches out", template(ESCAPE), "template", kind="T5", task=CHAT, train=TALKS),
    seq("a template of 10¹⁰ letters", template(LOOP), "template", kind="T5", task=CHAT, train=TALKS),
    seq("a template without the words", template("hello"), "template", kind="T5", task=CHAT, train=TALKS),
    bad("T6", "a teacher of other tokens", "reference", task=CHAT, model=lambda folder: in_tokenizer(swapped)(folder),
        overrides=("method=distillation", "reference=student", "model=MODEL")),
    bad("T6", "a translator's teacher of other tokens", "reference", task=SUMMARIES, model=lambda folder: in_tokenizer(swapped)(folder),
        overrides=("method=distillation", "reference=student", "model=MODEL")),
    bad("T8", "a transcript with the padding token", "train.jsonl:2", task="speech-recognition", train=changed("speech-recognition", text="one <pad>")),
    bad("T8", "a transcript of the padding token alone", "train.jsonl:2", task="speech-recognition", train=changed("speech-recognition", text="<pad>")),
    seq("tokenizer.json alone", without("vocab*", "merges*", "special*"), kind="T1"),
    seq("a writer's, as it is", unchanged, kind="T1", task=CHAT),
    seq("fewer tokens than embeddings", in_tokenizer(lambda t: t["model"]["vocab"].popitem()), kind="T2"),
    seq("a whole copy of a reader", unchanged, kind="T2", task=QA),
    seq("no padding token", in_json("tokenizer_config.json", pad_token=...), kind="T3"),
    seq("no padding token of a writer", in_json("tokenizer_config.json", pad_token=...), kind="T3", task=CHAT),
    good("T4", "a text longer than the positions, which is cut and warned of", train=[{**r, "text": f"{n} " + "a film " * 99} for n, r in enumerate(ROWS["sentiment-analysis"])]),
    good("T4", "a context longer than the positions, which is read in strides", task=QA, train=changed(QA, context="a film " * 200 + "Ann Lee", answers={"text": ["Ann Lee"], "answer_start": [1400]})),
    seq("a plain template", template(PLAIN), kind="T5", task=CHAT, train=TALKS),
    seq("a template that would raise for nothing", template(CAREFUL), kind="T5", task=CHAT, train=TALKS),
    good("T6", "a teacher with the same tokens", task=CHAT, model=unchanged, overrides=("method=distillation", "reference=student")),
    good("T6", "a classifier's teacher that reads other tokens", model=lambda folder: in_tokenizer(swapped)(folder),
         overrides=("method=distillation", "reference=student", "model=MODEL")),
    good("T8", "a mark of the tokenizer in a review", train=changed("sentiment-analysis", text="a [SEP] film [PAD]")),
    good("T8", "a mark of the tokenizer in a document", task=SUMMARIES, train=changed(SUMMARIES, document="the </s> film <pad>")),
]  # fmt: skip


def swapped(tokenizer: dict[str, Any]) -> None:
    """Two tokens with each other's numbers."""
    vocabulary = tokenizer["model"]["vocab"]
    a, b = list(vocabulary)[-2:]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]


CASES = [*FOLDERS, *TOKENIZERS]
