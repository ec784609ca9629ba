# Two commands: `make demo` and `make test`. Each sets itself up; Python 3.11 and make are all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: setup demo test check docs clean
setup: $(STAMP)

# torch alone first, so that nothing else chooses its build
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,tracking,vision,speech,dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/keeltune demo

# checks first, then the fast tests, then the slow ones: the sooner something fails, the better
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not realdata"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or realdata" -rs

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

docs: setup
	$(BIN)/python docs/make_reference.py

clean:
	rm -rf $(VENV)
