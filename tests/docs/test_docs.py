"""The documents say what is so: links hold, recipes pass `keeltune check`, languages agree, nothing lacks a page."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
import yaml
from jinja2 import Environment
from typer.testing import CliRunner

from keeltune import recipe
from keeltune.cli.app import app
from keeltune.recipe.fields import NewModel, StudentFrom
from keeltune.training.run_identity import CHANGEABLE
from keeltune.utils import registry
from tests.docs.test_examples import longest, save_small
from tests.helpers.families import FAMILIES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SITE = sorted(DOCS.rglob("*.md"))
FRONT = [ROOT / name for name in ("README.md", "README.zh-CN.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = [*FRONT, *SITE]
READMES = ("README.md", "README.zh-CN.md")
PAIRS = [
    READMES,
    *((f"docs/{name}.md", f"docs/zh/{name}.md") for name in ("index", "results", "exporting", "keras", "clusters")),
]
"""Pages that hold the same commands and recipes in two languages."""
HOME = "https://github.com/keeltune/keeltune/"
METHODS = recipe.json_schema()["properties"]["method"]["enum"]
SHELVES = {
    "tasks": DOCS / "tasks",
    "divergences": DOCS / "formula" / "divergences.md",
    "matching": DOCS / "formula" / "matching.md",
}
"""What the registry finds, and where the site speaks of each of its names."""


def read(page: Path) -> str:
    """A page with the files that it includes, as the site shows it."""
    text = page.read_text(encoding="utf-8")

    def included(match: re.Match[str]) -> str:
        return textwrap.indent((ROOT / match[2]).read_text(encoding="utf-8").rstrip("\n"), match[1])

    return re.sub(r'^( *)--8<-- "([^"]+)"$', included, text, flags=re.MULTILINE)


def blocks(page: Path, language: str) -> Iterator[str]:
    """The fenced blocks of one language, also those inside of a tab."""
    for _, text in re.findall(rf"^( *)```{language}\b[^\n]*\n(.*?)^\1```$", read(page), re.MULTILINE | re.DOTALL):
        yield textwrap.dedent(text)


def recipes(page: Path) -> list[str]:
    return [block for block in blocks(page, "yaml") if re.search(r"^task:", block, re.MULTILINE)]


def commands(page: Path) -> list[str]:
    """The lines of the shell blocks, without their comments, which are in the page's language."""
    lines = [line.split("#")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line]


def without_comments(text: str) -> str:
    return re.sub(r" *#.*", "", text)


def anchors(page: Path) -> set[str]:
    """The places in a page that a link can name, as GitHub and the site make them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def script(name: str):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# What is made is what its maker makes


def test_the_reference_is_what_the_code_says():
    written = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert written == script("make_reference").reference(), "run: python docs/make_reference.py"


def test_the_picture_is_what_its_numbers_say():
    picture = script("make_picture")
    points = json.loads(picture.NUMBERS.read_text(encoding="utf-8"))["points"]
    assert set(points) == set(picture.recipes("encoder")) == set(picture.COLOURS)
    for language, words in picture.WORDS.items():
        name = "methods.svg" if language == "en" else f"methods.{language}.svg"
        drawn = (DOCS / "assets" / name).read_text(encoding="utf-8")
        assert drawn == picture.draw(points, words), "run: python docs/make_picture.py --draw"
        assert not re.search(r'(href|src|url)\s*[=(]\s*["\']?http', drawn)
    for name, point in points.items():
        for domain in ("target", "source"):
            value, low, high = point[domain]
            assert 0 <= low <= value <= high <= 100, (name, domain)


# Links


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(HOME):  # the site names the code by its address
            kind, _, path = link.removeprefix(HOME).partition("/main/")
            target = ROOT / path.partition("#")[0]
            if not {"blob": target.is_file, "tree": target.is_dir}[kind]():
                broken.append(link)
            continue
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_rows_of_a_table_have_as_many_cells_as_its_head(page):
    width = None
    for line in read(page).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        width = cells if width is None else width
        assert cells == width, line


def test_the_site_builds_without_a_warning_and_loads_nothing_from_another_host(tmp_path):
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) == len(SITE) + 1  # and the one for addresses that there are not
    for page in pages:
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)=\"?(https?:[^\"> ]+)", html)
        assert not loaded, page
        assert "--8<--" not in html, page


# Recipes and commands


def _every_recipe() -> list:
    """Those that have a field, a task or a method that none before them has are always checked; what is left is the
    same fields with another task."""
    seen: dict[str, tuple[Path, str]] = {}
    for page in PAGES:
        for text in recipes(page):
            seen.setdefault(without_comments(text), (page, text))
    cells, known = [], set()
    for number, (page, text) in enumerate(seen.values()):
        new = set(_fields(yaml.safe_load(text))) - known
        known |= new
        name = f"{page.relative_to(ROOT).with_suffix('')}-{number}"
        cells.append(pytest.param(text, id=name, marks=[] if new else pytest.mark.wide))
    return cells


def _fields(value: Any, path: str = "") -> Iterator[str]:
    """Where a recipe has a value; of its task and its method, also which."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _fields(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner, f"{path}[]")
    else:
        yield f"{path} {value}" if path in (".task", ".method") else path


