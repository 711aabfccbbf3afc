# make demo: set up and run the main job on real orders. make test: set up and pass the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DEV := $(VENV)/.ready-dev

.PHONY: demo test lint types bench clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Set up once; again only when what is asked for has changed.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP) $@

demo: $(STAMP)
	$(BIN)/clv demo

# Two processes share the processors: more threads in each would only wait for each other.
test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

bench: $(DEV)
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) dist demo-output
