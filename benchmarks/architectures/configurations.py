"""A small configuration of any architecture of transformers, made of its own default by the names of its fields.

Nothing here knows an architecture by name: widths become 32, heads 4 of 8 numbers each, stacks 2 layers deep (one of
each kind where layers are of several kinds), experts 4, pictures 32 × 32 in patches of 8. A field that is not known is
cut where it is a large number. What the result cannot be built of is said by transformers and noted as the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch

WIDTH, HEADS, HEAD, INNER, POSITIONS = 32, 4, 8, 48, 128

RULES: tuple[tuple[str, int], ...] = (
    (r"depths", 2),
    (r"d_head", HEAD),
    (r"coordinate_size|shape_size", 8),
    (r"axial_pos_embds_dim", WIDTH // 2),
    (r"attention_hidden_size", 2 * WIDTH),
    (r"attention_head_dim", 2 * HEAD),
    (r"max_xpath_.*", -1),
    (r"qk_head_dim", 2 * HEAD),
    (r".*_hash_.*vocab.*", 64),
    (r".*_layers?_(period|interval|freq|frequency)|full_attention_interval|.*_every_n_layers", 2),
    (r".*_layers?_offset", 1),
    (r"num_feat_extract_layers", -1),
    (r"num_conv_pos_embeddings", 8),
    (r"num_conv_pos_embedding_groups", 2),
    (r"image_size|img_size|input_size", 32),
    (r"(temporal|num|in|out)_(patch(es)?_size|channels)|spatial_merge_size|patch_size_t", -1),
    (r"patch_size", 8),
    (r"max_(source|target)_positions", 100),
    (r"max_?_?(position|seq|sequence|context).*|n_(positions|ctx)|.*max_position_embeddings|max_seq_len.*", POSITIONS),
    (r".*(key_value|kv)_heads|num_kv_heads|n_head_kv|multi_query_group_num", 2),
    (r"mamba_n_heads|mamba_num_heads", 4),
    (r"(mamba|ssm)_?(d_)?head(_dim)?|mamba_headdim|mamba_head_dim|mamba_d_head", 16),
    (r".*n_mamba_heads", 1),
    (r"linear_num_(key|value)_heads|linear_.*_heads", 2),
    (r".*num_(attention_)?heads.*|n_heads?|.*attention_heads|num_heads|index_n_heads|.*_n_heads|num_q_heads", HEADS),
    (r".*head_dim.*|d_kv|kv_channels|.*head_size|qk_.*_dim|v_head_dim|qkv_dim|attention_head_size", HEAD),
    (r"rotary_dim|rotary_ndims", HEAD),
    (r".*(num|n)_.*experts_per_tok.*|.*num_selected_experts|moe_topk?|moe_k|top_k|top_k_experts|experts_top_k", 2),
    (r"(num|n)_shared_experts|num_expert_groups?|n_groups?|topk_groups?|num_null_experts|zero_expert_num", 1),
    (r".*(num|n)_.*experts|moe_num_experts.*|num_experts|.*experts_count", 4),
    (r".*(first_k_dense|num_dense_layers|first_dense).*", 1),
    (r"(.*_)?(num|n)_(.*_)?layers?|.*_layers|n_layers?|num_blocks|depth|num_hidden_layers|num_.*_blocks", 2),
    (r".*(lora_rank|dt_rank|time_step_rank|_rank)", 8),
    (r".*(d_state|state_size|ssm_state_dim|state_dim)", 8),
    (r".*chunk_size.*|chunk_len.*", 16),
    (r".*d_conv|conv_kernel|.*_kernel_size|.*conv_L_cache|linear_conv_kernel_dim", -1),
    (r".*(sliding_window|attention_window|local_attention|window)(_size)?", 16),
    (r".*(intermediate|inner|ffn|ff|feed_forward|mlp|filter|expert).*(size|dim)|d_ff|n_inner|d_inner|ffn_dim|"
     r".*_ffn_dim|ffn_hidden_size|inner_hidden_size|moe_intermediate_size|mlp_hidden_size", INNER),
    (r"embedding_size|word_embed_proj_dim", WIDTH),
    (r".*(hidden_size|hidden_dim|embed_dim|width|d_model|n_embd|n_embed|projection_dim|model_dim|lru_width)|dim|"
     r".*_dim|.*_size|out_features", WIDTH),
)  # fmt: skip
"""(fields whose whole name matches, their value); the first that matches. −1: as it is; 0: the vocabulary's size."""