def test_every_recipe_is_read(tmp_path):
    for page in PAGES:
        for text in recipes(page):
            recipe.parse(text, folder=tmp_path)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A task's small model, made once."""
    made: dict[str, Path] = {}

    def of(task: str) -> Path:
        if task not in made:
            made[task] = tmp_path_factory.mktemp("model") / "model"
            save_small(task, made[task])
        return made[task]

    return of


@pytest.mark.parametrize("text", _every_recipe())
def test_a_recipe_passes_check(text, tmp_path, material):
    """As it stands, beside files and models of its names. The models are small ones of two layers: a new model is taken
    from their folder, and a student has one of them."""
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    loaded = recipe.load(file)
    family, model = FAMILIES[loaded.task], material(loaded.task)
    data = loaded.data
    old = data.source
    ours, theirs = (data.train, data.validation, data.test, data.unlabeled), (old.train, old.unlabeled, old.validation)
    for name in (*ours, *theirs, old.test):
        if isinstance(name, str):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            family.write(tmp_path / name)
            _rename(tmp_path / name, data.columns)
    for named in old.test if isinstance(old.test, list) else ():
        (tmp_path / named.data).parent.mkdir(parents=True, exist_ok=True)
        FAMILIES[named.task or loaded.task].write(tmp_path / named.data)
    changes = []
    for name in _models(loaded):
        if not (tmp_path / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).symlink_to(model, target_is_directory=True)
    if isinstance(loaded.model, NewModel):
        changes.append(f"model={model}")
    if isinstance(loaded.model, StudentFrom):
        changes.append("model.layers=1")
    for name in ("max_length", "target_max_length"):
        if asked := getattr(loaded, name):
            changes.append(f"{name}={min(asked, longest(loaded.task))}")
    done = CliRunner().invoke(app, ["check", str(file), *changes], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "ready to train" in done.output


def _models(loaded: recipe.Recipe) -> Iterator[str]:
    """The models that a recipe names."""
    given = [loaded.model, *(loaded.reference if isinstance(loaded.reference, list) else [loaded.reference])]
    for one in given:
        name = one if isinstance(one, str) else getattr(one, "from_", None) or getattr(one, "model", None)
        yield from [name] if isinstance(name, str) else name or []


def _rename(file: Path, columns: dict[str, str]) -> None:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    named = [{columns.get(name, name): value for name, value in row.items()} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in named), encoding="utf-8")


@pytest.mark.parametrize("name", [*READMES, "docs/index.md", "docs/zh/index.md", "docs/zh/guide.md"])
def test_the_first_pages_have_a_recipe(name):
    assert recipes(ROOT / name)


