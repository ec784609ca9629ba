"""The command: `python -m keeltune`, and `keeltune`."""

from __future__ import annotations

import atexit
import gc
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

# A process that ends needs no search for cycles among the million objects that torch and transformers made: a fifth of
# a command's time. What is to be done at the end is done before, and the system takes back the memory.
atexit.register(gc.freeze)

if __name__ == "__main__":
    main()
