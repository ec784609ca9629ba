from __future__ import annotations

import os
import sys

if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[
        0
    ]  # a file of the working folder, which may be somebody else's, stands for no library: `transformers.py`

from keeltune.cli.app import main

main()
