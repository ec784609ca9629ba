"""Models and processors: found, checked, loaded, cut to a student, given an adapter, saved as plain folders.

Weights are read from safetensors only and loaded in float32, whatever their stored dtype; no code of a model folder is
ever run. What a folder lacks is said before training, by name.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keeltune.problems import Problem, UserError, shown

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
    """A model with its processor. `fresh` names the weights that its checkpoint did not hold; `notes` are for the log."""

    model: Any
    processor: Any
    source: str
    fresh: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def locate(value: str, resolve: Callable[[str], Path], where: str, field: str) -> str:
    """A recipe's model as a folder's absolute path (a run folder stands for its `model/`), or as a hub id.

    Raises UserError where it is a path and no model lies there, naming what is missing in the folder.
    """
    path = resolve(value)
    if (path / "result.json").is_file() and (path / "model").is_dir():
        path = path / "model"
    if path.is_dir():
        if problem := _folder_problem(path, where, field):
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


def _folder_problem(path: Path, where: str, field: str) -> Problem | None:
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
    index = path / "model.safetensors.index.json"
    if index.is_file() and not (path / "model.safetensors").is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
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


def untrained_head(source: str, config: Any, auto_model: str) -> list[str]:
    """The head's weights that a local folder does not hold, read from its headers; loading would draw them at random.

    A hub id is not looked into: what it lacks shows when it is loaded.
    """
    if not Path(source).is_dir():
        return []
    stored = {name for file in Path(source).glob("*.safetensors") for name in _header(file)[1]}
    model = skeleton(config, auto_model)
    return sorted(
        n for n, _ in model.named_parameters() if _is_head(model, n) and ".pooler." not in n and n not in stored
    )


def read_config(source: str, where: str, field: str) -> Any:
    """The model's configuration; UserError where it cannot be had."""
    from transformers import AutoConfig

    return _try(lambda: AutoConfig.from_pretrained(source, trust_remote_code=False), source, where, field)


def read_processor(source: str, where: str, field: str) -> Any:
    """The model's tokenizer; UserError where it cannot be had."""
    from transformers import AutoTokenizer

    return _try(lambda: AutoTokenizer.from_pretrained(source, trust_remote_code=False), source, where, field)