KEPT = re.compile(
    r".*(token|_id|_index|theta|vocab|bos|eos|pad|seed|sampling_rate|rate|base|type_vocab|labels|multiple|expand"
    r"|num_channels|num_mel|mlp_ratio|spatial|merge|scale|factor|downsample|freq|hop|fft|kernel|stride|groups?|buckets?"
    r"|max_distance|version|capacity|top_p|interval|period|offset|_step|frequency|every|pattern|nb_|bits).*"
)
"""Numbers that say no size."""


VOCABULARY = r"((decoder|encoder|text|unpadded|src|tgt)_)?vocab_size(_or_config_json_file|_per_layer_input)?"

RESERVED = 32
"""Ids behind the tokenizer's own, which no text has: for what else a configuration gives an id to."""


def candidates(config_class: type[Any], auto_model: str, tokenizer: Any) -> Iterator[Any]:
    """Small configurations of this class whose vocabulary is the tokenizer's, the simplest first.

    Deeper ones for stacks of several kinds of layers; ones whose unset widths are set, for classes whose default cannot
    be built; and wider ones, for classes that join six tables of places to a width.
    """
    if hasattr(config_class, "from_encoder_decoder_configs"):
        yield _joined(config_class, tokenizer)
        return
    for filled, width in ((False, WIDTH), (True, WIDTH), (False, 6 * HEAD)):
        for depth in (2, 4, 8):
            ids = Ids(tokenizer)
            fields = ids.put(_as_wide(_shrunk(config_class().to_dict(), depth, filled), width))
            if fields.get("is_encoder_decoder"):
                fields["decoder_start_token_id"] = ids.start
            elif "is_decoder" in fields and auto_model == "AutoModelForCausalLM":
                fields["is_decoder"] = True
            yield config_class.from_dict(fields)


def small(config_class: type[Any], auto_model: str, tokenizer: Any) -> Any:
    """The simplest of the candidates of which transformers builds a model."""
    import transformers

    *others, last = candidates(config_class, auto_model, tokenizer)
    for config in others:
        with suppress(Exception), torch.device("meta"):
            getattr(transformers, auto_model).from_config(config)
            return config
    return last


def _joined(config_class: type[Any], tokenizer: Any) -> Any:
    """Two parts as warm starts join them; the encoder is the first of the usual ones."""
    import transformers

    first = {"encoder-decoder": "bert", "vision-encoder-decoder": "vit", "speech-encoder-decoder": "wav2vec2"}
    encoder = small(transformers.CONFIG_MAPPING[first[config_class.model_type]], "AutoModel", tokenizer)
    decoder = small(transformers.CONFIG_MAPPING["gpt2"], "AutoModelForCausalLM", tokenizer)
    config = config_class.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id = Ids(tokenizer).start
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, decoder.eos_token_id
    config.tie_word_embeddings = False
    return config


class Ids:
    """Where a configuration's token ids come from: the tokenizer's special tokens, and reserved ones for the rest."""

    def __init__(self, tokenizer: Any):
        self.size = len(tokenizer) + RESERVED
        self.next = len(tokenizer)
        special = ("pad_token", "bos_token", "eos_token", "cls_token", "sep_token", "mask_token", "unk_token")
        named = {name: getattr(tokenizer, f"{name}_id") for name in special}
        named["bos_token"] = named["bos_token"] if named["bos_token"] is not None else named["cls_token"]
        named["eos_token"] = named["eos_token"] if named["eos_token"] is not None else named["sep_token"]
        self.start = named["bos_token"] if named["bos_token"] is not None else named["pad_token"]
        self.known = {f"{name}_id": value for name, value in named.items() if value is not None}
        self.known["decoder_start_token_id"] = self.start
        self.given: dict[str, int] = {}

    def put(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._id(name, value) for name, value in fields.items()}

    def _id(self, name: str, value: Any) -> Any:
        if not isinstance(name, str):
            return value
        if isinstance(value, Mapping):
            return self.put(value)
        if re.fullmatch(VOCABULARY, name):
            return self.size
        if name in self.known:
            return self.known[name]
        if re.fullmatch(r"forced_.*|(begin_)?suppress_tokens", name):
            return None
        if re.fullmatch(r".*token_(id|index)|.*_start_id|.*_end_id", name) and isinstance(value, int):
            if name not in self.given:
                self.given[name] = self.next
                self.next = min(self.next + 1, self.size - 1)
            return self.given[name]
        return value


