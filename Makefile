# `make demo` and `make test` need nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of torch. On a machine with a GPU: make demo CONSTRAINTS=/dev/null
CONSTRAINTS ?= constraints/cpu.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## make .venv with lakevec and everything its tests need

$(VENV)/.installed: pyproject.toml $(wildcard $(CONSTRAINTS))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lakevec needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (set PYTHON=…)" or 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[test]'
	@touch $@

demo: install ## embed a small mixed corpus with a tiny model, and show what came out
	$(BIN)/python -m tests.demo make
	$(BIN)/python jobs/embed_corpus.py --config configs/demo.yaml
	$(BIN)/python -m tests.demo show

lint: install ## formatting, style, types and dependency direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes: the tests of the whole job, which share one Ray head and mostly wait, beside all the others.
test: lint ## lint, and every test but the slow ones
	$(BIN)/python -m pytest -m 'not slow' --numprocesses 2

test-slow: install ## the long suites
	$(BIN)/python -m pytest -m slow --timeout 1800

format: install ## format and mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what the demo and the tests left, and .venv
	rm -rf $(VENV) .demo .oracle .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