def _try(load: Callable[[], Any], source: str, where: str, field: str) -> Any:
    try:
        return load()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
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
    multi_label: bool = False,
    new_head: bool = False,
) -> Loaded:
    """The model with a head for `labels`, in float32, with its processor and a padding token.

    `new_head` starts the head afresh though the checkpoint may hold one (for other labels). Weights missing outside
    the head, weights of another shape and weights that are no numbers are refused.
    """
    import transformers

    config = read_config(source, where, field)
    processor = read_processor(source, where, field)
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}
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
    missing = sorted({*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])})
    head = [name for name in missing if _is_head(model, name)]
    if lost := sorted(set(missing) - set(head)):
        raise UserError(
            Problem(
                where,
                field,
                f"{shown(source)} lacks, or holds in another shape: {', '.join(lost[:5])}"
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
    notes = _padding(model, processor)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(processor) > rows:
        raise UserError(
            Problem(
                where,
                field,
                f"a tokenizer of {len(processor)} tokens for {rows} embeddings",
                "an embedding for every token",
                "use the tokenizer that the model was trained with",
            )
        )
    return Loaded(model, processor, source, tuple(head), tuple(notes))


def _is_head(model: nn.Module, name: str) -> bool:
    """Whether a weight belongs to the task's head (or to the pooler that only a head reads)."""
    prefix = getattr(model, "base_model_prefix", "")
    return not name.startswith(f"{prefix}.") or ".pooler." in name


def _reset_head(model: Any) -> list[str]:
    """Starts the modules outside the base model afresh, as transformers initialises them; names their weights."""
    fresh = []
    for name, child in model.named_children():
        if name != model.base_model_prefix:
            for module in child.modules():
                model._init_weights(module)
            fresh += [f"{name}.{parameter}" for parameter, _ in child.named_parameters()]
    return fresh


def _padding(model: Any, processor: Any) -> list[str]:
    """Gives tokenizer and model a padding token; decoders often have none. A token of its own, never the end of text:
    one that stood for both would be masked where the text really ends."""
    notes = []
    if processor.pad_token_id is None:
        stored = model.config.pad_token_id
        if stored is not None and 0 <= stored < len(processor):
            processor.pad_token = processor.convert_ids_to_tokens(stored)
        else:
            processor.add_special_tokens({"pad_token": "<|pad|>"})
            notes.append(f'the tokenizer had no padding token; "<|pad|>" was added (id {processor.pad_token_id})')
    if len(processor) > model.get_input_embeddings().weight.shape[0] and notes:
        model.resize_token_embeddings(len(processor), mean_resizing=False)
    model.config.pad_token_id = processor.pad_token_id
    return notes


def positions(model: nn.Module) -> int | None:
    """How many tokens the model can read, or None where nothing bounds it.

    RoBERTa-type models count positions from after the padding index, so their table is longer than what they read.
    """
    bound = getattr(model.config, "max_position_embeddings", None)
    if bound is None:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return int(bound) - module.padding_idx - 1
    return int(bound)


def skeleton(config: Any, auto_model: str) -> Any:
    """The model without its weights (on the meta device): sizes and bounds, for nothing."""
    import transformers

    with torch.device("meta"):
        return getattr(transformers, auto_model).from_config(config)


def cut_layers(loaded: Loaded, auto_model: str, layers: int | Sequence[int], where: str, field: str) -> Loaded:
    """A student made of some of a model's layers, with its embeddings and head.

    A number k takes evenly spaced layers, round(linspace(0, L − 1, k)); a list takes those (from 0). Works for every
    architecture whose layers are a ModuleList. Source: the initialisation of DistilBART and Distil-Whisper,
    https://arxiv.org/abs/2010.13002.
    """
    import transformers

    teacher, config = loaded.model, loaded.model.config.__class__.from_dict(loaded.model.config.to_dict())
    chosen = chosen_layers(config, layers, where, field)
    total = int(config.num_hidden_layers)
    stacks = [name for name, m in teacher.named_modules() if isinstance(m, nn.ModuleList) and len(m) == total]
    if not stacks:
        found = f"{config.model_type}, whose {total} layers lie in no ModuleList"
        raise UserError(
            Problem(where, field, found, "an architecture with its layers in a ModuleList", "train a whole model")
        )
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == total:  # one entry a layer, such as `layer_types`
            setattr(config, name, [value[i] for i in chosen])
    config.num_hidden_layers = len(chosen)
    student = getattr(transformers, auto_model).from_config(config, dtype=torch.float32)
    weights = teacher.state_dict()
    for stack in stacks:
        old = {k: weights.pop(k) for k in list(weights) if k.startswith(f"{stack}.")}
        for new, place in enumerate(chosen):
            start = f"{stack}.{place}."
            weights |= {f"{stack}.{new}.{k.removeprefix(start)}": w for k, w in old.items() if k.startswith(start)}
    student.load_state_dict(weights)
    note = f"student of layers {', '.join(map(str, chosen))} of {total} of {loaded.source}"
    return Loaded(student, loaded.processor, loaded.source, loaded.fresh, (*loaded.notes, note))


def chosen_layers(config: Any, layers: int | Sequence[int], where: str, field: str) -> list[int]:
    """The layers of a student, counted from 0: those of a list, or so many of them, evenly spaced."""
    total = int(config.num_hidden_layers)
    chosen = (
        list(layers) if not isinstance(layers, int) else torch.linspace(0, total - 1, layers).round().int().tolist()
    )
    if len(set(chosen)) != len(chosen) or not all(0 <= i < total for i in chosen):
        raise UserError(
            Problem(
                where,
                field,
                f"layers {layers} of a model of {total}",
                f"different layers from 0 to {total - 1}, or how many of them (at most {total})",
                "correct `model.layers`",
            )
        )
    return chosen


def add_adapter(model: Any, *, rank: int, alpha: float, dropout: float, modules: str | list[str] = "all-linear") -> Any:
    """LoRA on linear layers of the base model, all of them unless `modules` names some; the head is trained whole.

    The adapter starts at zero: the model computes what it did.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    base = f"{model.base_model_prefix}."
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and n.startswith(base)]
    heads = [n for n, m in model.named_children() if f"{n}." != base and any(True for _ in m.parameters())]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=linear if modules == "all-linear" else modules,
        modules_to_save=heads,
        task_type="SEQ_CLS",
    )
    return get_peft_model(model, config)


def same_encoding(ours: Any, theirs: Any, texts: Sequence[str]) -> bool:
    """Whether two tokenizers read text alike: the same token for every id, and the same ids for `texts`.

    Equal sizes prove nothing: two vocabularies of 50 257 tokens may share hardly one id.
    """
    if ours.get_vocab() != theirs.get_vocab() or ours.pad_token_id != theirs.pad_token_id:
        return False
    return ours.padding_side == theirs.padding_side and all(
        ours(text)["input_ids"] == theirs(text)["input_ids"] for text in texts
    )


def choose_precision(asked: str, device: str) -> str:
    """`fp32` or `bf16`: for `auto`, bf16 where a matrix product of this machine is faster in it, else fp32."""
    if asked != "auto":
        return asked
    times = {name: _matmul_seconds(dtype, device) for name, dtype in DTYPES.items()}
    return "bf16" if times["bf16"] < 0.8 * times["fp32"] else "fp32"


def _matmul_seconds(dtype: torch.dtype, device: str, size: int = 768, repeats: int = 5) -> float:
    """The best of a few timed products [size, size] @ [size, size]; one before them is not counted."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        if repeat:
            best = min(best, time.perf_counter() - start)
    return best


def matmul_flops(precision: str, device: str) -> float:
    """Floating-point operations a second of a matrix product of this machine, for estimates."""
    size = 768
    return 2 * size**3 / _matmul_seconds(DTYPES[precision], device, size)


def autocast(precision: str, device: str) -> Callable[[], AbstractContextManager[Any]]:
    """Makes the context for a forward pass: float32 weights, and bf16 products where the precision says so."""
    if precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(device, dtype=DTYPES[precision])


def device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def save(model: Any, processor: Any, folder: Path, *, half: torch.dtype | None = None) -> None:
    """A plain `save_pretrained` folder, written beside and then renamed, so that it is never half there.

    `half` stores the weights in the half precision that the source had.
    """
    staging = folder.with_name(f".staging-{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    stored = {k: v.to(half) if half and v.is_floating_point() else v for k, v in model.state_dict().items()}
    dtype = model.config.dtype
    model.config.dtype = half or torch.float32
    model.save_pretrained(staging, state_dict=stored, max_shard_size="5GB")
    model.config.dtype = dtype
    processor.save_pretrained(staging)
    old = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
