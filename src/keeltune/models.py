"""Models and processors: found, checked, loaded, saved as plain folders.

Weights are read from safetensors only and loaded in float32, whatever their stored dtype; no code of a model folder is
ever run. What a folder lacks is said before training, by name.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keeltune.problems import Problem, UserError, shown
from keeltune.vocabularies import PADDING

ENDS = 1 << 20
"""Bytes at each end of a file that its fingerprint reads: every training run changes some of them."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "spiece*")
"""Any one of them holds a vocabulary; without one transformers makes up a tokenizer that knows no word."""


@contextmanager
def quietly() -> Iterator[None]:
    """Holds back transformers' own bars and warnings: what matters of them is said by us, once and in our words."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class Loaded:
    """A model with its processor. `fresh` names the weights that no checkpoint held; `notes` are for the log."""

    model: Any
    processor: Any
    source: str
    fresh: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def locate(value: str, resolve: Callable[[str], Path], where: str, field: str, *, writes: bool = True) -> str:
    """A recipe's model as a folder's absolute path (a run folder stands for its `model/`), or as a hub id.

    `writes`: it has a tokenizer; an encoder of pictures or sound needs none.

    Raises UserError where it is a path and no model lies there, naming what is missing in the folder.
    """
    path = _trained(resolve(value))
    if path.is_dir():
        if problem := _folder_problem(path, where, field, writes):
            raise UserError(problem)
        return str(path)
    looks_like_hub = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value) and not value.startswith(".") and not path.exists()
    if looks_like_hub and value.split("/")[0] not in {"runs", "models", "checkpoints", "output"}:
        return value
    raise UserError(
        Problem(
            where,
            field,
            f"{shown(value)}, tried as {path}" + (" (a file)" if path.is_file() else ""),
            "a model folder (config.json, model.safetensors, a tokenizer), a finished run, or a hub id",
            "correct the path; paths are relative to the recipe's folder",
        )
    )


def _trained(path: Path) -> Path:
    """A run folder's `model/`; of several seeds that of the best one. Any other path as it is."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        path = path / json.loads((path / "result.json").read_text(encoding="utf-8"))["seeds"]["best"]
    return path / "model" if (path / "result.json").is_file() and (path / "model").is_dir() else path


def _folder_problem(path: Path, where: str, field: str, writes: bool = True) -> Problem | None:
    """What a local model folder lacks, or None. Only names and headers are read."""

    def problem(found: str, mend: str) -> Problem:
        return Problem(where, field, f"{path}: {found}", "config.json, safetensors weights and a tokenizer", mend)

    if not (path / "config.json").is_file():
        return problem("no config.json", "name the folder that `save_pretrained` wrote")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        return problem(f"config.json is no JSON ({error})", "copy the model folder again")
    if not isinstance(config, dict) or "model_type" not in config:
        return problem("config.json names no model_type", "name a transformers model folder")
    if "auto_map" in config:
        return problem("config.json asks for code of its own (auto_map)", "use a model whose code is in transformers")
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        pickled = [p.name for p in path.glob("*.bin")]
        found = f"weights only as pickle ({', '.join(pickled)})" if pickled else "no *.safetensors"
        return problem(found, "save the model once more with safe_serialization (save_pretrained does)")
    if writes and not any(any(path.glob(pattern)) for pattern in TOKENIZER_FILES):
        return problem(f"no tokenizer ({', '.join(TOKENIZER_FILES)})", "save the model's tokenizer there too")
    index = path / "model.safetensors.index.json"
    if index.is_file() and not (path / "model.safetensors").is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return problem(f"{index.name} names no shards", "copy the model folder again")
        if absent := sorted(shard for shard in shards if not (path / shard).is_file()):
            return problem(f"the index names {', '.join(absent)}, which is not there", "copy the model folder again")
    for file in weights:
        if reason := _header_problem(file):
            return problem(f"{file.name}: {reason}", "copy the file again (with git: git lfs pull)")
    return None


def _header_problem(file: Path) -> str | None:
    """Whether a safetensors file is whole, from its header alone."""
    size = file.stat().st_size
    try:
        length, header = _header(file)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return str(error) if isinstance(error, ValueError) else "a broken safetensors header"
    return None if 8 + length + end == size else f"{size} bytes, expected {8 + length + end}: cut or overwritten"


