"""Models from nothing: a small configuration of a real architecture, a tokenizer trained on the training rows.

    model: {new: {model_type: marian, d_model: 256, …}, tokenizer: {train: bpe, size: 8000}}

Also warm starts: two pretrained parts joined into an encoder-decoder, `new: {model_type: encoder-decoder, encoder:
FOLDER, decoder: FOLDER}` (text) or `vision-encoder-decoder`, `speech-encoder-decoder`; the cross-attention between them
is new. A part may be a configuration of its own in place of a folder.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from keeltune import models
from keeltune.data import Row
from keeltune.models import Loaded, Pair
from keeltune.problems import Problem, UserError, nearest, shown
from keeltune.recipe import NewModel, Recipe
from keeltune.recipe_fields import TrainTokenizer
from keeltune.tasks.task import Task

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
PARTS = ("encoder", "decoder")


def files(spec: NewModel, recipe: Recipe, task_class: type[Task], rows: Sequence[Row]) -> tuple[Any, Any]:
    """(configuration, processor) of a new model; no weights. UserError where the recipe does not make one."""
    where = recipe.where("model.new")
    kind = spec.new.get("model_type")
    config = _config(spec.new, recipe, where)
    decodes = not getattr(config, "is_encoder_decoder", False) and task_class.choices == "tokens"
    if isinstance(spec.tokenizer, str):
        source = models.locate(spec.tokenizer, recipe.path, recipe.where("model.tokenizer"), "model.tokenizer")
        tokenizer = models.read_processor(source, recipe.where("model.tokenizer"), "model.tokenizer")
        models.prepare_tokenizer(config, tokenizer)
    else:
        assert spec.tokenizer is not None  # the recipe has been checked
        tokenizer = train(spec.tokenizer, list(_texts(task_class, rows)), ends=not decodes)
    _fit(config, tokenizer, spec.new)
    if task_class.reads == "text":
        return config, tokenizer
    return config, Pair(tokenizer, _extractor(config, task_class.reads, str(kind), where))


def load(spec: NewModel, recipe: Recipe, config: Any, processor: Any, auto_model: str, labels: Sequence[str]) -> Loaded:
    """The model with random weights (but for parts that are folders), in float32. The random state draws them."""
    import transformers

    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: i for i, name in enumerate(labels)}
    model = getattr(transformers, auto_model).from_config(config, dtype=torch.float32)
    for part in PARTS:
        if isinstance(origin := spec.new.get(part), str):
            source = models.locate(origin, recipe.path, recipe.where("model.new"), f"model.new.{part}")
            _warm(getattr(model, part), source)
    models.padding(model, processor)
    return Loaded(model, processor, "a new model", tuple(name for name, _ in model.named_parameters()))


def train(spec: TrainTokenizer, texts: Sequence[str], *, ends: bool) -> Any:
    """A tokenizer of `spec.size` tokens at most, trained on `texts`; the same texts give the same one.

    `ends`: an end token is put behind every text (what an encoder-decoder reads and writes). wordpiece is BERT's form,
    with [CLS] and [SEP]; characters are for CTC, whose padding token is the blank.
    """
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    special = [PAD, START, END, UNKNOWN]
    names = {"pad_token": PAD, "bos_token": START, "eos_token": END, "unk_token": UNKNOWN}
    if spec.train == "characters":
        letters = sorted({letter for text in texts for letter in text.replace(" ", "|")})[: spec.size - 2]
        made = Tokenizer(kinds.WordLevel({t: i for i, t in enumerate([PAD, UNKNOWN, *letters])}, unk_token=UNKNOWN))
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("", "isolated")]
        )
        made.normalizer = normalizers.Replace(" ", "|")
        made.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("|", " ")])
        return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, unk_token=UNKNOWN)
    if spec.train == "wordpiece":
        names, special = dict(BERT), list(BERT.values())
        made = Tokenizer(kinds.WordPiece(unk_token=BERT["unk_token"]))
        made.normalizer = normalizers.BertNormalizer(lowercase=False)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=spec.size, special_tokens=special, show_progress=False)
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
    if spec.train == "wordpiece":
        pair = [(t, made.token_to_id(t)) for t in (BERT["cls_token"], BERT["sep_token"])]
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=pair
        )
    elif ends:
        made.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, made.token_to_id(END))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def _texts(task_class: type[Task], rows: Sequence[Row]) -> Iterator[str]:
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


def _config(fields: Mapping[str, Any], recipe: Recipe, where: str) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = fields.get("model_type")
    if kind not in CONFIG_MAPPING:
        mend = f"name an architecture of transformers{nearest(kind, CONFIG_MAPPING.keys())}"
        raise UserError(
            Problem(where, "model.new.model_type", shown(kind), "an architecture that transformers has", mend)
        )
    given = {k: v for k, v in fields.items() if k != "model_type"}
    if all(part in given for part in PARTS):
        for part in PARTS:
            value = given[part]
            if isinstance(value, str):
                source = models.locate(value, recipe.path, where, f"model.new.{part}")
                given[part] = models.read_config(source, where, f"model.new.{part}").to_dict()
            else:
                given[part] = _config(value, recipe, where).to_dict()
        given["decoder"] |= {"is_decoder": True, "add_cross_attention": True}
    else:
        known = {*inspect.signature(CONFIG_MAPPING[kind].__init__).parameters, *CONFIG_MAPPING[kind]().to_dict()}
        if unknown := [name for name in given if name not in known]:
            raise UserError(
                [
                    Problem(where, f"model.new.{name}", shown(name), f"a field of {CONFIG_MAPPING[kind].__name__}",
                            f"correct the name{nearest(name, known)}")
                    for name in unknown
                ]
            )  # fmt: skip
    try:
        return AutoConfig.for_model(kind, **given)
    except Exception as error:  # a configuration class refuses in its own words
        raise UserError(
            Problem(where, "model.new", str(error).splitlines()[0][:300], f"a configuration of {kind}", "correct it")
        ) from error


def _fit(config: Any, tokenizer: Any, given: Mapping[str, Any]) -> None:
    """The vocabulary's size and its special tokens, into every part of a configuration that has words for them."""
    decoder = getattr(config, "decoder", None)
    text = getattr(config, "text_config", None)
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id,
        "eos_token_id": tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id,
    }
    for part in (config, decoder, text):
        if part is None or isinstance(part, dict):
            continue
        for name in ("vocab_size", "decoder_vocab_size"):
            if hasattr(part, name):
                setattr(part, name, len(tokenizer))
        for name, value in ids.items():
            setattr(part, name, value)
    if isinstance(given.get("encoder"), dict) and hasattr(getattr(config, "encoder", None), "vocab_size"):
        config.encoder.vocab_size = len(tokenizer)
        config.encoder.pad_token_id = ids["pad_token_id"]
    if getattr(config, "is_encoder_decoder", False) and "decoder_start_token_id" not in given:
        start = ids["bos_token_id"] if ids["bos_token_id"] is not None else ids["pad_token_id"]
        config.decoder_start_token_id = start
    for name in ("forced_eos_token_id", "forced_bos_token_id", "begin_suppress_tokens", "suppress_tokens"):
        if getattr(config, name, None) is not None and name not in given:
            setattr(config, name, None)


