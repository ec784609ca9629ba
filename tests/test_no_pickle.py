"""No pickle is read or written, so that no file from anybody runs code: the sources, all tests, and what a run leaves.

`conftest.py` holds every test against the audit hook of `helpers/audit.py`; here is what it is itself held against.
"""

from __future__ import annotations

import ast
import pickle
import shutil
from pathlib import Path

import pytest

from keeltune.runs import inference
from keeltune.utils.errors import UserError
from tests.helpers import audit
from tests.helpers.runs import QUIET, make_data, spec_of, train
from tests.test_architecture import modules, tree

MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}

CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "pandas.read_pickle", "numpy.save", "scipy.io.loadmat",
    "torch.distributed.checkpoint.load", "torch.distributed.checkpoint.save",
}  # fmt: skip

OBJECTS = {
    "all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "send_object_list",
    "recv_object_list", "load_pickle", "to_pickle", "read_pickle",
}  # fmt: skip
"""Methods that pickle, by whichever name they are called."""


def pickling(source: ast.AST) -> list[tuple[int, str]]:
    """The places of a module that read or write a pickle, or could: (line, what is there)."""
    aliases: dict[str, str] = {}
    found: list[tuple[int, str]] = []
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            names = [(alias.asname or alias.name.split(".")[0], alias.name) for alias in node.names]
            aliases |= {name: full for name, full in names if name != full.split(".")[0]}
            found += [(node.lineno, full) for _, full in names if full.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found += [(node.lineno, str(node.module)) for _ in [0] if (node.module or "").split(".")[0] in MODULES]
    for node in ast.walk(source):
        if not isinstance(node, ast.Call):
            continue
        first, *rest = ast.unparse(node.func).split(".")
        called = ".".join([aliases.get(first, first), *rest])
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        pickles = called in CALLS and not (called == "numpy.save" and keywords.get("allow_pickle") == "False")
        if pickles or called.rsplit(".", 1)[-1] in OBJECTS or keywords.get("allow_pickle", "False") != "False":
            found.append((node.lineno, called))
        if called.endswith("import_module") and node.args and ast.unparse(node.args[0]).strip("'\"") in MODULES:
            found.append((node.lineno, called))
    return found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from pickle import loads", "import dill as d", "from joblib import load", "import shelve",
        "import torch\ntorch.load('x')", "import torch as t\nt.load('x', weights_only=True)",
        "from torch import load\nload('x')", "from torch import load as get\nget('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)", "import numpy as n\nn.save('x', 1)",
        "import torch.distributed\ntorch.distributed.all_gather_object([], 1)",
        "def f():\n    import marshal", "import importlib\nimportlib.import_module('pickle')",
        "import pandas\nframe.to_pickle('x')",
    ],
)  # fmt: skip
def test_the_scan_finds_pickles(text):
    assert pickling(ast.parse(text))


def test_the_scan_lets_others_pass():
    text = (
        "import numpy as np\nimport torch\nnp.load('x', allow_pickle=False)\nnp.save('x', 1, allow_pickle=False)\n"
        "np.asarray(1)\nload('x')\ntorch.tensor(1)"
    )
    assert pickling(ast.parse(text)) == []


def test_no_source_of_ours_reads_or_writes_a_pickle():
    found = {module: places for module in modules() if (places := pickling(tree(module)))}
    assert found == {}


class Canary:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


CANARIES = (
    "rng_state.pth", "rng_state_0.pth", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt",
    "training_args.bin", "pytorch_model.bin", "adapter_model.bin", "random_states_0.pkl", "dataloader.pt", ".metadata",
)  # fmt: skip
"""Names under which transformers, accelerate, peft and torch know pickles."""


def lay(folder: Path, mark: Path) -> None:
    for name in CANARIES:
        (folder / name).write_bytes(pickle.dumps(Canary(mark)))


def opened_canaries(names: list[str]) -> list[str]:
    return [name for name in names if Path(name).name in CANARIES]


def test_a_canary_leaves_its_mark_and_the_hook_hears_it(tmp_path):
    """The test of the tests: where a pickle is read below a call of ours, it is seen."""
    lay(tmp_path, tmp_path / "mark")
    assert not (tmp_path / "mark").exists()
    source = "def read(file):\n    import pickle\n    with open(file, 'rb') as stream:\n        pickle.load(stream)"
    scope: dict = {}
    exec(compile(source, f"{audit.PACKAGE}x.py", "exec"), scope)  # as if it were a file of ours
    with audit.opened_files() as names:
        scope["read"](tmp_path / "optimizer.pt")
    assert (tmp_path / "mark").exists()
    assert opened_canaries(names) == [str(tmp_path / "optimizer.pt")]
    assert audit.pickled
    assert all(f"{audit.PACKAGE}x.py" in heard for heard in audit.pickled)
    audit.pickled.clear()


def test_no_pickle_in_a_model_folder_is_opened(tiny, tmp_path):
    """Beside sound weights: training, scoring, predicting, and taking an adapter's base."""
    folder, mark = make_data(tmp_path), tmp_path / "mark"
    shutil.copytree(tiny("bert"), folder / "model")
    lay(folder / "model", mark)
    spec = spec_of("distillation", folder / "model", reference=str(folder / "model"))
    with audit.opened_files() as names:
        done = train(spec, folder)
    lay(done.model, mark)
    with audit.opened_files() as later:
        inference.evaluate(done.folder, folder / "test.jsonl", display=QUIET)
        inference.predict(done.model, folder / "test.jsonl", task="sentiment-analysis", display=QUIET)
    assert min(len(names), len(later)) > 20
    assert opened_canaries(names + later) == []
    assert not mark.exists()


def test_a_folder_with_pickles_alone_is_refused(tiny, tmp_path):
    folder, mark = make_data(tmp_path), tmp_path / "mark"
    shutil.copytree(tiny("bert"), folder / "model")
    (folder / "model" / "model.safetensors").unlink()
    lay(folder / "model", mark)
    with audit.opened_files() as names, pytest.raises(UserError, match="weights only as pickle"):
        train(spec_of("fine-tuning", folder / "model"), folder)
    assert opened_canaries(names) == []
    assert not mark.exists()


def is_pickle(content: bytes) -> bool:
    """A pickle of protocol 2 to 5 (a safetensors file may begin like one: its header's length, in eight bytes), or a
    zip archive, as torch writes them."""
    begins = content[:1] == b"\x80" and content[1:2] in b"\2\3\4\5" and content[2:8] != bytes(6)
    return begins or content[:4] == b"PK\x03\x04" or content[:2] in (b"\x93N", b"(d", b"cc")


def test_a_run_leaves_no_pickle(tiny, tmp_path):
    """Its folder and its cache, with all that a checkpoint holds."""
    assert is_pickle(pickle.dumps({"a": 1}))
    folder = make_data(tmp_path)
    spec = spec_of("distillation", tiny("bert"), reference={"model": str(tiny("bert", seed=5)), "from": "cached"})
    spec["training"] |= {"save_steps": 2, "lora": {"rank": 2}, "keep_checkpoints": True}
    train(spec, folder)
    files = [path for name in ("out", ".cache") for path in (folder / name).rglob("*") if path.is_file()]
    assert len(files) > 30
    assert [str(path) for path in files if is_pickle(path.read_bytes())] == []
    assert [str(path) for path in files if path.suffix in (".pt", ".pth", ".bin", ".pkl")] == []
