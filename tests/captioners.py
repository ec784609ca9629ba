"""Small random models that say what a picture shows, of several architectures, and made-up pictures for them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image, ImageDraw

from keeltune import models, newborn
from keeltune.data import Media, Row
from keeltune.recipe_fields import TrainTokenizer
from keeltune.tasks.image_captioning import ImageCaptioning
from keeltune.tasks.task import Settings

COLOURS = {"red": (220, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
SHAPES = ("square", "disc", "bar")
CAPTIONS = {
    (colour, shape): [f"a {colour} {shape}", f"there is a {colour} {shape} on the black ground"]
    for shape in SHAPES
    for colour in COLOURS
}
"""Twelve pictures, two captions each."""

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
ENCODER_DECODERS = ("vit gpt2", "vit bert", "swin gpt2", "deit bert")
DECODERS = ("git", "llava")
KINDS = (*ENCODER_DECODERS, *DECODERS)


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


def captioner(kind: str, seed: int = 0, **settings: Any) -> tuple[Any, ImageCaptioning]:
    """(model, task) of a small random model: "ENCODER DECODER", or a decoder that reads pictures itself."""
    spec = TrainTokenizer(train="wordpiece" if "bert" in kind else "bpe", size=300)
    words = newborn.train(spec, [c for captions in CAPTIONS.values() for c in captions], ends=kind in ENCODER_DECODERS)
    if kind == "llava":
        words.add_special_tokens({"additional_special_tokens": ["<image>"]})
        config = transformers.LlavaConfig(
            vision_config={"model_type": "clip_vision_model", **PARTS["vit"]},
            text_config={"model_type": "llama", **PARTS["llama"]},
            image_token_id=words.convert_tokens_to_ids("<image>"), vision_feature_layer=-1,
        )  # fmt: skip
    elif kind == "git":
        config = transformers.GitConfig(**PARTS["git"], vision_config=PARTS["vit"])
    else:
        encoder, decoder = (
            transformers.AutoConfig.for_model(part, **PARTS[part]).to_dict() | {"model_type": part}
            for part in kind.split()
        )
        decoder |= {"is_decoder": True, "add_cross_attention": True}
        config = transformers.VisionEncoderDecoderConfig(encoder=encoder, decoder=decoder)
    newborn._fit(config, words, {})
    extractor = newborn._extractor(config, "image", kind, "")
    processor: Any = models.Pair(words, extractor)
    if kind == "llava":
        processor = transformers.LlavaProcessor(
            extractor, words, patch_size=8, vision_feature_select_strategy="default", image_token="<image>",
            num_additional_image_tokens=1,
        )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # fresh weights are so small that no input matters
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.eval()
    given = {"max_new_tokens": 12, **settings}
    return model, ImageCaptioning(processor, Settings(config=config, auto_model="AutoModelForImageTextToText", **given))


def save(kind: str, folder: Path, seed: int = 0) -> Path:
    """A model folder."""
    model, task = captioner(kind, seed)
    models.save(model, task.processor, folder)
    return folder