def _value(name: str, value: int, depth: int) -> int:
    for pattern, small_value in RULES:
        if re.fullmatch(pattern, name):
            if small_value <= 0:
                return value
            small_value = depth if small_value == 2 and "layer" in name else small_value
            return min(value, small_value) if value > 0 else value
    if KEPT.fullmatch(name) or value <= 512:
        return value
    return WIDTH


UNSET = {"head_dim": HEAD, "num_experts_per_tok": 2, "moe_topk": 2, "n_group": 1, "topk_group": 1,
         "moe_intermediate_size": INNER, "num_key_value_heads": 2, "layer_types": ["full_attention"], "num_experts": 4,
         "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "rope_theta": 10_000.0,
         "default_language": "en_XX"}  # fmt: skip
"""What some classes leave unset and yet need."""


def _shrunk(fields: Mapping[str, Any], depth: int, filled: bool = False) -> dict[str, Any]:
    numbers = {name: value for name, value in fields.items() if isinstance(value, int) and isinstance(name, str)}
    cut = {name: value for name, value in numbers.items() if _value(name, value, depth) < value}
    layers = {value for name, value in cut.items() if re.fullmatch(r".*(layers?|depth)", name)}
    made: dict[str, Any] = {}
    for name, value in fields.items():
        if filled and value is None and name in UNSET:
            made[name] = UNSET[name] * depth if name == "layer_types" else UNSET[name]
        elif isinstance(value, bool) or value is None or isinstance(value, str | float):
            made[name] = value
        elif isinstance(value, int):
            wide = name == "attention_hidden_size" and value == fields.get("hidden_size")  # RWKV's; Zamba's is twice it
            made[name] = WIDTH if wide else _value(name, value, depth)
        elif isinstance(value, Mapping):
            inner = str(name).endswith("config") or name in ("encoder", "decoder")
            made[name] = _shrunk(value, depth, filled) if inner else _rotary(value)
        elif isinstance(value, list | tuple) and len(value) in layers and len(value) > depth:
            made[name] = [_value(name, v, depth) if type(v) is int else v for v in value[:depth]]
        elif isinstance(value, list | tuple) and all(type(item) is int for item in value):
            made[name] = [_value(name, item, depth) for item in value]
        else:
            made[name] = value
    return _consistent(fields, made, depth)


def _as_wide(fields: Mapping[str, Any], width: int) -> dict[str, Any]:
    """With another width in place of `WIDTH`, in parts too."""
    return {
        name: _as_wide(value, width) if isinstance(value, Mapping) else width if value == WIDTH else value
        for name, value in fields.items()
    }


def _consistent(fields: Mapping[str, Any], made: dict[str, Any], depth: int) -> dict[str, Any]:
    """What depends on other fields: kinds of layers, heads that share keys, the heads of a state-space layer."""
    kinds = fields.get("layer_types")
    if isinstance(kinds, list) and kinds:
        made["layer_types"] = (list(dict.fromkeys(kinds)) * depth)[: max(depth, len(set(kinds)))]
        made["num_hidden_layers"] = len(made["layer_types"])
    if isinstance(made.get("per_layer_config"), Mapping):
        made["per_layer_config"] = {k: v for k, v in made["per_layer_config"].items() if int(k) < depth}
    heads, shared = fields.get("num_attention_heads"), fields.get("num_key_value_heads")
    if (shared is not None and shared == heads) or "kv_lora_rank" in fields:
        made["num_key_value_heads"] = made["num_attention_heads"]
    if "expand" in fields and "num_heads" in fields and "state_size" in fields:
        made["head_dim"] = WIDTH * fields["expand"] // HEADS
    if {"n_mamba_heads", "mamba_headdim", "mamba_expand"} <= fields.keys():
        made["n_mamba_heads"] = WIDTH * fields["mamba_expand"] // made["mamba_headdim"]
    if "num_kv_shared_layers" in fields:
        made["num_kv_shared_layers"] = 0
    if "attn_layer_indices" in fields:
        made["attn_layer_indices"] = [depth - 1]
    return made


def _rotary(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters whose sections (time, height, width) share the pairs of a head."""
    return {name: [1, 1, HEAD // 2 - 2] if name == "mrope_section" else value for name, value in fields.items()}
