"""Safetensors headers, shard names and configurations that lie: each is refused by name before a weight is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from keeltune.models import configuration, loading, model_files, weight_files
from keeltune.utils.errors import UserError
from tests.helpers.models import save_tiny

HEAD = "AutoModelForSequenceClassification"
FIRST, SECOND = "bert.embeddings.LayerNorm.bias", "bert.embeddings.LayerNorm.weight"
SHARD = "model-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def found(folder: Path) -> UserError:
    """What `check` says of a folder's files and configuration; no weight is read."""
    with pytest.raises(UserError) as refused:
        checked(folder)
    return refused.value


def checked(folder: Path) -> None:
    with loading.quiet_transformers():
        source = model_files.locate(str(folder), Path, "r.yaml:3", "model")
        loading.check_weights(source, configuration.read_config(source, "r.yaml:3", "model"), HEAD, "r.yaml:3", "model")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any], before: bytes = b"") -> None:
    """The weights under a changed header: what `change` returns, a mapping or the header's very bytes."""
    file = folder / "model.safetensors"
    length, header = weight_files.read_header(file)
    data = file.read_bytes()[8 + length :]
    header = change(header) or header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + before + data)


def entry(name: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update(fields)


def shifted(header: dict[str, Any]) -> None:
    for value in header.values():
        value["data_offsets"] = [end + 64 for end in value["data_offsets"]]


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a shorter dtype": (entry(FIRST, dtype="F16"), f'"{FIRST}" in its header says F16 of shape'),
    "a longer dtype": (entry(FIRST, dtype="I64"), f'"{FIRST}" in its header says I64 of shape'),
    "an unknown dtype": (entry(FIRST, dtype="Q99"), f'"{FIRST}" in its header has the unknown dtype'),
    "a larger shape": (entry(FIRST, shape=[64]), f'"{FIRST}" in its header says F32 of shape "[64]", 256 bytes'),
    "a negative shape": (entry(FIRST, shape=[-32]), f'"{FIRST}" in its header has the shape'),
    "a shape of text": (entry(FIRST, shape="32"), f'"{FIRST}" in its header has the shape'),
    "a shape of true": (entry(FIRST, shape=[True, 32]), f'"{FIRST}" in its header has the shape'),
    "overlap": (entry(SECOND, data_offsets=[64, 192]), f'"{SECOND}" in its header overlaps'),
    "the same bytes twice": (entry(SECOND, data_offsets=[0, 128]), f'"{SECOND}" in its header overlaps'),
    "backwards": (entry(FIRST, data_offsets=[128, 0]), f'"{FIRST}" in its header has the data_offsets'),
    "no number": (entry(FIRST, data_offsets=[0, float("nan")]), "NaN in JSON"),
    "far behind": (entry(FIRST, data_offsets=[10**18, 10**18 + 128]), f'"{SECOND}" in its header leaves bytes'),
    "no entry": (lambda header: {**header, FIRST: 5}, f'"{FIRST}" in its header lacks dtype'),
    "a list": (lambda header: b"[1, 2]", "no mapping of names"),
    "brackets": (lambda header: b'{"a":' + b"[" * 100_000, "nested too deeply"),
    "no JSON": (lambda header: b"{", "broken JSON"),
    "no UTF-8": (lambda header: b'{"\xff": 1}', "no UTF-8"),
    "metadata of numbers": (lambda header: {**header, "__metadata__": {"a": 1}}, "__metadata__"),
    "a name twice": (
        lambda header: (json.dumps(header)[:-1] + f', "{FIRST}": {json.dumps(header[FIRST])}}}').encode(),
        f'more than once: "{FIRST}"',
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused_by_its_entry(folder, name):
    change, message = HEADERS[name]
    rewrite(folder, change)
    assert message in str(found(folder))


def test_bytes_that_no_entry_names_are_refused(folder):
    rewrite(folder, shifted, before=b"\0" * 64)
    assert "leaves bytes that no entry names" in str(found(folder))


def test_a_header_longer_than_its_file_is_refused(folder):
    (folder / "model.safetensors").write_bytes((10**15).to_bytes(8, "little") + b"{}")
    assert "no safetensors header" in str(found(folder))


def sharded(folder: Path, shard: str, home: Path | None = None, **more: str) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, home or folder / SHARD, metadata={"format": "pt"})
    names = {**dict.fromkeys(weights, shard), **more}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "{tmp}/outside.safetensors", "sub/../../outside.safetensors"]
)
def test_a_shard_of_another_folder_is_refused(folder, tmp_path, name, beside):
    """Loaded before this: the name was only looked for, wherever it led."""
    sharded(folder, name.format(tmp=tmp_path), tmp_path / "outside.safetensors")
    if beside:  # a sound file that nothing names
        save_file({}, folder / SHARD)
    assert "a safetensors file of this folder" in str(found(folder))


