"""Models from nothing: a small configuration of a real architecture, a tokenizer trained on the training rows.

    model: {new: {model_type: marian, d_model: 256, …}, tokenizer: {train: bpe, size: 8000}}

Also warm starts: two pretrained parts joined into an encoder-decoder, `new: {model_type: encoder-decoder, encoder:
FOLDER, decoder: FOLDER}` (text) or `vision-encoder-decoder`, `speech-encoder-decoder`; the cross-attention between them
is new. A part may be a configuration of its own in place of a folder.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal, Protocol

import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError

from keeltune.data.columns import Schema
from keeltune.data.dataset import Row
from keeltune.models import configuration, configuration_limits, loading, model_files, processors
from keeltune.models.attention import whole_attention
from keeltune.models.building import shapes_alone
from keeltune.models.loading import Loaded
from keeltune.models.processors import Pair
from keeltune.models.tokenizer_training import BERT, texts_of, train
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import NewModel
from keeltune.utils.errors import Problem, UserError, nearest, shown


class ModelTask(Schema, Protocol):
    """What a new model asks of its task: what is read, what a prediction chooses among, which classes load a model."""

    auto_models: ClassVar[tuple[str, ...]]
    reads: ClassVar[Literal["text", "image", "sound"]]
    choices: ClassVar[Literal["labels", "numbers", "tokens", "positions"]]


PARTS = ("encoder", "decoder")


def files(spec: NewModel, recipe: Recipe, task_class: type[ModelTask], rows: Sequence[Row]) -> tuple[Any, Any]:
    """(configuration, processor) of a new model; no weights. UserError where the recipe does not make one."""
    where = recipe.where("model.new")
    kind = spec.new.get("model_type")
    config = _config(spec.new, recipe, where)
    decodes = not getattr(config, "is_encoder_decoder", False) and task_class.choices == "tokens"
    spells = decodes and task_class.reads == "sound"
    if isinstance(spec.tokenizer, str):
        source = model_files.locate(spec.tokenizer, recipe.path, recipe.where("model.tokenizer"), "model.tokenizer")
        tokenizer = processors.read_processor(source, recipe.where("model.tokenizer"), "model.tokenizer")
    else:
        assert spec.tokenizer is not None  # the recipe has been checked
        tokenizer = train(spec.tokenizer, list(texts_of(task_class, rows)), ends=not decodes, spells=spells)
    _fit_vocabulary(config, tokenizer, spec.new)
    if processors.prepare_tokenizer(config, tokenizer, spells=spells) and getattr(config, "is_encoder_decoder", False):
        _fit_vocabulary(config, tokenizer, spec.new)  # its decoder starts from the padding where nothing else is said
    if task_class.reads == "text":
        auto_model = loading.pick(task_class.auto_models, config, where, "model.new.model_type")
        _segments(tokenizer, config, auto_model, trained=not isinstance(spec.tokenizer, str))
        return config, tokenizer
    if isinstance(encoder := spec.new.get("encoder"), str):
        source = model_files.locate(encoder, recipe.path, where, "model.new.encoder", writes=False)
        return config, Pair(tokenizer, processors.read_extractor(source, where, "model.new.encoder", task_class.reads))
    return config, Pair(tokenizer, _extractor(config, task_class.reads, str(kind), where))


def check(config: Any, auto_model: str, where: str) -> None:
    """UserError where transformers cannot build the model; no weights are made. Not every encoder that it has can be
    part of an encoder-decoder (a ResNet gives a map, where a decoder wants a sequence)."""
    import transformers

    try:
        with torch.device("meta"), shapes_alone():
            getattr(transformers, auto_model).from_config(config)
    except Exception as error:  # whatever its constructor raises over the fields
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise UserError(
            Problem(where, "model.new", f"{config.model_type}: {type(error).__name__}: {reason}",
                    "a configuration of which transformers builds a model",
                    "correct its fields, or choose another model_type (of the encoder or decoder, where it has them)")
        ) from error  # fmt: skip


def load(spec: NewModel, recipe: Recipe, config: Any, processor: Any, auto_model: str, labels: Sequence[str]) -> Loaded:
    """The model with random weights (but for parts that are folders), in float32. The random state draws them."""
    import transformers

    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: i for i, name in enumerate(labels)}
    changed = whole_attention(config)
    configuration.look_back(config, auto_model)
    model = getattr(transformers, auto_model).from_config(config, dtype=torch.float32)
    for part in PARTS:
        if isinstance(origin := spec.new.get(part), str):
            where, field = recipe.where("model.new"), f"model.new.{part}"
            source = model_files.locate(origin, recipe.path, where, field, writes=False)
            _load_part(getattr(model, part), source, where, field)
    processors.padding(model, processor, auto_model)
    names = tuple(name for name, _ in model.named_parameters())
    return Loaded(model, processor, "a new model", names, (changed,) if changed else ())


def bare_config(recipe: Recipe) -> Any:
    """The configuration of a new model before its vocabulary is known. UserError where the recipe does not make one."""
    assert isinstance(recipe.model, NewModel)
    return _config(recipe.model.new, recipe, recipe.where("model.new"))


def _config(fields: Mapping[str, Any], recipe: Recipe, where: str) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = fields.get("model_type")
    if kind not in CONFIG_MAPPING:
        fix = f"name an architecture of transformers{nearest(kind, CONFIG_MAPPING.keys())}"
        raise UserError(
            Problem(where, "model.new.model_type", shown(kind), "an architecture that transformers has", fix)
        )
    values = {k: v for k, v in fields.items() if k != "model_type"}
    if problem := configuration_limits.beyond(values):
        name, number, expected = problem
        raise UserError(Problem(where, f"model.new.{name}", number, expected, "correct it"))
    if all(part in values for part in PARTS):
        for part in PARTS:
            origin = values[part]
            if isinstance(origin, str):
                source = model_files.locate(origin, recipe.path, where, f"model.new.{part}", writes=False)
                values[part] = configuration.read_config(source, where, f"model.new.{part}").to_dict()
            else:
                values[part] = _config(origin, recipe, where).to_dict()
        values["decoder"] |= {"is_decoder": True, "add_cross_attention": True}
    else:
        known = {*inspect.signature(CONFIG_MAPPING[kind].__init__).parameters, *CONFIG_MAPPING[kind]().to_dict()}
        if unknown := [name for name in values if name not in known]:
            raise UserError(
                [
                    Problem(where, f"model.new.{name}", shown(name), f"a field of {CONFIG_MAPPING[kind].__name__}",
                            f"correct the name{nearest(name, known)}")
                    for name in unknown
                ]
            )  # fmt: skip
    try:
        return AutoConfig.for_model(kind, **values)
    except Exception as error:  # a configuration class refuses in its own words
        raise UserError(
            Problem(where, "model.new", str(error).splitlines()[0][:300], f"a configuration of {kind}", "correct it")
        ) from error


def _fit_vocabulary(config: Any, tokenizer: Any, spec: Mapping[str, Any]) -> None:
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
            with suppress(StrictDataclassFieldValidationError):  # one that wants a number keeps its own for none
                setattr(part, name, value)
    if isinstance(spec.get("encoder"), dict) and hasattr(getattr(config, "encoder", None), "vocab_size"):
        config.encoder.vocab_size = len(tokenizer)
        config.encoder.pad_token_id = ids["pad_token_id"]
    if getattr(config, "is_encoder_decoder", False) and "decoder_start_token_id" not in spec:
        start = ids["bos_token_id"] if ids["bos_token_id"] is not None else ids["pad_token_id"]
        config.decoder_start_token_id = start
        if text is not None and hasattr(text, "decoder_start_token_id"):
            text.decoder_start_token_id = start  # where generation looks
    for part in (config, getattr(config, "encoder", None)):
        for name in ("mask_time_prob", "mask_feature_prob"):  # SpecAugment, drawn from numpy's global random state
            if getattr(part, name, 0) and name not in spec:
                setattr(part, name, 0.0)
    for name in ("forced_eos_token_id", "forced_bos_token_id", "begin_suppress_tokens", "suppress_tokens"):
        if getattr(config, name, None) is not None and name not in spec:
            setattr(config, name, None)


def _segments(tokenizer: Any, config: Any, auto_model: str, *, trained: bool) -> None:
    """Whether the tokenizer numbers the texts of a pair: where the model tells them apart, as BERT's kind does.

    Another model's tokenizer may number them for a model that has no use for it, or only one number.
    """
    import transformers

    names, segments = list(tokenizer.model_input_names), "token_type_ids"
    model_class = getattr(transformers, auto_model)._model_mapping[type(config)]
    count = getattr(config, "type_vocab_size", None)
    reads = segments in inspect.signature(model_class.forward).parameters and count != 1
    if trained and reads and count and BERT["sep_token"] == tokenizer.sep_token:
        names = [*dict.fromkeys([*names, segments])]
    elif not reads:
        names = [name for name in names if name != segments]
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names  # the one is used, the other saved


def _extractor(config: Any, reads: str, kind: str, where: str) -> Any:
    """What turns pictures or sound into numbers for this architecture, in the sizes of its configuration."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor  # noqa: F401  (their mappings are filled by this)
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    part = next((p for n in ("encoder", "vision_config") if (p := getattr(config, n, None)) is not None), config)
    mapping = IMAGE_PROCESSOR_MAPPING if reads == "image" else FEATURE_EXTRACTOR_MAPPING
    entry = next((mapping[type(c)] for c in (config, part) if type(c) in mapping), None)
    if entry is None:
        raise UserError(
            Problem(where, "model.new", f"{kind}, which has no processor for {reads}",
                    f"an architecture that reads {reads}", "choose another model_type")
        )  # fmt: skip
    if isinstance(entry, dict):  # by library: with Pillow's, the same picture gives the same numbers everywhere
        extractor_class = next(c for c in (entry.get("pil"), entry.get("torchvision")) if c is not None)
    else:
        extractor_class = next(c for c in reversed(entry) if c is not None) if isinstance(entry, tuple) else entry
    sizes: dict[str, Any] = {}
    if reads == "image" and (size := getattr(part, "image_size", None)):
        height, width = [size, size] if isinstance(size, int) else list(size)
        default = extractor_class()
        sizes["size"] = {"height": height, "width": width}
        if "shortest_edge" in dict(default.size):
            sizes["size"] = {"shortest_edge": max(height, width)}
        if getattr(default, "do_center_crop", False):
            sizes["crop_size"] = {"height": height, "width": width}
    if reads == "sound":
        return _sound_extractor(extractor_class, part, where)
    return extractor_class(**sizes)


