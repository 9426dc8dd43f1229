# make demo    the whole thing once, on this machine, in under two minutes
# make test    everything that is checked (make coverage: the same, with how much of the code it executes)
# make serve   the service, until Ctrl-C
# make slurm   a real Slurm cluster on this machine (root, Debian), with your shell in it; RUN="make demo" runs that
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 4

.PHONY: setup demo serve slurm test unit lint types imports contract coverage test-gpu bench bench-slurm clean

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "orc needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/python demo/demo.py

serve: setup
	$(BIN)/orc serve

slurm: setup
	tests/packages.sh slurm
	$(BIN)/python -m tests.support.realslurm --accounting $(if $(RUN),-- $(RUN))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

unit: setup
	$(BIN)/python -m pytest tests/unit -n logical

contract: setup
	tests/packages.sh slurm
	$(BIN)/python -m pytest tests/contract -n $(WORKERS)

test: lint types imports
	tests/packages.sh
	$(BIN)/python -m pytest -n $(WORKERS) -m "not alone"
	$(BIN)/python -m pytest -m alone

# Apart from `test`: measuring takes up to two thirds more time (Python 3.11 calls a tracer for each call).
coverage:
	rm -f .coverage .coverage.*
	$(MAKE) test PYTEST_ADDOPTS="$(PYTEST_ADDOPTS) --cov --cov-append --cov-report="
	$(BIN)/coverage report --skip-covered --fail-under=94

test-gpu: setup
	$(BIN)/python -m pytest -m gpu tests/gpu -v -s

bench: setup
	$(BIN)/python benchmarks/api.py

bench-slurm: setup
	$(BIN)/python -m benchmarks.slurm

clean:
	rm -rf $(VENV) .demo dist build .coverage* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