@pytest.mark.parametrize("name", ["docs/index.md", "docs/zh/index.md"])
def test_each_method_has_a_recipe(name, tmp_path):
    methods = {recipe.parse(text, folder=tmp_path).method for text in recipes(ROOT / name)}
    assert methods == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_a_page_with_its_recipe(method, tmp_path):
    page = DOCS / "methods" / f"{method}.md"
    assert {recipe.parse(text, folder=tmp_path).method for text in recipes(page)} == {method}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0])
def test_both_languages_hold_the_same(pair):
    english, chinese = (ROOT / name for name in pair)
    assert commands(english) == commands(chinese)
    plain = [[without_comments(text) for text in recipes(page)] for page in (english, chinese)]
    assert plain[0] == plain[1]
    headings = [re.findall(r"^(#+) ", page.read_text(encoding="utf-8"), re.MULTILINE) for page in (english, chinese)]
    assert pair != READMES or headings[0] == headings[1]


def test_the_results_are_the_same_figures_in_both_languages():
    pages = [(DOCS / name / "results.md").read_text(encoding="utf-8") for name in ("", "zh")]
    tables = [[re.findall(r"[+−]?\d+\.\d+", line) for line in page.splitlines() if line[:1] == "|"] for page in pages]
    assert tables[0] == tables[1]
    assert len(tables[0]) > 50


@pytest.mark.parametrize("name", ["docs/commands.md", "docs/zh/index.md"])
def test_a_page_lists_every_command_and_no_other(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    built = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"^\| `keeltune ([a-z]+)", text, re.MULTILINE)) == built


def test_the_page_of_commands_says_every_exit_status():
    rows = re.findall(r"^\| (\d+) \| ", (DOCS / "commands.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(map(int, rows)) == set(script("make_reference")._exits())


@pytest.mark.parametrize("name", [*READMES, "docs/index.md", "docs/zh/index.md"])
def test_the_first_pages_say_what_the_two_commands_are(name):
    assert commands(ROOT / name)[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("name", READMES)
def test_the_readme_is_short(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 90


def test_the_makefile_says_what_it_makes():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=20)
    targets = {"help", "setup", "demo", "test", "check", "docs", "clean"}
    assert set(re.findall(r"^make (\w+) +\S", done.stdout, re.MULTILINE)) == targets


def test_the_examples_of_the_library_have_names_that_exist():
    import keeltune as kt

    found = set()
    for page in PAGES:
        for name in re.findall(r"\bkt\.([A-Za-z_]+)", "".join(blocks(page, "python"))):
            found.add(name)
            assert hasattr(kt, name), f"{page.name}: kt.{name}"
        for model in re.findall(r'"model": "([^"]+)"', "".join(blocks(page, "python"))):
            assert "/" in model, f"{page.name}: {model} is neither a model's id with its owner nor a folder"
    assert {"train", "evaluate", "Objective", "references", "Dense", "cross_entropy", "Counts"} <= found


# Pages


@pytest.mark.parametrize("task", registry.names("tasks"))
def test_a_task_has_a_page_with_a_recipe_of_each_method(task, tmp_path):
    page = SHELVES["tasks"] / f"{task}.md"
    found = [recipe.parse(text, folder=tmp_path) for text in recipes(page)]
    assert {(one.task, one.method) for one in found} == {(task, method) for method in METHODS}
    built = registry.find("tasks", task)
    text = page.read_text(encoding="utf-8")
    for column in built.columns:
        assert re.search(rf"^\| .*`{column.name}`", text, re.MULTILINE), column.name
    (row, *_) = blocks(page, "json")
    known = {column.name for column in built.columns}
    assert set(json.loads(row)) <= known
    assert f"({task}.md)" in (SHELVES["tasks"] / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("shelf", ["divergences", "matching"])
def test_every_name_of_a_shelf_stands_on_its_page(shelf):
    text = SHELVES[shelf].read_text(encoding="utf-8")
    assert [name for name in registry.names(shelf) if f"`{name}`" not in text and f"{{{name}:" not in text] == []


def test_every_regulariser_stands_on_their_page():
    text = (DOCS / "formula" / "regularizers.md").read_text(encoding="utf-8")
    fields = recipe.json_schema()["$defs"]["Regularizers"]["properties"]
    assert [name for name in fields if f"| `{name}: " not in text] == []


EXTENSION_POINTS = ("divergence", "reference", "task", "family", "regularizer", "matching", "metric", "report-section",
                    "file-format")  # fmt: skip


@pytest.mark.parametrize("name", EXTENSION_POINTS)
def test_an_extension_point_has_a_page(name):
    assert f"({name}.md)" in (DOCS / "extending" / "index.md").read_text(encoding="utf-8")
    assert (DOCS / "extending" / f"{name}.md").read_text(encoding="utf-8").startswith("# A")


def test_the_glossary_has_twenty_words_each_once():
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^- \*\*(.+?)\*\*: .+ \[.+\]\(.+\)$", text, re.MULTILINE)
    assert len(words) == len(set(words)) == 20


def test_every_decision_is_in_the_index():
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in (DOCS / "decisions").glob("0*.md") if f"({page.name})" not in index] == []


def test_the_tests_that_a_page_names_are_there():
    page = (DOCS / "robustness.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)", page)
    assert len(named) > 100
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{name}"


# The examples of the pages of extension points


EXTENDING = ROOT / "examples" / "extending"


@pytest.fixture
def example(monkeypatch):
    """A file of examples/extending, found as a user's own module is."""
    monkeypatch.syspath_prepend(str(EXTENDING))
    registry.find.cache_clear()

    def of(shelf: str, stem: str, name: str):
        return registry.find(shelf, f"{stem}:{name}")

    yield of
    for file in EXTENDING.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_each_example_of_an_extension_is_shown_on_a_page():
    shown = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "extending").glob("*.md"))
    files = sorted(EXTENDING.glob("*.py"))
    assert files
    assert [file.name for file in files if f'--8<-- "examples/extending/{file.name}"' not in shown] == []


def test_the_divergence_of_the_page_is_one(example):
    import keeltune as kt

    hellinger = example("divergences", "squared_hellinger", "squared_hellinger")
    p, q = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.8, 0.2, 0.0]]).log()
    expected = 1 - 0.4**0.5 - 0.1**0.5  # 1 − Σ √(p q)
    objective = kt.Objective("squared_hellinger:squared_hellinger")
    assert objective.total(kt.Dense(p), kt.Dense(q)).item() == pytest.approx(expected)
    student = p.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(hellinger(student, q).sum(), student)
    assert torch.isfinite(gradient).all()
    assert hellinger(q, q).item() == 0