def _sound_extractor(extractor_class: Any, config: Any, where: str) -> Any:
    """An extractor of sound in the sizes of an encoder's configuration."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

    sizes: dict[str, Any] = {}
    if wide := getattr(config, "feature_projection_input_dim", None):  # two mel frames side by side: w2v-BERT's kind
        extractor_class, sizes = SeamlessM4TFeatureExtractor, {"feature_size": wide // 2, "num_mel_bins": wide // 2}
    elif bins := getattr(config, "input_feat_per_channel", None):
        sizes = {"feature_size": bins, "num_mel_bins": bins}
    elif bins := getattr(config, "num_mel_bins", None):
        sizes = {"feature_size": bins}
    # a norm over the whole length reads the padding, mask or not
    if issubclass(extractor_class, Wav2Vec2FeatureExtractor):
        sizes["return_attention_mask"] = getattr(config, "feat_extract_norm", "layer") == "layer"
    extractor = extractor_class(**sizes)
    frames, hop = getattr(config, "max_source_positions", None), getattr(extractor, "hop_length", None)
    if frames and hop and hasattr(extractor, "chunk_length"):  # one length for all, which the encoder halves
        seconds = frames * 2 * hop / extractor.sampling_rate
        if seconds != int(seconds):
            whole = extractor.sampling_rate // (2 * hop)
            raise UserError(
                Problem(where, "model.new.max_source_positions", shown(frames), f"a multiple of {whole}: whole seconds",
                        f"write {max(1, round(frames / whole)) * whole}")
            )  # fmt: skip
        extractor = extractor_class(**sizes, chunk_length=int(seconds))
    return extractor


def _load_part(part: Any, source: str, where: str, field: str) -> None:
    """A pretrained part's weights. New is only what it cannot have: cross-attention, a head, the pooler of one.

    UserError where it lacks more, or has other shapes: then it would be no warm start.
    """
    pretrained, config = configuration.read_config(source, where, field), copy.deepcopy(part.config)
    loaded, info = model_files.or_refuse(
        lambda: type(part).from_pretrained(
            source, config=config, dtype=torch.float32, use_safetensors=True, ignore_mismatched_sizes=True,
            output_loading_info=True,
        ),
        source, where, field,
    )  # fmt: skip
    prefix = f"{part.base_model_prefix}."
    plain = {n for n, _ in loading.skeleton(pretrained, "AutoModel").named_parameters()}
    lost = sorted(n for n in info["missing_keys"] if n.removeprefix(prefix) in plain and "pooler." not in n)
    shapes = {
        str(name): f"{name} {list(stored)}, not {list(wanted)}" for name, stored, wanted in info["mismatched_keys"]
    }
    if lost or shapes:
        raise UserError(
            Problem(where, field, f"{shown(source)} lacks, or holds in another shape: "
                    f"{', '.join([*shapes.values(), *lost][:5])}", "all weights of the pretrained part",
                    "name a whole model; and as the tokenizer, the one of the part that writes")
        )  # fmt: skip
    part.load_state_dict(loaded.state_dict())
