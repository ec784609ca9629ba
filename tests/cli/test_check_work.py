"""What `keeltune check` does for a few rows is bounded: by how often it builds and runs a model, and what it imports.

Seconds differ from machine to machine; these counts do not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedModel

from keeltune.cli.recipe_check import check_recipe
from keeltune.models import loading, shapes
from keeltune.recipe import from_dict
from keeltune.utils.terminal import Terminal
from tests.helpers.runs import make_data, spec_of


@pytest.mark.parametrize(("method", "builds", "passes"), [("fine-tuning", 3, 2), ("distillation", 5, 3)])
def test_models_are_built_once_for_each_need_and_never_computed(tiny, tmp_path, monkeypatch, method, builds, passes):
    """A student is built for its stored weights' names, for its shape, and as what trains; a teacher for the first two.
    A step and a scoring are run without numbers."""
    shapes._shapes.clear()
    built, ran = Counter(), Counter()
    make_data(tmp_path)
    spec = spec_of(method, tiny("bert"))
    spec |= {"reference": str(tiny("bert", seed=5))} if method == "distillation" else {}
    enter = loading.shapes_alone

    def counted():
        built["shapes"] += 1
        return enter()

    def running(module, arguments):
        if isinstance(module, PreTrainedModel) and type(module).__name__.startswith("BertFor"):
            ran[next(module.parameters()).device.type] += 1

    monkeypatch.setattr(loading, "shapes_alone", counted)
    handle = register_module_forward_pre_hook(running)
    try:
        check_recipe(from_dict(spec, tmp_path), Terminal(quiet=True))
    finally:
        handle.remove()
    assert built["shapes"] <= builds
    assert ran == {"meta": passes}


IMPORTED = """
import json, sys
from pathlib import Path
from keeltune.cli import app

HEAVY = ("torch", "numpy", "transformers", "transformers.modeling_utils", "transformers.trainer", "peft", "datasets",
         "pandas", "sklearn", "matplotlib", "scipy.stats")

def called(*words):
    sys.argv = ["keeltune", *words]
    try:
        app.main()
    except SystemExit as end:
        assert not end.code, (words, end.code)

def found():
    return [name for name in HEAVY if name in sys.modules]

imported = {}
verbs = app.Verbs()
for name in verbs:
    if name not in ("cache", "demo"):
        verbs[name]
        imported[f"completion of {name}"] = found()
called("runs", ".")
imported["runs"] = found()
called("doctor")
imported["doctor"] = found()
called("check", "recipe.yaml")
imported["check"] = found()
from keeltune.reports import comparison_page
from keeltune.runs import comparison, inference, loaded_model
called("show", "recipe.yaml")
imported["show, compare, evaluate and predict"] = found()
Path("imported.json").write_text(json.dumps(imported))
"""


def test_what_a_verb_does_not_need_is_not_imported(tiny, tmp_path):
    """Verbs in the order of what they need, in one process: torch takes a second and a half, a class of models of
    transformers three more, its Trainer, PEFT and scipy.stats one each."""
    make_data(tmp_path)
    spec = spec_of("fine-tuning", tiny("bert"))
    del spec["training"]["logging_steps"]  # a field of the Trainer's, which is asked whether it has one
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(spec))
    source = str(Path(loading.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = json.loads((tmp_path / "imported.json").read_text())
    models = ["torch", "numpy", "transformers", "transformers.modeling_utils"]
    assert imported.pop("show, compare, evaluate and predict") == imported.pop("check") == models
    assert imported.pop("doctor") == ["torch", "numpy"]
    assert not {what: modules for what, modules in imported.items() if {*modules} - {"numpy"}}
