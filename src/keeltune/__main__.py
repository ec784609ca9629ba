from __future__ import annotations

from keeltune.cli.app import main

main()
