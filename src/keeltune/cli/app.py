"""The command: its arguments are read here, and each verb is a file of this folder, imported when it is used.

A file is a verb if it has a function of its own name; the function's docstring is its help. Nothing is registered.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from keeltune.cli import completion
from keeltune.utils import stop_signals
from keeltune.utils.collection import paused_collection
from keeltune.utils.errors import KeeltuneError, Problem, Stopped, UserError
from keeltune.utils.language import said
from keeltune.utils.sanitization import printable
from keeltune.utils.stop_signals import StopAsked
from keeltune.utils.system_faults import system_faults
from keeltune.utils.terminal import Terminal, filtered_output
from keeltune.utils.version import __version__

RecipeFile = Annotated[
    Path,
    typer.Argument(help="The recipe, a YAML file.", show_default=False, autocompletion=completion.recipes),
]

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the recipe: a.b=c …", show_default=False, autocompletion=completion.overrides),
]

ModelOrRun = Annotated[
    str,
    typer.Argument(
        help="A run folder, a model folder, an export or a hub id.",
        show_default=False,
        autocompletion=completion.models,
    ),
]

TaskName = Annotated[
    str | None,
    typer.Option("--task", help="The task; a bare model folder needs it.", autocompletion=completion.tasks),
]

ColumnNames = Annotated[list[str] | None, typer.Option("--column", help="ours=theirs: the file's name of a column.")]

ORDER = ("init", "train", "watch", "check", "show", "cache", "evaluate", "predict", "compare", "advise", "curve",
         "runs", "demo")  # fmt: skip
"""The order in which `--help` lists the verbs; those that are not named here come after them."""

FOLDER = Path(__file__).parent

UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""What typer raises over a call that it cannot read."""


class Verbs(Mapping[str, Any]):
    """The verbs by their names; one is imported when it is looked up."""

    def __init__(self) -> None:
        files = (file for file in sorted(FOLDER.glob("*.py")) if re.search(rf"^def {file.stem}\(", _text(file), re.M))
        self.files = {file.stem: file for file in files}

    def __getitem__(self, name: str) -> Any:
        if name not in self.files:
            raise KeyError(name)
        with paused_collection():  # a sixth of what torch and transformers take to be imported
            function = getattr(import_module(f"keeltune.cli.{name}"), name)
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(name)(function)
        return spoken(typer.main.get_command(alone))

    def __iter__(self) -> Iterator[str]:
        listed = [name for name in ORDER if name in self.files]
        return iter([*listed, *(name for name in self.files if name not in ORDER)])

    def __len__(self) -> int:
        return len(self.files)

    def summary(self, name: str) -> str:
        """The help of a verb, read from its file without importing it."""
        body = ast.parse(_text(self.files[name])).body
        function = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)
        return ast.get_docstring(function) or ""


def spoken(command: Any) -> Any:
    """The command with its help in the user's language; what typer asks gettext for is in it too."""
    command.help = said(command.help or "")
    for parameter in command.params:
        parameter.help = said(parameter.help or "")
    option, usage = command.get_help_option, command.get_usage

    def help_option(ctx: Any) -> Any:
        found = option(ctx)
        found.help = said(found.help)
        return found

    command.get_help_option = help_option
    command.get_usage = lambda ctx: said(usage(ctx))
    return command


class VerbGroup(TyperGroup):
    """The command's group: `--help` shows every verb without importing one."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.commands: Any = Verbs()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A verb's name and help, for `--help`; `resolve_command` gives the verb itself."""
        known = cmd_name in self.commands.files
        return TyperCommand(cmd_name, help=said(self.commands.summary(cmd_name))) if known else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, self.commands[name], rest


app = typer.Typer(
    name="keeltune",
    cls=VerbGroup,
    help="Fine-tune pretrained models on an even keel: L = CE + weight · D(student ‖ reference).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(requested: bool) -> None:
    if requested:
        print(f"keeltune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Runs the command; every foreseen failure is one message and its exit status, never a traceback."""
    debug = "--debug" in sys.argv
    # `--debug` is welcome after the verb too
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    os.umask(os.umask(0o077) | 0o077)  # what a run writes may hold data: it is for its owner alone
    try:
        with filtered_output(), stop_signals.listened(to_the_end=True):
            status = _status(arguments, debug)
    except StopAsked:  # while its last words were printed
        status = Stopped.exit_status
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _status(arguments: list[str], debug: bool) -> int:
    terminal, trace = Terminal(stderr=True), ""
    try:
        with system_faults():
            return _verb(arguments)
    except UsageError as error:
        message, status = f"error: the call\n    {printable(error.format_message())}", error.exit_code
    except KeeltuneError as error:
        if error.said:
            return error.exit_status
        again = f"go on with: {shlex.join(['keeltune', *arguments])}" if isinstance(error, Stopped) else ""
        message, status = _message(error, printable(again)), error.exit_status
        trace = traceback.format_exc() if debug else ""
    except Exception as error:
        status, trace = 1, traceback.format_exc()
        message = f"error: a bug of keeltune: {type(error).__name__}; please report it with the lines above"
        message = "\n".join([message, *_notes(error)])
    if trace:
        terminal.block(printable(trace.rstrip(), keep="\n").replace("\n", "\n  "))
    terminal.block(message)
    return int(status)


def _verb(arguments: list[str]) -> int:
    try:
        command = spoken(typer.main.get_command(app))
        return command(args=arguments, prog_name="keeltune", standalone_mode=False) or 0
    except StopAsked as signal:
        raise Stopped(f"stopped by {signal}; no file is half written") from None


def column_names(pairs: list[str] | None) -> dict[str, str]:
    """`text=body` options as a mapping."""
    names = {}
    for pair in pairs or []:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise UserError(Problem("the call", "--column", pair, "ours=theirs, such as text=body", "write both names"))
        names[ours] = theirs
    return names


def _message(error: KeeltuneError, last: str = "") -> str:
    """What an error says, and its last line: what was noted of it (what is safe, and what goes on), or `last`."""
    if isinstance(error, UserError):
        errors = [p for p in error.problems if p.severity == "error"]
        last = f"{len(errors)} problem{'s' if len(errors) != 1 else ''}; nothing was started."
    return "\n".join([str(error), *(_notes(error) or filter(None, [last]))])


def _notes(error: Exception) -> list[str]:
    return getattr(error, "__notes__", [])


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")
