# Needs Python 3.11 or newer and make, nothing else. `make demo` is the place to begin.
# The first interpreter that runs and is new enough: a name alone may be a shim with nothing behind it.
# Another one: make test PYTHON=python3.13. VENV=... keeps environments for several side by side.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)
VERSION := $(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# The set of versions that the tests pass with; a newer Python than those takes the newest of all.
CONSTRAINTS := $(wildcard constraints/python$(VERSION).txt)
PIP_INSTALL = $(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable
VENV := .venv
BIN := $(VENV)/bin
SOURCES := ssmrl scripts tests benchmarks examples docs
TEST_WORKERS ?= auto
TESTS ?= tests

.PHONY: help demo install test test-slow docs package mutants memory-maze lint clean

help:
	@echo "make demo       train PPO + S5 on a memory task, test it, draw its curve"
	@echo "make test       lint, format, types and the fast tests"
	@echo "make test-slow  the learning tests"
	@echo "make docs       build the site into site/"
	@echo "make package    build a wheel into dist/, check it, and try it in an empty environment"
	@echo "make mutants    plant small faults and see whether the tests notice (hours)"
	@echo "make memory-maze  the original Memory Maze for Pythons that it does not run on"
	@echo "make lint       lint, format and types alone"
	@echo "make clean      remove the environment and caches; runs/ stays"

# The stamps make installation happen again only when what is to be installed has changed, and the
# environment anew for another Python.
$(VENV)/.created-$(VERSION):
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed; name one with make PYTHON=..." >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.created-$(VERSION) pyproject.toml $(CONSTRAINTS)
	$(PIP_INSTALL) ".[train,popgym]"
	@touch $@

$(VENV)/.dev: $(VENV)/.created-$(VERSION) pyproject.toml $(CONSTRAINTS)
	$(PIP_INSTALL) ".[dev]"
	@touch $(VENV)/.demo $@

install: $(VENV)/.dev

demo: $(VENV)/.demo
	$(BIN)/python scripts/demo.py

lint: $(VENV)/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(TEST_WORKERS) $(TESTS)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -n $(TEST_WORKERS) $(TESTS)

$(VENV)/.docs: $(VENV)/.dev
	$(PIP_INSTALL) ".[docs]"
	@touch $@

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# With the memories' own requirements and nothing else: they work, and a command says what is missing.
$(VENV)/.package: $(VENV)/.created-$(VERSION) pyproject.toml $(CONSTRAINTS)
	$(BIN)/python -m pip install --quiet "build>=1.3" "twine>=6.2"
	@touch $@

package: $(VENV)/.package
	rm -rf dist $(VENV)-package
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m venv $(VENV)-package
	$(VENV)-package/bin/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) dist/*.whl
	cd dist && ../$(VENV)-package/bin/python ../tests/installed.py

# By hand, and it goes on where it was stopped; see tests/mutants.py for what MUTANTS may hold.
$(VENV)/.mutants: $(VENV)/.dev
	$(PIP_INSTALL) ".[mutants]"
	@touch $@

mutants: $(VENV)/.mutants
	$(BIN)/python tests/mutants.py $(MUTANTS)

# Its dependency labmaze has no wheel for Python 3.13, and newer sets of ours pin mujoco 4, which breaks
# dm-control: the original runs in an interpreter of its own and needs nothing of ours there.
MAZE_PYTHON ?= $(shell for python in python3.12 python3.11; do \
	$$python -c '' 2>/dev/null && echo $$python && break; done)
$(VENV)-memory-maze/.installed: Makefile
	@"$(MAZE_PYTHON)" -c '' 2>/dev/null || \
		{ echo "Python 3.11 or 3.12 is needed; name one with make MAZE_PYTHON=..." >&2; exit 1; }
	"$(MAZE_PYTHON)" -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet "memory-maze>=1.0.3" "dm-control>=1.0.50" \
		"mujoco>=3.17,<4" "numpy>=2.0" "pillow>=11.0"
	@touch $@

memory-maze: $(VENV)-memory-maze/.installed
	@echo "export SSMRL_MEMORY_MAZE_PYTHON=$(abspath $(VENV)-memory-maze/bin/python)"

clean:
	rm -rf $(VENV) $(VENV)-memory-maze $(VENV)-package .mypy_cache .pytest_cache .ruff_cache build dist site *.egg-info
	find ssmrl scripts tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
