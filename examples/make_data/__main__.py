"""Makes the data that the recipes of `examples/` name: small, without a download, and the same every time.

    python examples/make_data                 # writes examples/data/
    keeltune train examples/sentiment-analysis-fine-tuning.yaml

Each file beside this one makes some data sets, by its function `write(folder)`. What is in them is enough to see a
recipe through; put your own rows in their place.
"""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(folder: Path) -> None:
    for file in sorted(HERE.glob("[!_]*.py")):
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.write(folder)
    print(f"{sum(1 for _ in folder.iterdir())} data sets in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else HERE.parent / "data")
