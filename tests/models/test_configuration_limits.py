"""Numbers of a configuration that no model has are refused by name, and what a model computes has a size."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from keeltune.models import building, configuration, configuration_limits, initialization, loading
from keeltune.utils.errors import UserError
from tests.bad_inputs.limits import bounded

HUGE = {
    "layers": ("bert", {"num_hidden_layers": 10**12}, "num_hidden_layers: 1000000000000"),
    "a layer too many": ("bert", {"num_hidden_layers": 1001}, "num_hidden_layers: 1001"),
    "layers that its class has not": ("bert", {"encoder_layers": 1001}, "encoder_layers: 1001"),
    "layers below none": ("bert", {"num_hidden_layers": -1}, "num_hidden_layers: -1"),
    "layers under an old name": ("gpt2", {"n_layer": 10**9}, "n_layer"),
    "layers of one side": ("marian", {"decoder_layers": 10**9}, "decoder_layers"),
    "layers in a list": ("swin", {"depths": [2, 10**9]}, "depths"),
    "layers of a part": ("llava", {"vision_config": {"model_type": "clip_vision_model", "num_hidden_layers": 10**9}},
                         "vision_config.num_hidden_layers"),
    "layers of a part of a part": ("qwen2_5_omni", {"thinker_config": {"audio_config": {"encoder_layers": 10**9}}},
                                   "thinker_config.audio_config.encoder_layers"),
    "heads": ("bert", {"num_attention_heads": 10**9}, "num_attention_heads"),
    "heads of each layer": ("llama", {"num_key_value_heads": 10**9}, "num_key_value_heads"),
    "vocabulary": ("bert", {"vocab_size": 10**12}, "vocab_size"),
    "width": ("bert", {"hidden_size": 10**9}, "hidden_size"),
    "width under an old name": ("marian", {"d_model": 16_000_000}, "d_model"),
    "width between": ("llama", {"intermediate_size": 10**9}, "intermediate_size"),
    "widths in a list": ("wav2vec2", {"conv_dim": [512, 10**9]}, "conv_dim"),
    "positions": ("marian", {"max_position_embeddings": 10**9}, "max_position_embeddings"),
    "positions of sound": ("whisper", {"max_source_positions": 10**9}, "max_source_positions"),
    "experts": ("mixtral", {"num_local_experts": 10**9}, "num_local_experts"),
    "labels": ("bert", {"num_labels": 10**9}, "num_labels"),
    "a picture": ("vit", {"image_size": 10**9}, "image_size"),
    "digits without end": ("bert", {"vocab_size": 10**4000}, "vocab_size"),
}  # fmt: skip


def folder_of(folder: Path, kind: str, **fields: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **fields}))
    return str(folder)


@pytest.mark.parametrize("name", HUGE)
def test_a_number_that_no_model_has_is_refused_by_its_field(name: str, tmp_path: Path):
    kind, fields, found = HUGE[name]
    with bounded(), pytest.raises(UserError) as refused:
        configuration.read_config(folder_of(tmp_path, kind, **fields), "r.yaml:3", "model")
    (problem,) = refused.value.problems
    assert found in problem.found and str(tmp_path) in problem.found
    assert problem.expected.startswith("a number from ") and "config.json" in problem.fix
    assert (problem.where, problem.field) == ("r.yaml:3", "model")


LARGE = {
    "qwen3_moe": {"num_hidden_layers": 94, "num_experts": 128, "vocab_size": 262_144, "hidden_size": 4096,
                  "max_position_embeddings": 1_048_576},
    "llama": {"num_hidden_layers": 126, "hidden_size": 16_384, "intermediate_size": 53_248, "vocab_size": 128_256,
              "num_attention_heads": 128, "num_key_value_heads": 8, "max_position_embeddings": 10_485_760},
    "nllb-moe": {"encoder_layers": 24, "decoder_layers": 24, "num_experts": 128, "d_model": 2048},
    "bert": {"id2label": {str(n): f"LABEL {n}" for n in range(5000)},
             "label2id": {"layers" if n == 4000 else f"LABEL {n}": n for n in range(5000)}},
    "marian": {"max_position_embeddings": 1024, "d_model": 1024, "vocab_size": 65_001, "pad_token_id": 65_000},
}  # fmt: skip
AUTO = {
    "nllb-moe": "AutoModelForSeq2SeqLM",
    "marian": "AutoModelForSeq2SeqLM",
    "bert": "AutoModelForTokenClassification",
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_model_is_none_too_large(kind: str, tmp_path: Path):
    config = configuration.read_config(folder_of(tmp_path, kind, **LARGE[kind]), "r.yaml:3", "model")
    model = loading.skeleton(config, AUTO.get(kind, "AutoModelForCausalLM"))
    assert sum(weight.numel() for weight in model.parameters()) > 50_000_000


@pytest.mark.slow  # every configuration that transformers has
def test_no_architecture_is_refused_for_its_own_numbers():
    """Whatever transformers has: a field that only looks like a size would refuse a whole kind of models."""
    with warnings.catch_warnings(), loading.quiet_transformers():
        warnings.simplefilter("ignore")
        for kind in CONFIG_MAPPING:
            try:
                fields = CONFIG_MAPPING[kind]().to_dict()
            except Exception:  # a few have no default
                continue
            assert configuration_limits.beyond(fields) is None, kind


def test_a_new_model_has_the_same_bounds(tmp_path: Path):
    fields = {"model_type": "vision-encoder-decoder", "encoder": {"model_type": "vit"},
              "decoder": {"model_type": "gpt2", "n_layer": 10**9}}  # fmt: skip
    with pytest.raises(UserError) as refused:
        initialization._config(fields, None, "r.yaml:3")
    assert refused.value.problems[0].field == "model.new.decoder.n_layer"


def test_modules_are_counted_whatever_their_fields_are_called(monkeypatch: pytest.MonkeyPatch):
    """Each number may be, and their product makes a million modules; here with a bound that is reached sooner."""
    config = transformers.SwitchTransformersConfig(
        d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=1000, num_experts=1000, num_sparse_encoder_layers=500
    )
    monkeypatch.setattr(building, "MOST_MODULES", 3000)
    with bounded(), pytest.raises(UserError, match="more than 3000 modules"):
        loading.skeleton(config, "AutoModelForSeq2SeqLM")


def marian(folder: Path, positions: int) -> tuple[str, Any]:
    """A Marian of 20,000 weights that says so many positions; their sinusoids lie in no file."""
    config = transformers.MarianConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=32, pad_token_id=0,
        decoder_start_token_id=1,
    )  # fmt: skip
    transformers.MarianMTModel(config).save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | {"max_position_embeddings": positions}))
    return str(folder), configuration.read_config(str(folder), "r.yaml:3", "model")


def test_what_no_file_holds_is_bounded(tmp_path: Path):
    source, config = marian(tmp_path, 10**6)
    with bounded(), pytest.raises(UserError) as refused:
        loading.check_weights(source, config, "AutoModelForSeq2SeqLM", "r.yaml:3", "model")
    assert "embed_positions.weight [1000000, 16]" in refused.value.problems[0].found
    assert "max_position_embeddings: 1000000" in refused.value.problems[0].found


def test_more_positions_than_were_trained_are_computed(tmp_path: Path):
    source, config = marian(tmp_path, 4096)
    assert loading.check_weights(source, config, "AutoModelForSeq2SeqLM", "r.yaml:3", "model") == []
    model = loading.skeleton(config, "AutoModelForSeq2SeqLM")
    assert model.get_encoder().embed_positions.weight.device == torch.device("meta")
