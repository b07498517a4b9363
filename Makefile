# Everyday verbs. Each sets up what it needs; the second time that takes a second.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-all lint bench docs fuzz clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	touch $(READY)

demo: setup
	$(BIN)/python examples/demo.py

test: setup
	$(BIN)/python -m pytest

test-all: setup
	$(BIN)/python -m pytest -m 'slow or not slow'

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: setup
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=new
	$(BIN)/python -m pip install --quiet atheris
	$(BIN)/python -m tests.gguf.fuzz -max_total_time=$(or $(FUZZ_SECONDS),300)

bench: setup
	$(BIN)/python -m benchmarks

docs: setup
	$(BIN)/sphinx-build --fail-on-warning --nitpicky --quiet docs docs/_build/html

clean:
	rm -rf $(VENV) build dist docs/_build .mypy_cache .ruff_cache .pytest_cache
