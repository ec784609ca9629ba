"""Small random models that say what a picture shows, of several architectures, and made-up pictures for them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image, ImageDraw

from keeltune.data.dataset import Row
from keeltune.data.media import Media
from keeltune.models import initialization, processors, saving, sealed_model, tokenizer_training
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.image_captioning import ImageCaptioning
from tests.helpers import once

COLOURS = {"red": (220, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
SHAPES = ("square", "disc", "bar")
CAPTIONS = {
    (colour, shape): [f"a {colour} {shape}", f"there is a {colour} {shape} on the black ground"]
    for shape in SHAPES
    for colour in COLOURS
}
"""Twelve pictures, two captions each."""
TEXTS = [caption for captions in CAPTIONS.values() for caption in captions]

PARTS: dict[str, dict[str, Any]] = {
    "vit": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
            "image_size": 32, "patch_size": 8},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48},
    "bert": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
             "max_position_embeddings": 48},
    "swin": {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2],
             "window_size": 4},
    "llama": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "num_key_value_heads": 1, "max_position_embeddings": 64},
    "git": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "max_position_embeddings": 48},
}  # fmt: skip
PARTS["deit"] = PARTS["vit"]
LANGUAGE = {**PARTS["llama"], "max_position_embeddings": 256}
STACK = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
         "max_position_embeddings": 64, "forced_eos_token_id": None}  # fmt: skip
DAVIT = {"embed_dim": [8, 16], "num_heads": [1, 2], "num_groups": [1, 2], "depths": [1, 1], "patch_size": [7, 3],
         "patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True], "window_size": 4,
         "projection_dim": 16, "drop_path_rate": 0.0}  # fmt: skip
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
QWEN = {
    "qwen2_vl": {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4},
    "qwen2_5_vl": {"depth": 1, "hidden_size": 16, "out_hidden_size": 16, "num_heads": 2, "intermediate_size": 32,
                   "patch_size": 4, "window_size": 16, "fullatt_block_indexes": [0]},
}  # fmt: skip
ENCODER_DECODERS = ("vit gpt2", "vit bert", "swin gpt2", "deit bert", "florence2", "pix2struct")
PAIRS = ("vit gpt2", "vit bert", "swin gpt2", "deit bert", "git")
"""Those that have no processor for pictures and text together."""
DECODERS = ("git", "llava", "gemma3", "paligemma", "idefics3", "smolvlm", *QWEN)
KINDS = (*ENCODER_DECODERS, *DECODERS)
LOADABLE = tuple(kind for kind in KINDS if kind not in QWEN)
"""Qwen2-VL's processor also reads videos: it is loaded only where torchvision is, which the tests do not ask for."""


def draw(colour: str, shape: str) -> Image.Image:
    picture = Image.new("RGB", (48, 40))
    corners = [(18, 4), (30, 36)] if shape == "bar" else [(8, 6), (36, 34)]
    pen = ImageDraw.Draw(picture)
    (pen.ellipse if shape == "disc" else pen.rectangle)(corners, fill=COLOURS[colour])
    return picture


def rows(folder: Path, count: int = 12) -> list[Row]:
    """The pictures as files, and their rows."""
    made = []
    for i, ((colour, shape), captions) in enumerate(list(CAPTIONS.items())[:count]):
        media = Media(f"{i}.png")
        media.path = folder / media
        draw(colour, shape).save(media.path)
        media.digest = hashlib.sha256(media.path.read_bytes()).hexdigest()
        made.append(Row({"image": media, "captions": captions}, "f.jsonl", i + 1, f"k{i}"))
    return made