def _header(file: Path) -> tuple[int, dict[str, Any]]:
    """A safetensors file's header: 8 bytes of length, then JSON, name -> dtype, shape, offsets of the data after it."""
    with file.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            raise ValueError("a git-lfs pointer, not the weights")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(file.stat().st_size, 100_000_000):
            raise ValueError("no safetensors header")
        header = json.loads(stream.read(length))
    return length, {name: entry for name, entry in header.items() if name != "__metadata__"}


def half_precision(source: str, config: Any) -> torch.dtype | None:
    """The half precision in which a model is stored, or None: from its weights where they are here, else as it says."""
    if Path(source).is_dir():
        stored = {e["dtype"] for file in Path(source).glob("*.safetensors") for e in _header(file)[1].values()}
        floats = {name for name in stored if name in {"F16", "BF16", "F32", "F64"}}
        return {frozenset({"F16"}): torch.float16, frozenset({"BF16"}): torch.bfloat16}.get(frozenset(floats))
    stated = getattr(config, "dtype", None)
    return stated if stated in (torch.float16, torch.bfloat16) else None


def fingerprint(source: str) -> str:
    """What a checkpoint's identity says of a model: a digest of its files' heads and tails, or a hub id as it is."""
    if not Path(source).is_dir():
        return source
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(source).iterdir() if p.is_file() and p.suffix != ".md"):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(ENDS))
            stream.seek(max(ENDS, size - ENDS))
            digest.update(stream.read())
    return digest.hexdigest()


