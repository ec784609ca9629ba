from __future__ import annotations

import os
import sys

if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    # no file of the working folder, which may be somebody else's, stands for a library: transformers.py
    del sys.path[0]

from keeltune.cli.app import main

main()
