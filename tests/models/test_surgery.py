"""Students cut from a teacher's layers: whichever architecture, both stacks, stacks of unequal depth, several parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from keeltune.models import surgery
from keeltune.models.loading import Loaded
from keeltune.utils.errors import UserError
from tests.helpers.writers import DECODERS, ENCODER_DECODERS, SIZES

BERT = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
VIT = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16, "patch_size": 8}
SOUND = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": [8, 8, 8, 8],
         "conv_kernel": [3, 3, 3, 3], "conv_stride": [2, 2, 2, 2], "num_feat_extract_layers": 4, "vocab_size": 12,
         "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}  # fmt: skip
DEPTH = {"marian": ("encoder_layers", "decoder_layers"), "t5": ("num_layers", "num_decoder_layers"),
         "gpt2": ("n_layer",), "llama": ("num_hidden_layers",)}  # fmt: skip


def depths(architecture: str) -> tuple[str, ...]:
    for like, names in DEPTH.items():
        if SIZES[architecture] is SIZES[like]:
            return names
    return ("num_hidden_layers",)


def made(architecture: str, auto: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(architecture, **fields)
    return getattr(transformers, auto).from_config(config, dtype=torch.float32).eval()


def cut(model: Any, auto: str, layers: int | list[int]) -> Any:
    loaded = Loaded(model, SimpleNamespace(), "teacher")
    return surgery.cut_layers(loaded, auto, layers, "recipe.yaml:4", "model.layers")


@pytest.mark.parametrize("architecture", [*ENCODER_DECODERS, *DECODERS])
def test_a_student_has_the_first_and_the_last_layer_of_each_stack(architecture):
    auto = "AutoModelForSeq2SeqLM" if architecture in ENCODER_DECODERS else "AutoModelForCausalLM"
    names = depths(architecture)
    sizes = {**SIZES[architecture], **dict(zip(names, (4, 3), strict=False))}
    model = made(architecture, auto, **sizes, vocab_size=50, pad_token_id=0)
    student = cut(model, auto, 2)
    stacks = surgery.stacks(model)
    assert sorted(stacks.values()) == sorted((4, 3)[: len(names)])
    weights, old = student.model.state_dict(), model.state_dict()
    for stack, total in stacks.items():
        for new, place in ((0, 0), (1, total - 1)):
            start = f"{stack}.{place}."
            names_of = [n for n in old if n.startswith(start)]
            assert names_of
            for name in names_of:
                assert torch.equal(old[name], weights[f"{stack}.{new}.{name.removeprefix(start)}"]), name
    whole = cut(model, auto, 4).model.eval()  # every layer of each stack: the teacher itself
    ids = torch.tensor([[5, 6, 7, 8]])
    more = {"decoder_input_ids": ids} if len(names) == 2 else {}
    with torch.no_grad():
        torch.testing.assert_close(whole(input_ids=ids, **more).logits, model(input_ids=ids, **more).logits)


def test_parts_of_several_configurations_are_cut_too():
    encoder = transformers.ViTConfig(**VIT, num_hidden_layers=4)
    decoder = transformers.BertConfig(**BERT, num_hidden_layers=3, is_decoder=True, add_cross_attention=True)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = transformers.VisionEncoderDecoderModel(config=config).eval()
    student = cut(model, "AutoModelForImageTextToText", 2)
    assert student.model.config.encoder.num_hidden_layers == student.model.config.decoder.num_hidden_layers == 2
    assert sorted(surgery.stacks(student.model).values()) == [2, 2]
    own = student.model.state_dict()
    assert all(own[n].shape == w.shape for n, w in model.state_dict().items() if "embeddings" in n)


def test_convolutions_before_an_encoder_are_no_layers():
    """A list of four convolutions beside four layers: only the layers are cut."""
    model = made("wav2vec2", "AutoModelForCTC", **SOUND, num_hidden_layers=4)
    student = cut(model, "AutoModelForCTC", [0, 3]).model
    assert len(student.wav2vec2.feature_extractor.conv_layers) == 4
    assert len(student.wav2vec2.encoder.layers) == 2
    assert torch.equal(student.wav2vec2.encoder.layers[1].feed_forward.intermediate_dense.weight,
                       model.wav2vec2.encoder.layers[3].feed_forward.intermediate_dense.weight)  # fmt: skip


def test_whisper_is_cut_in_both_stacks():
    model = made("whisper", "AutoModelForSpeechSeq2Seq", d_model=16, encoder_layers=4, decoder_layers=4, vocab_size=60,
                 encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
                 max_source_positions=20, num_mel_bins=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                 decoder_start_token_id=1)  # fmt: skip
    student = cut(model, "AutoModelForSpeechSeq2Seq", 2).model
    assert student.config.encoder_layers == student.config.decoder_layers == 2
    assert torch.equal(student.model.decoder.layers[1].fc1.weight, model.model.decoder.layers[3].fc1.weight)


def whisper(**depths: int) -> Any:
    return made("whisper", "AutoModelForSpeechSeq2Seq", d_model=16, **depths, vocab_size=60,
                encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
                max_source_positions=20, num_mel_bins=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                decoder_start_token_id=1)  # fmt: skip


@pytest.mark.parametrize("depths", [(4, 4), (3, 4)])
def test_one_stack_is_cut_and_the_other_stays_whole(depths):
    """As distil-whisper has it: every layer of the encoder, the first and the last of the decoder; and the reverse."""
    model = whisper(encoder_layers=depths[0], decoder_layers=depths[1])
    student = cut(model, "AutoModelForSpeechSeq2Seq", {"decoder": 2}).model
    assert (student.config.encoder_layers, student.config.decoder_layers) == (depths[0], 2)
    old, new = model.state_dict(), student.state_dict()
    assert all(torch.equal(old[name], weight) for name, weight in new.items() if ".decoder.layers." not in name)
    assert torch.equal(student.model.decoder.layers[1].fc1.weight, model.model.decoder.layers[-1].fc1.weight)
    reverse = cut(model, "AutoModelForSpeechSeq2Seq", {"encoder": [0, 2], "decoder": None}).model
    assert (reverse.config.encoder_layers, reverse.config.decoder_layers) == (2, depths[1])
    assert torch.equal(reverse.model.encoder.layers[1].fc1.weight, model.model.encoder.layers[2].fc1.weight)


@pytest.mark.parametrize(("layers", "said"), [({"decoder": 5}, "at most 4"), ({"encoder": [0, 3]}, "from 0 to 2")])
def test_layers_that_a_stack_does_not_have_are_refused(layers, said):
    with pytest.raises(UserError, match=said):
        cut(whisper(encoder_layers=3, decoder_layers=4), "AutoModelForSpeechSeq2Seq", layers)


def test_a_model_of_one_stack_has_no_encoder_beside_a_decoder():
    model = made("gpt2", "AutoModelForCausalLM", **{**SIZES["gpt2"], "vocab_size": 50, "n_layer": 2})
    with pytest.raises(UserError, match="no encoder beside a decoder"):
        cut(model, "AutoModelForCausalLM", {"decoder": 1})


@pytest.mark.parametrize(("layers", "said"), [(5, "at most 4"), ([0, 4], "from 0 to 2"), ([1, 1], "different layers"),
                                              ([1, 2], "take layer 0 too")])  # fmt: skip
def test_layers_that_are_not_there_are_refused(layers, said):
    model = made(
        "t5", "AutoModelForSeq2SeqLM", **{**SIZES["t5"], "vocab_size": 50, "num_layers": 4, "num_decoder_layers": 3}
    )
    with pytest.raises(UserError, match=said):
        cut(model, "AutoModelForSeq2SeqLM", layers)
