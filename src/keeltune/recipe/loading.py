"""The recipe: everything that a run is, in one YAML file.

`load`, `parse` and `from_dict` are the doors: they find every fault at once, each with its line, and raise one
`UserError`. Nothing heavy is imported unless the recipe asks for it.

`yaml_document` has the text's values, `fields` declares what they may be, `validation` holds them against one another.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from keeltune.recipe.field_types import expectation
from keeltune.recipe.fields import Recipe
from keeltune.recipe.other_names import other_name
from keeltune.recipe.regularizer_fields import Regularizers, ShelfField, regularizer_names
from keeltune.recipe.validation import cross_faults
from keeltune.recipe.yaml_document import Document, seen
from keeltune.recipe.yaml_text import text_of
from keeltune.recipe.yaml_values import Key
from keeltune.utils.errors import Problem, UserError, nearest, shown


def load(path: Path | str, overrides: Sequence[str] = (), early: Callable[[Recipe], None] | None = None) -> Recipe:
    """The recipe in a file. `overrides` are assignments such as "training.epochs=5", the value as YAML.

    `early`: is handed the recipe as soon as each of its fields is sound, before what may import a library.
    Raises `UserError` with every problem of the file and the overrides.
    """
    path = Path(path)
    document = Document(str(path))
    document.read(text_of(path))
    document.file = path
    return _recipe(document, path.absolute().parent, overrides, early)


def parse(text: str, *, folder: Path | str, where: str = "recipe.yaml", overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `text`. `folder`: where its relative paths start; `where`: what messages call it."""
    document = Document(where)
    document.read(text)
    return _recipe(document, Path(folder).absolute(), overrides)