def test_the_reference_of_the_page_is_one(example):
    from keeltune.objective.predictions import Dense
    from keeltune.objective.references.reference import Reference

    class Fixed(Reference):
        kind = "fixed"

        def rows(self, batch):
            return Dense(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]).log())

    made = example("references", "smoothed", "Smoothed")(Fixed(), share=0.3)
    found = made.rows({}).log_probs(slice(None)).exp()
    torch.testing.assert_close(found, torch.tensor([[0.59, 0.24, 0.17], [0.17, 0.17, 0.66]]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        type(made)(Fixed(), share=1.0)


def test_the_matching_term_of_the_page_is_one(example):
    term = example("matching", "cosine_states", "CosineStates")
    student = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [9.0, 9.0]]])
    reference = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, -1.0]]])
    found = term.distance(student, reference, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(found, torch.tensor([(1 - 0.5**0.5) / 2]))


def test_the_task_of_the_page_passes_check(example, tmp_path, material):
    assert example("tasks", "stance", "Stance")
    rows = [{"text": f"it is {word}", "text_pair": "it is good", "label": label, "body": "x"}
            for word, label in (("good", "for"), ("bad", "against")) for _ in range(4)]  # fmt: skip
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"train": "train.jsonl", "test": "test.jsonl"}
    _check(tmp_path, {"task": "stance:Stance", "model": str(material("sentiment-analysis")), "data": data})