def test_a_link_out_of_the_folder_is_refused_and_one_of_the_hubs_cache_is_not(folder, tmp_path):
    sharded(folder, SHARD, tmp_path / "outside.safetensors")
    (folder / SHARD).symlink_to(tmp_path / "outside.safetensors")
    assert "a link out of the folder" in str(found(folder))
    repo = tmp_path / "models--someone--model"
    (repo / "blobs").mkdir(parents=True)
    (repo / "snapshots").mkdir()
    (tmp_path / "outside.safetensors").rename(repo / "blobs" / "5d41")
    (folder / SHARD).unlink()
    snapshot = folder.rename(repo / "snapshots" / "0a1b")
    (snapshot / SHARD).symlink_to("../../blobs/5d41")
    checked(snapshot)
    (snapshot / "second.safetensors").symlink_to(snapshot / SHARD)
    checked(snapshot)


def test_an_index_that_places_a_weight_where_it_is_not_is_refused(folder):
    sharded(folder, SHARD, **{"bert.extra.weight": SHARD})
    assert f'"bert.extra.weight" in "{SHARD}", which does not hold it' in str(found(folder))


CONFIGS = {
    "hidden_size": "abc", "num_attention_heads": 3, "vocab_size": 10**12, "num_hidden_layers": -1,
    "max_position_embeddings": -1, "hidden_act": "nope", "model_type": ["bert"], "id2label": ["a"],
    "hidden_dropout_prob": "x", "dtype": "x", "layer_norm_eps": [],
}  # fmt: skip


@pytest.mark.parametrize("field", CONFIGS)
def test_a_configuration_that_makes_no_model_is_refused_by_check(folder, field):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, field: CONFIGS[field]}))
    assert str(folder) in str(found(folder))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"model_type": ' + "[" * 100_000, '{"a": ' + "9" * 5_000 + "}", "\xff"]
)
def test_a_configuration_that_is_no_json_is_refused(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert "config.json: " in str(found(folder))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "unheard-of"])
def test_a_quantised_base_is_refused_by_check_with_what_to_do(folder, method):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "quantization_config": {"quant_method": method}}))
    error = found(folder)
    assert f'quantised weights (quantization_config: "{method}")' in str(error)
    assert "dequantize" in error.problems[0].fix


@pytest.mark.parametrize("value", ["x", -1, 0, None, True])
def test_a_length_that_is_none_is_refused(folder, value):
    from keeltune.models import processors

    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": value}))
    if value is None:  # no bound
        assert processors.read_processor(str(folder), "w", "model").model_max_length > 10**6
        return
    with pytest.raises(UserError, match="model_max_length"):
        processors.read_processor(str(folder), "w", "model")


EXTRACTORS = {
    "Wav2Vec2FeatureExtractor": {"sampling_rate": [0, -1, "x", None, 10**12, 2.5], "padding_value": ["x"]},
    "WhisperFeatureExtractor": {"sampling_rate": [0], "chunk_length": [0, -3, 10**9], "n_fft": [0]},
    "ViTImageProcessorPil": {
        "size": [{"height": 0, "width": 8}, {"height": 8, "width": 10**6}, {"height": "x", "width": 2}],
        "image_std": [[0, 0, 0], ["x"]],
    },
}


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(kind, name, value) for kind, names in EXTRACTORS.items() for name, values in names.items() for value in values],
)
def test_an_extractor_that_makes_no_numbers_is_refused(tmp_path, kind, name, value):
    import transformers

    from keeltune.models import processors

    reads = "image" if "Image" in kind else "sound"
    getattr(transformers, kind)().save_pretrained(tmp_path)
    assert processors.read_extractor(str(tmp_path), "w", "model", reads) is not None
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(UserError, match=str(tmp_path)):
        processors.read_extractor(str(tmp_path), "w", "model", reads)