def untrained_head(source: str, config: Any, auto_model: str) -> list[str]:
    """The head's weights that a local folder does not hold; loading would draw them at random.

    transformers says it, by loading onto the meta device (no weight is read): many architectures are stored under
    other names than their live weights have. A hub id is not looked into: what it lacks shows when it is loaded.
    """
    import transformers

    if not Path(source).is_dir():
        return []
    with quietly():
        model, info = getattr(transformers, auto_model).from_pretrained(
            source, config=config, device_map="meta", use_safetensors=True, trust_remote_code=False,
            ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
    return sorted(name for name in _head(model, sorted(info["missing_keys"])) if ".pooler." not in name)


def read_config(source: str, where: str, field: str) -> Any:
    """The model's configuration; UserError where it cannot be had."""
    from transformers import AutoConfig

    return _try(lambda: AutoConfig.from_pretrained(source, trust_remote_code=False), source, where, field)


def pick(auto_models: Sequence[str], config: Any, where: str, field: str) -> str:
    """The first of the `transformers` classes that makes a model of this configuration; UserError where none does."""
    import transformers

    for name in auto_models:
        if type(config) in getattr(transformers, name)._model_mapping:
            return name
    kinds = " or ".join(name.removeprefix("AutoModelFor") for name in auto_models)
    raise UserError(
        Problem(where, field, f"an architecture of type {config.model_type}", f"one that transformers has for {kinds}",
                "take a model of another architecture, or another task")
    )  # fmt: skip


class Pair:
    """A tokenizer with what turns pictures or sound into numbers, where a model has no processor for both."""

    def __init__(self, tokenizer: Any, extractor: Any):
        self.tokenizer, self.extractor = tokenizer, extractor

    def save_pretrained(self, folder: Any) -> None:
        self.tokenizer.save_pretrained(folder)
        self.extractor.save_pretrained(folder)


def tokenizer_of(processor: Any) -> Any:
    """The part of a processor that reads and writes text."""
    return getattr(processor, "tokenizer", processor)


def extractor_of(processor: Any) -> Any:
    """The part of a processor that turns pictures or sound into numbers, or None."""
    names = ("extractor", "image_processor", "feature_extractor")
    return next((getattr(processor, name) for name in names if getattr(processor, name, None) is not None), None)


def read_processor(source: str, where: str, field: str, reads: str = "text") -> Any:
    """The model's tokenizer, with what reads pictures or sound beside it; UserError where it cannot be had."""
    import transformers as t

    def load(auto: Any) -> Any:
        return auto.from_pretrained(source, trust_remote_code=False)

    if reads == "text":
        return _try(lambda: load(t.AutoTokenizer), source, where, field)
    with suppress(Exception):  # many models have no processor for both parts; then the parts are read one by one
        processor = load(t.AutoProcessor)
        if hasattr(processor, "tokenizer") and extractor_of(processor) is not None:
            return processor
    tokenizer = _try(lambda: load(t.AutoTokenizer), source, where, field)
    return Pair(tokenizer, read_extractor(source, where, field, reads))


def read_extractor(source: str, where: str, field: str, reads: str) -> Any:
    """What a model reads pictures or sound with; UserError where it cannot be had."""
    import transformers as t

    auto = t.AutoImageProcessor if reads == "image" else t.AutoFeatureExtractor
    pil = {"backend": "pil"} if reads == "image" else {}  # with or without torchvision the same numbers
    return _try(lambda: auto.from_pretrained(source, trust_remote_code=False, **pil), source, where, field)


def _try(load: Callable[[], Any], source: str, where: str, field: str) -> Any:
    try:
        return load()
    except Exception as error:  # whatever transformers raises over a folder, the folder is what the user can mend
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        local = Path(source).is_dir()
        raise UserError(
            Problem(
                where,
                field,
                f"{shown(source)}: {reason[:300]}",
                "a model folder that transformers can read" if local else "a folder, or a model id that the hub holds",
                "save the model and its tokenizer there again"
                if local
                else "give a local folder, or connect to the hub",
            )
        ) from error


def head_names(config: Any) -> list[str] | None:
    """The label names of a model's head in their order, or None where its configuration names none."""
    id2label = getattr(config, "id2label", None)
    if not id2label:
        return None
    try:
        return [str(id2label[i]) for i in range(len(id2label))]
    except KeyError:
        return None


def load(
    source: str,
    auto_model: str,
    labels: Sequence[str],
    *,
    where: str,
    field: str,
    reads: str = "text",
    multi_label: bool = False,
    new_head: bool = False,
) -> Loaded:
    """The model with a head for `labels` (none: its own head), in float32, with its processor and a padding token.

    `new_head` starts the head afresh though the checkpoint may hold one (for other labels). Weights missing outside
    the head, weights of another shape and weights that are no numbers are refused.
    """
    import transformers

    config = read_config(source, where, field)
    processor = read_processor(source, where, field, reads)
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: i for i, name in enumerate(labels)}
    if auto_model == "AutoModelForSequenceClassification":
        config.problem_type = "multi_label_classification" if multi_label else "single_label_classification"
    model, info = _try(
        lambda: getattr(transformers, auto_model).from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        ),
        source,
        where,
        field,
    )
    shapes = {str(name): f"{name} {list(ours)} for {list(theirs)}" for name, ours, theirs in info["mismatched_keys"]}
    missing = sorted({*info["missing_keys"], *shapes})
    head = _head(model, missing)
    if lost := sorted(set(missing) - set(head)):
        raise UserError(
            Problem(
                where,
                field,
                f"{shown(source)} lacks, or holds in another shape: {', '.join(shapes.get(n, n) for n in lost[:5])}"
                + (f" and {len(lost) - 5} more" if len(lost) > 5 else ""),
                "every weight of the pretrained model (only the task's head may be new)",
                "save the whole model there again",
            )
        )
    if broken := [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]:
        raise UserError(
            Problem(
                where,
                field,
                f"{shown(source)}: {', '.join(broken[:5])} hold NaN or infinity",
                "finite weights",
                "take an earlier checkpoint",
            )
        )
    if new_head:
        head = sorted({*head, *_reset_head(model)})
    notes = padding(model, processor)
    rows, tokens = _vocabulary_rows(model), len(tokenizer_of(processor))
    if rows is not None and tokens > rows:
        raise UserError(
            Problem(
                where,
                field,
                f"a tokenizer of {tokens} tokens for {rows} embeddings",
                "an embedding for every token",
                "use the tokenizer that the model was trained with",
            )
        )
    return Loaded(model, processor, source, tuple(head), tuple(notes))


def _head(model: Any, names: Sequence[str]) -> list[str]:
    """Those of a model's weights that belong to the task's head (or to the pooler that only a head reads)."""
    from transformers import AutoModel

    prefix = getattr(model, "base_model_prefix", "")
    if hasattr(model, prefix):
        return [name for name in names if not name.startswith(f"{prefix}.") or ".pooler." in name]
    if type(model.config) in AutoModel._model_mapping:  # T5 and its kin: what the model without a task does not have
        plain = skeleton(model.config, "AutoModel").state_dict().keys()
        return [name for name in names if name not in plain]
    output = model.get_output_embeddings()  # two models joined: what makes logits
    heads = tuple(f"{n}." for n, m in model.named_modules() if m is output)
    return [name for name in names if name.startswith(heads)]


