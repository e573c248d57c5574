# Needs Python 3.11 or newer and make, nothing else. `make demo` is the place to begin.
# The first interpreter that runs and is new enough: a name alone may be a shim with nothing behind it.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := ssmrl scripts tests benchmarks examples docs
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
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null || \
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
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -n $(TEST_WORKERS) --dist loadgroup

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find ssmrl scripts tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