def _extractor(config: Any, reads: str, kind: str, where: str) -> Any:
    """What turns pictures or sound into numbers for this architecture, in the sizes of its configuration."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor  # noqa: F401  (their mappings are filled by this)
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    part = next((p for n in ("encoder", "vision_config") if (p := getattr(config, n, None)) is not None), config)
    mapping = IMAGE_PROCESSOR_MAPPING if reads == "image" else FEATURE_EXTRACTOR_MAPPING
    try:
        found = mapping[type(part)]
    except KeyError as error:
        raise UserError(
            Problem(where, "model.new", f"{kind}, which has no processor for {reads}",
                    f"an architecture that reads {reads}", "choose another model_type")
        ) from error  # fmt: skip
    if isinstance(found, dict):
        made = next(c for c in (found.get("torchvision"), found.get("pil")) if c is not None)
    else:
        made = next(c for c in reversed(found) if c is not None) if isinstance(found, tuple) else found
    sizes: dict[str, Any] = {}
    if reads == "image" and (size := getattr(part, "image_size", None)):
        side = [size, size] if isinstance(size, int) else list(size)
        sizes["size"] = {"height": side[0], "width": side[1]}
    if reads == "sound" and (bins := getattr(part, "num_mel_bins", None)):
        sizes["feature_size"] = bins
    if reads == "sound" and (frames := getattr(part, "max_source_positions", None)) and kind == "whisper":
        sizes["chunk_length"] = frames * 2 // 100  # the encoder halves frames of 10 ms
    return made(**sizes)


def _warm(part: Any, source: str) -> None:
    """A pretrained part's weights, as far as it has them; what it lacks (cross-attention, a head) stays new."""
    from pathlib import Path

    from safetensors.torch import load_file

    folder = Path(source)
    stored: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        stored |= load_file(file)
    own = part.state_dict()
    prefix = getattr(part, "base_model_prefix", "")
    fitting = {}
    for name, value in stored.items():
        for candidate in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
            if candidate in own and own[candidate].shape == value.shape:
                fitting[candidate] = value
                break
    part.load_state_dict(fitting, strict=False)