def _reset_head(model: Any) -> list[str]:
    """Starts the modules outside the base model afresh; names their weights.

    Not by the model's own initialiser: it passes over weights that were loaded.
    """
    fresh = []
    for name, child in model.named_children():
        if name == model.base_model_prefix:
            continue
        for module in child.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=getattr(model.config, "initializer_range", 0.02))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        fresh += [f"{name}.{parameter}" for parameter, _ in child.named_parameters()]
    return fresh


def prepare_tokenizer(config: Any, processor: Any) -> list[str]:
    """Gives a tokenizer a padding token where it has none, and the side at which padding changes nothing; says so.

    The token is one of its own, never the end of text: one that stood for both would be masked where the text really
    ends. The side is the right, where positions are counted from the start and the first token may stand for the text;
    the left for models that read the text off the last position (XLNet).
    """
    notes = []
    tokenizer = tokenizer_of(processor)
    side = "left" if getattr(config, "summary_type", None) == "last" else "right"
    if tokenizer.padding_side != side:
        notes.append(
            f"the tokenizer pads at the {tokenizer.padding_side}, where a row's neighbours would change it: {side}"
        )
        tokenizer.padding_side = side
    if tokenizer.pad_token_id is None:
        stored = getattr(config, "pad_token_id", None)
        if stored is not None and 0 <= stored < len(tokenizer):
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(stored)
        else:
            tokenizer.add_special_tokens({"pad_token": PADDING})
            notes.append(f'the tokenizer had no padding token; "{PADDING}" was added (id {tokenizer.pad_token_id})')
    return notes


def vocabulary_size(config: Any) -> int | None:
    """V as a configuration says it, of its text part where it has several."""
    text = config.get_text_config(decoder=True)
    return getattr(text, "vocab_size", None)


def _vocabulary_rows(model: Any) -> int | None:
    """How many tokens a model knows; None for one that reads no tokens and writes none."""
    with suppress(NotImplementedError, AttributeError):
        for module in (model.get_output_embeddings(), model.get_input_embeddings()):
            weight = getattr(module, "weight", None)
            if weight is not None and weight.dim() == 2:
                return int(weight.shape[0])
    return None


def lacks_padding(rows: int | None, tokenizer: Any) -> bool:
    """Whether the tokenizer's padding token (ours, or one that its class adds) is one more than the model's rows."""
    return len(tokenizer) == (rows or 0) + 1 and tokenizer.pad_token_id == rows


def padding(model: Any, processor: Any) -> list[str]:
    """Gives tokenizer and model a padding token, and the model an embedding for it."""
    notes = prepare_tokenizer(model.config, processor)
    tokenizer = tokenizer_of(processor)
    if lacks_padding(_vocabulary_rows(model), tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    return notes


def positions(model: nn.Module) -> int | None:
    """How many tokens the model can read, or None where nothing bounds it.

    RoBERTa-type models count positions from after the padding index, so their table is longer than what they read.
    """
    config = getattr(model.config, "encoder", None) or model.config
    bound = getattr(config, "max_position_embeddings", None)
    if bound is None or bound <= 0:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return int(bound) - module.padding_idx - 1
    return int(bound)


def target_positions(config: Any) -> int | None:
    """How many tokens a decoder beside an encoder can write, or None where nothing bounds it."""
    decoder = getattr(config, "decoder", None) or config
    names = ("max_target_positions", "max_position_embeddings")
    return next((int(n) for name in names if (n := getattr(decoder, name, None)) and n > 0), None)


def skeleton(config: Any, auto_model: str, where: str = "", field: str = "model") -> Any:
    """The model without its weights (on the meta device): sizes and bounds, for nothing.

    UserError where the configuration does not make a model with this head.
    """
    import transformers

    def build() -> Any:
        with torch.device("meta"):
            return getattr(transformers, auto_model).from_config(config)

    return _try(build, config.name_or_path, where, field)


def save(model: Any, processor: Any, folder: Path, *, half: torch.dtype | None = None) -> None:
    """A plain `save_pretrained` folder, written beside and then renamed, so that it is never half there.

    `half` stores the weights in the half precision that the source had.
    """
    staging = folder.with_name(f".staging-{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    stored = {k: v.to(half) if half and v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.save_pretrained(staging, state_dict=stored, max_shard_size="5GB")
    dtype, model.config.dtype = model.config.dtype, half or torch.float32  # it wrote that of the live weights
    model.config.save_pretrained(staging)
    model.config.dtype = dtype
    processor.save_pretrained(staging)
    old = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
