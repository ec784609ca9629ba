"""Does a change of the code change a run? The 27 example recipes, a `compare`, an `advise` and a `curve`, twice.

    python benchmarks/unchanged.py make INPUTS                     small models, rows and recipes, once
    PYTHONPATH=BEFORE/src python benchmarks/unchanged.py run INPUTS OUT_BEFORE
    PYTHONPATH=AFTER/src python benchmarks/unchanged.py run INPUTS OUT_AFTER
    python benchmarks/unchanged.py compare OUT_BEFORE OUT_AFTER

Of every run: the SHA-256 of the final weights, every value of `result.json` but times and memory, every line of the
predictions and of the log. The examples keep their own fields (objective, generation, columns); models and rows are
small and random, and a run has `STEPS` steps in fp32. Exit status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
STEPS = 4
TIMES = re.compile(
    r"seconds|_per_second|memory|finished|python|torch|transformers|took|minutes|_runtime|when$|keeltune$"
)
"""Names of values that are of the machine and the moment."""


def make(inputs: Path) -> None:
    """The recipes with their models and rows; uses the tests' helpers of this checkout."""
    sys.path.insert(0, str(ROOT))
    from tests.docs.test_examples import RECIPES, SMALL
    from tests.helpers.families import FAMILIES

    import keeltune as kt

    for path in RECIPES:
        folder = inputs / path.stem
        folder.mkdir(parents=True)
        plain = kt.load_recipe(path)
        family = FAMILIES[plain.task]
        family.save(folder / "model", SMALL[plain.task], 0)
        family.save(folder / "teacher", SMALL[plain.task], 1)
        for name in sorted(set(re.findall(r"data/\S+\.jsonl", path.read_text(encoding="utf-8")))):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            family.write(folder / name)
        values = YAML(typ="safe").load(plain.dump())
        taught = plain.method == "distillation"
        layers = isinstance(values["model"], dict)
        values["model"] = {"from": "teacher", "layers": 1} if layers else "model"
        values["training"] |= {"epochs": None, "max_steps": STEPS, "batch_size": 4, "precision": "fp32"}
        values["output"] = "out"
        if values.get("reference"):
            values["reference"] = "teacher" if taught else "model"
        if values.get("max_length"):
            values["max_length"] = min(values["max_length"], 48)
        if family.fields.get("generation"):
            values["generation"] |= family.fields["generation"]
        if values["evaluation"]["every"] != "auto":
            values["evaluation"]["every"] = 2
        for name in ("path", "lines", "places", "folder"):
            values.pop(name, None)
        (folder / "recipe.yaml").write_text(json.dumps(_relative(values), ensure_ascii=False), encoding="utf-8")
    sentiment = inputs / "sentiment-analysis-fine-tuning"
    folder = inputs / "advise-and-curve"
    shutil.copytree(sentiment, folder)
    values = json.loads((folder / "recipe.yaml").read_text(encoding="utf-8"))
    values["reference"] = None
    (folder / "recipe.yaml").write_text(json.dumps(values), encoding="utf-8")


def _relative(values: Any) -> Any:
    """Absolute paths of the examples as they stand in the recipe: below its folder."""
    if isinstance(values, dict):
        return {name: _relative(value) for name, value in values.items()}
    if isinstance(values, list):
        return [_relative(value) for value in values]
    return values.removeprefix(f"{ROOT / 'examples'}/") if isinstance(values, str) else values


def run(inputs: Path, out: Path, only: str) -> None:
    """Every run, in one process, by the keeltune that Python finds."""
    import keeltune as kt
    from keeltune.cli import app as command

    main = command.main if hasattr(command, "main") else __import__("keeltune.cli", fromlist=["main"]).main
    out.mkdir(parents=True, exist_ok=True)
    print(f"keeltune of {Path(str(kt.__file__)).parent}", flush=True)
    for folder in sorted(inputs.iterdir()):
        if only not in folder.name:
            continue
        here = out / folder.name
        if here.exists():
            shutil.rmtree(here)
        shutil.copytree(folder, here)
        if folder.name == "advise-and-curve":
            for verb, options in (
                ("advise", ["--budget", "60m"]),
                ("curve", [f"--share={share}" for share in (0.25, 0.5, 0.75, 1.0)]),
            ):
                arguments = [verb, str(here / "recipe.yaml"), f"output={here / verb}", *options, "--json"]
                (here / f"{verb}.json").write_text(called(main, arguments), encoding="utf-8")
        else:
            called(main, ["train", str(here / "recipe.yaml")])
        print(folder.name, flush=True)
    pair = [str(out / f"sentiment-analysis-{method}" / "out") for method in ("fine-tuning", "cross-domain")]
    if all(Path(folder).is_dir() for folder in pair):
        text = called(main, ["compare", *pair, "--output", str(out / "compare.html"), "--json"])
        (out / "compare.json").write_text(text, encoding="utf-8")


def called(main: Any, arguments: list[str]) -> str:
    """What a command prints on stdout. A failure ends the script with what was printed."""
    text, sys.argv = io.StringIO(), ["keeltune", *arguments]
    try:
        with contextlib.redirect_stdout(text):
            main()
    except SystemExit as status:
        if status.code not in (0, None):
            sys.exit(f"{' '.join(arguments)}: exit {status.code}\n{text.getvalue()}")
    return text.getvalue()


def facts(out: Path) -> Iterator[tuple[str, Any]]:
    """(name, value) of all that must be the same."""
    for file in sorted(p for p in out.rglob("*") if p.is_file() and "checkpoints" not in p.parts):
        name = str(file.relative_to(out))
        if not re.search(r"(^|/)(out|advise|curve)/|^compare\.json$|/(advise|curve)\.json$", name):
            continue
        if file.suffix == ".safetensors":
            yield name, hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.suffix == ".json" and file.name in ("result.json", "compare.json", "advise.json", "curve.json"):
            yield from flat(name, json.loads(file.read_text(encoding="utf-8").replace(str(out), "")))
        elif file.suffix == ".jsonl":
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                yield from flat(f"{name}:{number}", json.loads(line.replace(str(out), "")))


def flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a JSON value, without those that are of the moment."""
    if TIMES.search(name.rsplit("/", 1)[-1].rsplit(":", 1)[-1].rsplit(" ", 1)[-1]):
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(f"{name} {key}", inner)
    elif isinstance(value, list):
        for key, inner in enumerate(value):
            yield from flat(f"{name} {key}", inner)
    else:
        yield name, value


def compare(before: Path, after: Path) -> int:
    """Prints what differs, and how much was compared; 1 where anything does."""
    one, other = dict(facts(before)), dict(facts(after))
    differing = [name for name in sorted({*one, *other}) if one.get(name, "–") != other.get(name, "–")]
    for name in differing[:200]:
        print(f"{name}\n    before: {one.get(name, '–')}\n    after:  {other.get(name, '–')}")
    weights = sum(name.endswith(".safetensors") for name in one)
    runs = sum(name.endswith("result.json status") for name in one)
    print(f"{len(one)} values of {runs} runs, {weights} of them SHA-256 of weights; {len(differing)} differ")
    return int(bool(differing))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["make", "run", "compare"])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--only", default="", help="run: folders whose name holds this")
    call = parser.parse_args()
    if call.verb == "make":
        make(call.folders[0])
    elif call.verb == "run":
        run(call.folders[0].absolute(), call.folders[1].absolute(), call.only)
    else:
        sys.exit(compare(*(folder.absolute() for folder in call.folders)))


if __name__ == "__main__":
    main()
