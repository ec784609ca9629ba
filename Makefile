# Two commands: `make demo` and `make test`. Each sets itself up; Python 3.11 and make are all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: help setup demo test test-wide check docs clean
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## .venv/ with the package, its tools and extras; the others do this by themselves

# torch alone first, so that nothing else chooses its build; Python compiles what it imports, not all that there is
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[demo,tracking,vision,speech,lm-eval,japanese,korean,sentencepiece,export,dev,docs]'
	touch $(STAMP)

demo: setup ## the three methods side by side, on made data, ending in one table
	$(BIN)/keeltune demo

# checks first, then the fast tests, then the slow ones: the sooner something fails, the better
test: check ## checks and tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not realdata and not wide"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "(slow or realdata) and not wide" -rs

test-wide: setup ## every further architecture, method and place that `make test` has a few of
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m wide

check: setup ## format, lint, types, architecture: a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

docs: setup ## the site into build/site, without a warning
	$(BIN)/python docs/make_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## removes .venv/ and build/
	rm -rf $(VENV) build
