# Everything runs in .venv, made on first use. PYTHON=python3.12 picks the interpreter, ARGS="..." adds flags.
PYTHON ?= python3
WORKERS ?= 2
OUT ?= runs/gpu-check
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint types format bench bench-data gpu-check compile-check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: .venv/installed  ## train a tiny Gecko on real text: a few minutes on 2 CPU cores
	@echo "== Training experiments/quickstart.yaml"
	$(BIN)/gecko-lab fit --config quickstart.yaml $(ARGS)

test: lint types  ## lint, types and tests (ARGS="-k cema" picks some)
	@echo "== Tests, in $(WORKERS) processes of one thread each"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: .venv/installed-dev  ## check rules and formatting (ruff)
	@echo "== Rules and formatting"
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed-dev  ## check types (mypy)
	@echo "== Types"
	$(BIN)/mypy -p gecko_lab

format: .venv/installed-dev  ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/installed  ## time the kernels beside their references
	@echo "== Timing the kernels"
	$(BIN)/gecko-lab bench kernels $(ARGS)

bench-data: .venv/installed  ## time the data loader beside LitData's: about 3 minutes on 2 CPU cores
	@echo "== Timing the data loader"
	$(BIN)/gecko-lab bench data $(ARGS)

# Where .venv cannot be made, PYTHON is one that has torch, triton, pytest, hypothesis, numpy and rich.
gpu-check:  ## test and time the kernels compiled, on a GPU: 9 minutes at most (OUT=FOLDER for what it finds)
	@echo "== Testing and timing the kernels on a GPU"
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m gecko_lab.bench.gpu_check --out "$(OUT)" $(ARGS)

compile-check: .venv/installed  ## compile every launch of every Triton kernel for sm_80, sm_90 and gfx942: 15 minutes, no GPU
	@echo "== Compiling the kernels"
	$(BIN)/python -m gecko_lab.kernels.compile_all $(ARGS)

clean:  ## remove the environment, caches and build outputs; runs/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)' here: install Python 3.10 or newer, or name one with 'make PYTHON=...'." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$$($(PYTHON) --version) is too old: gecko-lab needs Python 3.10 or newer ('make PYTHON=python3.12 ...' names one)." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it (on Debian and Ubuntu the package python3-venv)." >&2; exit 1; }
	@echo "== Creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

# Some archives lose the links that setup and imports go through: put them back.
.venv/installed: pyproject.toml setup.py | .venv/bin/python
	@echo "== Installing gecko-lab and what it needs (once: a minute or more, about 2 GB)"
	@for folder in components data experiments kernels; do test -d gecko_lab/$$folder || ln -sfn ../$$folder gecko_lab/$$folder; done
	$(BIN)/python -m pip install --disable-pip-version-check --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "== Installing the development tools (once)"
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@