def test_the_file_format_of_the_page_passes_check(example, tmp_path, material):
    from keeltune.data.file_formats.file_format import FileLog

    made, log = example("file_formats", "fasttext", "FastText")(), FileLog("rows.txt")
    data = b"\xef\xbb\xbf__label__good A film.\r\n\n__label__bad Another one.\nno label here\n__label__good\n"
    found = list(made.records(data, log))
    assert found == [(1, {"label": "good", "text": "A film."}), (3, {"label": "bad", "text": "Another one."})]
    assert [problem.kind for problem in log.problems] == ["no label", "no label"]
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_bytes(b"__label__positive it is good\n__label__negative it is bad\n" * 4)
    data = {"train": "train.txt", "test": "test.txt", "format": "fasttext:FastText"}
    _check(tmp_path, {"task": "sentiment-analysis", "model": str(material("sentiment-analysis")), "data": data})


def test_the_metric_of_the_page_is_scikit_learns(example):
    from sklearn.metrics import balanced_accuracy_score

    from keeltune.tasks.common.settings import Settings

    metric = example("metrics", "balanced_accuracy", "BalancedAccuracy")(Settings(["a", "b", "c", "never"]))
    golds, values = list("aaaabbbcca"), list("aabacbbcaa")
    sums = metric.statistics(values, golds).sum(0)
    assert float(metric.scores(sums)["balanced_accuracy"]) == pytest.approx(balanced_accuracy_score(golds, values))
    assert metric.statistics([], []).shape == (0, 8)


def test_the_regulariser_of_the_page_adds_minus_the_entropy(example):
    penalty = example("regularizers", "confidence_penalty", "ConfidencePenalty")(0.5)
    log_probs = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25]]).log().requires_grad_()
    found = penalty.on_labelled([log_probs], torch.tensor([0, 1]))
    torch.testing.assert_close(found, -0.5 * torch.tensor([math.log(2), 1.5 * math.log(2)]))
    (gradient,) = torch.autograd.grad(found.sum(), log_probs)
    assert torch.isfinite(gradient).all()


@pytest.mark.slow  # trains
def test_the_family_regulariser_and_metric_of_the_pages_train(example, tmp_path, material):
    import keeltune as kt

    rows = [{"text": f"it is {word}", "label": grade} for grade, word in enumerate(("bad", "fine", "good"), 1)] * 8
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = {
        "task": "grading:Stars",
        "method": "fine-tuning",
        "model": str(material("sentiment-analysis")),
        "data": {"train": "train.jsonl", "test": "test.jsonl"},
        "training": {"max_steps": 3, "batch_size": 8, "regularizers": {"confidence_penalty:ConfidencePenalty": 0.1}},
        "report": {"sections": ["throughput:Throughput"]},
        "output": "run",
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(values), encoding="utf-8")
    run = kt.train(tmp_path / "recipe.yaml")
    assert 0 <= run.result["metrics"]["test"]["grade_error"] <= 2
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "a penalty on sure answers (0.1)" in page
    assert "<h2>Throughput</h2>" in page


def test_the_section_of_the_page_shows_its_values(example):
    section = example("sections", "throughput", "Throughput")()
    training = {"examples_per_second": 123.4, "padding_share": 0.081}
    values = section.values(SimpleNamespace(result={"training": training}))
    shown = Environment(autoescape=True).from_string(section.template).render(values)
    assert "123 examples a second; 8 % of what" in shown
    assert section.values(SimpleNamespace(result={"training": None})) is None


def _check(folder: Path, values: dict[str, Any]) -> None:
    """A recipe of fine-tuning passes `keeltune check`."""
    file = folder / "recipe.yaml"
    file.write_text(json.dumps({"method": "fine-tuning", "output": "run", **values}), encoding="utf-8")
    done = CliRunner().invoke(app, ["check", str(file)], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_fields_that_may_change_are_listed():
    page = (DOCS / "resuming.md").read_text(encoding="utf-8")
    listed = page.partition("if need be):")[2].partition("    keeltune train")[0]
    assert re.findall(r"`((?:training|evaluation)\.\w+)`", listed) == [*CHANGEABLE]