def from_dict(values: Mapping[str, Any], folder: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a mapping as YAML would give it. `folder`: where its relative paths start."""
    document = Document("recipe")
    document.take(values)
    return _recipe(document, Path(folder).absolute(), overrides)


def opened(recipe: Recipe | str | Path | Mapping[str, Any]) -> Recipe:
    """A recipe from what a caller has: a file's path, a mapping, or a `Recipe`.

    A `Recipe` that was put together in Python, past the doors, is held to the same checks. Relative paths of a mapping
    or of such a recipe start in the working folder.
    """
    if isinstance(recipe, Mapping):
        return from_dict(recipe, Path.cwd())
    if not isinstance(recipe, Recipe):
        return load(recipe)
    past_the_doors = not recipe._document.values
    values = recipe.model_dump(by_alias=True, exclude_unset=True)
    return from_dict(values, recipe.folder) if past_the_doors else recipe


def _recipe(
    document: Document, folder: Path, overrides: Sequence[str], early: Callable[[Recipe], None] | None = None
) -> Recipe:
    for assignment in overrides:
        document.override(assignment)
    recipe, faults, replaced = _validated(document)
    recipe._folder, recipe._document = folder, document
    problems = list(document.problems)
    problems += _no_consequences(faults, problems)
    if early is not None and not problems:
        early(recipe)
    problems += _no_consequences(cross_faults(recipe, replaced), problems)
    if problems:
        raise UserError(sorted(_without_misspelt(problems), key=_line))
    return recipe


def _no_consequences(problems: Iterable[Problem], earlier: Sequence[Problem]) -> list[Problem]:
    """`problems` without those of a field that an earlier one is about, or of one above or below that field."""
    known = [f"{problem.field}." for problem in earlier if problem.field]
    new = []
    for problem in problems:
        field = f"{problem.field}."
        if not any(field.startswith(other) or other.startswith(field) for other in known):
            new.append(problem)
    return new


def _without_misspelt(problems: Sequence[Problem]) -> list[Problem]:
    """Leave out that a field is missing where a misspelt one next to it is what was meant."""
    intended = set()
    for problem in problems:
        if match := re.search(r'correct the name; did you mean "(.*)"\?$', problem.fix):
            intended.add(".".join([*problem.field.split(".")[:-1], match[1]]))
    return [problem for problem in problems if problem.found != "nothing" or problem.field not in intended]


def _line(problem: Problem) -> tuple[int, int]:
    location = re.search(r":(\d+):(\d+)$", problem.where)
    return (int(location[1]), int(location[2])) if location else (2**31, 0)


_STAND_INS = {"task": "text-classification", "method": "fine-tuning", "model": ".", "data": {}, "output": "."}
"""What replaces a required field at fault, so that the other fields are still checked against one another."""


def _validated(document: Document) -> tuple[Recipe, list[Problem], set[str]]:
    """The recipe, pydantic's faults, and the fields that stand-ins replace.

    Faulty values are taken out and the rest is read again, until a recipe stands: what remains is sound, so that the
    checks across fields run in the same go.
    """
    values = copy.deepcopy(document.values)
    faults: list[Problem] | None = None
    replaced: set[str] = set()
    while True:
        try:
            return Recipe.model_validate(values), faults or [], replaced
        except ValidationError as error:
            errors = error.errors(include_url=False)
        if faults is None:
            faults = [_fault(e, document) for e in errors]
        for e in errors:
            _take_out(values, _steps(e, document))
        for name, stand_in in _STAND_INS.items():
            if name not in values:
                values[name] = stand_in
                replaced.add(name)


def _steps(error: ErrorDetails, document: Document) -> Key:
    """The field of an error, without the branches of unions that pydantic puts on the way."""
    field: Key = ()
    for step in error["loc"]:
        is_branch = step == "[key]" or str(step).startswith("‹")
        if not is_branch or step in document.entries(field):
            field += (step,)
    return field


def _take_out(values: dict[str, Any], steps: Key) -> None:
    """Delete the innermost entry of a mapping on the way to a fault."""
    mapping: Any = values
    key, inner = steps[0], mapping
    for step in steps:
        if isinstance(inner, list):
            inner = inner[int(step)]
            continue
        names = {str(name): name for name in inner} if isinstance(inner, dict) else {}  # pydantic makes text of some
        if str(step) not in names:
            break
        mapping, key = inner, names[str(step)]
        inner = mapping[key]
    mapping.pop(key, None)


def _fault(error: ErrorDetails, document: Document) -> Problem:
    steps, kind = _steps(error, document), error["type"]
    if kind == "extra_forbidden":
        return _unknown(steps, document)
    about = _about(steps)
    if kind == "missing":
        name = ".".join(map(str, steps))
        return document.problem(steps, expected=f"a value{about}", fix=f"add {name}")
    value, expected, fix = error["input"], expectation(error), f"change it{about}"
    if kind == "literal_error":
        choices = re.findall("'(.*?)'", expected)
        fix = f"choose one of them{nearest(value, choices)}"
        others = [kind.strip("‹›") for kind in _kinds(_annotation(steps)) if kind not in error["loc"]]
        expected = " or ".join([expected, *others])
    if isinstance(value, str) and "text" not in expected and _is_number(value):
        fix = f"write it without quotes: {value.strip()}"
    elif isinstance(value, (bool, int, float)) and "text" in expected:
        fix = f'put it in quotes, if text is meant: "{str(value).lower()}"'
    elif isinstance(value, float) and kind.startswith("int_") and value.is_integer():
        fix = f"write {int(value)}"
    return document.problem(steps, found=seen(value), expected=expected, fix=fix, key=error["loc"][-1] == "[key]")


def _kinds(annotation: Any) -> Iterator[str]:
    """The kinds of value that a union takes."""
    for branch in get_args(annotation):
        tags = [str(mark.tag) for mark in getattr(branch, "__metadata__", ()) if isinstance(mark, Tag)]
        yield from tags or _kinds(branch)


def _unknown(steps: Key, document: Document) -> Problem:
    """A field that is not declared: the nearest next to it, else the same or the nearest name anywhere."""
    *parent, name = steps
    siblings = list(_fields(tuple(parent)))
    if known := other_name(".".join(map(str, parent)), str(name)):
        return document.problem(steps, found=shown(name), expected=known[0], fix=known[1], key=True)
    elsewhere = {path[-1]: ".".join(path) for path in all_fields() if path[-1] not in siblings}
    if nearest(name, siblings):
        fix = f"correct the name{nearest(name, siblings)}"
    elif match := difflib.get_close_matches(str(name), elsewhere, n=1, cutoff=0.8):
        fix = f"write it as {elsewhere[match[0]]}"
    else:
        fix = "leave it out"
    expected = f"one of: {', '.join(siblings)}"
    return document.problem(steps, found=shown(name), expected=expected, fix=fix, key=True)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _fields(parent: Key = ()) -> dict[str, FieldInfo | ShelfField]:
    """The fields declared below `parent`, by their names in YAML."""
    models: list[type[BaseModel]] = [Recipe]
    for step in parent:
        field = {k: v for model in models for k, v in _by_yaml_name(model).items()}.get(str(step))
        models = list(_models(field.annotation)) if field else []
    return {name: field for model in models for name, field in _by_yaml_name(model).items()}


def _by_yaml_name(model: type[BaseModel]) -> dict[str, FieldInfo | ShelfField]:
    fields: dict[str, FieldInfo | ShelfField] = {f.alias or name: f for name, f in model.model_fields.items()}
    return fields | ({name: ShelfField(name) for name in regularizer_names()} if model is Regularizers else {})


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models among the branches of an annotation."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _annotation(steps: Key) -> Any:
    field = _fields(steps[:-1]).get(str(steps[-1]))
    return field and field.annotation


def _about(steps: Key) -> str:
    """What a field is, in its own words or in those of the one around it."""
    for end in range(len(steps), 0, -1):
        field = _fields(steps[: end - 1]).get(str(steps[end - 1]))
        if field and field.description:
            return f" ({steps[end - 1]}: {field.description})"
    return ""


def all_fields(parent: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in _fields(parent).items():
        yield (*parent, name)
        if not isinstance(field, ShelfField):  # to look below it would import its file
            yield from all_fields((*parent, name))