def write(folder: Path, name: str, count: int = 12, first: int = 0) -> str:
    """A data file beside its pictures."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    lines = []
    for (colour, shape), captions in list(CAPTIONS.items())[first : first + count]:
        draw(colour, shape).save(folder / "pictures" / f"{colour}-{shape}.png")
        lines.append(json.dumps({"image": f"pictures/{colour}-{shape}.png", "captions": captions}))
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


class Qwen(processors.Pair):
    """As much of Qwen2-VL's processor as reads pictures: its own also reads videos, for which it wants torchvision."""

    image_token = "<|image_pad|>"

    def __call__(self, images: Any, text: list[str]) -> dict[str, Any]:
        seen = self.extractor(images=images, return_tensors="np")
        count = int(seen["image_grid_thw"][0].prod()) // self.extractor.merge_size**2
        ids = self.tokenizer(text[0].replace(self.image_token, self.image_token * count))["input_ids"]
        place = self.tokenizer.convert_tokens_to_ids(self.image_token)
        marks = [[int(i == place) for i in ids]]
        return {"input_ids": [ids], "attention_mask": [[1] * len(ids)], "mm_token_type_ids": marks, **seen}


def reader(kind: str) -> tuple[Any, Any]:
    """(configuration, processor) of a small model that has a processor of its own."""

    def words(**named: str) -> Any:
        made = tokenizer_training.train(TrainTokenizer(train="bpe", size=300), TEXTS, ends=kind in ENCODER_DECODERS)
        special = {f"{name}_token": getattr(made, f"{name}_token") for name in ("pad", "bos", "eos", "unk")}
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=made.backend_tokenizer, extra_special_tokens=named, **special
        )

    size = {"height": 32, "width": 32}
    vision, text = PARTS["vit"], {**LANGUAGE, "head_dim": 8}
    if kind == "llava":
        tokens = words(image_token="<image>")
        config = transformers.LlavaConfig(
            vision_config={"model_type": "clip_vision_model", **vision},
            text_config={"model_type": "llama", **PARTS["llama"]},
            image_token_id=tokens.image_token_id, vision_feature_layer=-1,
        )  # fmt: skip
        return config, transformers.LlavaProcessor(
            initialization._extractor(config, "image", kind, ""), tokens, patch_size=8,
            vision_feature_select_strategy="default", image_token="<image>", num_additional_image_tokens=1,
        )  # fmt: skip
    if kind == "gemma3":
        tokens = words(image_token="<soft>", boi_token="<boi>", eoi_token="<eoi>")
        config = transformers.Gemma3Config(
            text_config={**text, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]},
            vision_config=vision, mm_tokens_per_image=4, image_token_id=tokens.image_token_id,
            image_token_index=tokens.image_token_id,
        )  # fmt: skip
        extractor = transformers.Gemma3ImageProcessorPil(size=size)
        return config, transformers.Gemma3Processor(extractor, tokens, image_seq_length=4)
    if kind == "paligemma":
        extractor = transformers.SiglipImageProcessorPil(size=size, image_seq_length=16)
        processor = transformers.PaliGemmaProcessor(extractor, words(image_token="<image>"))
        config = transformers.PaliGemmaConfig(
            text_config={"model_type": "gemma", **text}, hidden_size=16, projection_dim=16,
            vision_config={"model_type": "siglip_vision_model", **vision, "projection_dim": 16},
            image_token_id=processor.image_token_id, image_token_index=processor.image_token_id,
        )  # fmt: skip
        return config, processor
    if kind in QWEN:
        tokens = words(image_token="<|image_pad|>", video_token="<|video_pad|>")
        config = transformers.AutoConfig.for_model(
            kind, text_config={**LANGUAGE, "rope_parameters": ROPE}, vision_config=QWEN[kind],
            image_token_id=tokens.image_token_id, video_token_id=tokens.video_token_id,
        )  # fmt: skip
        extractor = transformers.Qwen2VLImageProcessorPil(
            size={"shortest_edge": 64, "longest_edge": 4096}, patch_size=4
        )
        return config, Qwen(tokens, extractor)
    if kind in ("idefics3", "smolvlm"):
        parts = {f"part_{i}_{j}_token": f"<row_{i}_col_{j}>" for i in (1, 2, 3) for j in (1, 2, 3)}
        around = {"fake_token": "<fake_token_around_image>", "whole_token": "<global-img>"}
        tokens = words(image_token="<image>", **around, **parts)
        config = transformers.AutoConfig.for_model(
            kind, text_config={"model_type": "llama", **LANGUAGE}, vision_config=vision, scale_factor=2,
            image_token_id=tokens.image_token_id,
        )  # fmt: skip
        made = transformers.Idefics3ImageProcessorPil if kind == "idefics3" else transformers.SmolVLMImageProcessorPil
        extractor = made(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
        return config, transformers.Idefics3Processor(extractor, tokens, image_seq_len=4)
    if kind == "florence2":
        tokens = words(image_token="<image>")
        config = transformers.Florence2Config(
            text_config={"model_type": "bart", **STACK}, vision_config=DAVIT, is_encoder_decoder=True,
            image_token_id=tokens.image_token_id,
        )  # fmt: skip
        extractor = transformers.CLIPImageProcessorPil(size=size, crop_size=size, image_seq_length=17)
        return config, transformers.Florence2Processor(extractor, tokens)
    t5 = {"hidden_size": 16, "d_kv": 8, "d_ff": 32, "initializer_factor": 0.1}
    config = transformers.Pix2StructConfig(
        text_config={**t5, "num_layers": 2, "num_heads": 2},
        vision_config={**t5, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_embed_hidden_size": 48,
                       "seq_len": 64},
    )  # fmt: skip
    extractor = transformers.Pix2StructImageProcessorPil(patch_size={"height": 4, "width": 4}, max_patches=32)
    return config, transformers.Pix2StructProcessor(extractor, words())


def captioner(kind: str, seed: int = 0, **settings: Any) -> tuple[Any, ImageCaptioning]:
    """(model, task) of a small random model: "ENCODER DECODER", or a model that reads pictures itself."""
    processor: Any
    if kind in PAIRS:
        spec = TrainTokenizer(train="wordpiece" if "bert" in kind else "bpe", size=300)
        words = tokenizer_training.train(spec, TEXTS, ends=kind in ENCODER_DECODERS)
        if kind == "git":
            config: Any = transformers.GitConfig(**PARTS["git"], vision_config=PARTS["vit"])
        else:
            encoder, decoder = (
                transformers.AutoConfig.for_model(part, **PARTS[part]).to_dict() | {"model_type": part}
                for part in kind.split()
            )
            decoder |= {"is_decoder": True, "add_cross_attention": True}
            config = transformers.VisionEncoderDecoderConfig(encoder=encoder, decoder=decoder)
        processor = processors.Pair(words, initialization._extractor(config, "image", kind, ""))
    else:
        config, processor = reader(kind)
    initialization._fit_vocabulary(config, processor.tokenizer, {})
    torch.manual_seed(seed)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # fresh weights are so small that no input matters
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.eval()
    processors.prepare_tokenizer(config, processor)
    given = {"max_new_tokens": 12, **settings}
    return model, ImageCaptioning(processor, Settings(config=config, auto_model="AutoModelForImageTextToText", **given))


def save(kind: str, folder: Path, seed: int = 0) -> Path:
    """A model folder."""

    def write(place: Path) -> None:
        model, task = captioner(kind, seed)
        saving.save(model, task.processor, place)
        (place / sealed_model.MANIFEST).unlink()  # as somebody else's, which tests may change

    return once.make(folder, ("captioner", kind, seed), write)


def spec(folder: Path, kind: str, method: str) -> dict:
    save(kind, folder / "student", seed=0)
    if method == "distillation":
        save(kind, folder / "teacher", seed=1)
    return {
        "task": "image-captioning",
        "method": method,
        "model": "student",
        **({"reference": "teacher"} if method == "distillation" else {}),
        "data": {name: write(folder, f"{name}.jsonl", 6) for name in ("train", "validation", "test")},
        "training": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "precision": "fp32"},
        "generation": {"max_new_tokens": 8},
        "output": "out",
    }
