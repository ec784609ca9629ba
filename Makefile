# Two commands: `make demo` and `make test`. Each sets itself up; Python 3.11 and make are all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: help setup demo test tests test-wide check lint types docs clean
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

# The types beside the tests, and these, the fast ones before the slow, in one go: what each worker imports and makes
# once it would else do twice, and one of two cores would wait for the type checker. All are seen to end.
test: lint ## checks and tests
	$(MAKE) --no-print-directory -k -j 2 types tests

tests: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not wide" -rs

test-wide: setup ## every further architecture, method and place that `make test` has a few of
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m wide

check: lint types ## format, lint, types, architecture: a minute
	$(BIN)/python -m pytest tests/test_architecture.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

docs: setup ## the site into build/site, without a warning
	$(BIN)/python docs/make_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## removes .venv/ and build/
	rm -rf $(VENV) build
