# Needs Python 3.11 or newer and make, nothing else. `make demo` is the place to begin.
PYTHON ?= $(shell command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := ssmrl scripts tests benchmarks
TEST_WORKERS ?= auto

.PHONY: help demo install test test-slow lint clean

help:
	@echo "make demo       train PPO + S5 on a memory task, test it, draw its curve"
	@echo "make test       lint, format, types and the fast tests"
	@echo "make test-slow  the learning tests"
	@echo "make lint       lint, format and types alone"
	@echo "make clean      remove the environment and caches; runs/ stays"

# The stamps make installation happen again only when what is to be installed has changed.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,popgym]"
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(VENV)/.demo $@

install: $(VENV)/.dev

demo: $(VENV)/.demo
	$(BIN)/python scripts/demo.py

lint: $(VENV)/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(TEST_WORKERS)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find ssmrl scripts tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
