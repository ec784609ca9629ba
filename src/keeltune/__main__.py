"""The command: `python -m keeltune`, and `keeltune`."""

from __future__ import annotations

import os
import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # until `main` listens there is nothing to keep: whoever interrupts the imports wants to see no traceback of them
    signal.signal(signal.SIGINT, signal.SIG_DFL)

if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    # no file of the working folder, which may be somebody else's, stands for a library: transformers.py
    del sys.path[0]

from keeltune.utils import language

language.speak(language.chosen())  # before typer is imported, which asks at once what its headings are called

from keeltune.cli.app import main as main  # noqa: E402

if __name__ == "__main__":
    main()
