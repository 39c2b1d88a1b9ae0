# One command a habit, the same in CI. Needs Python 3.11, git and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
BENCH ?= loss length
BENCHES := $(sort $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/_%,$(wildcard benchmarks/[a-z]*.py))))
PIP_TOOLS := pip-tools==7.6.2

.DEFAULT_GOAL := help
.PHONY: help install train test lint format ui bench docs lock clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

# The lock pins every package by hash but torch, whose builds (CPU, CUDA) differ by machine: pip picks that build, and
# what it alone needs, at the version pinned in pyproject.toml.
$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -o 'torch==[0-9.]*' pyproject.toml)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

install: $(VENV)/installed  ## make .venv from the lock
	@echo "environment ready in $(VENV)" >&2

train: install  ## the whole road on MovieLens-100K; options by ARGS='--model.width 128'
	$(BIN)/python jobs/train.py $(ARGS)

# Two files at a time, a thread each: most of the suite waits for processes to start, but with three at a time Ray's nodes
# time out as they start. In the order of tests/conftest.py, where xdist would begin with the files of most tests. In one
# process: ARGS='-n 0'.
test: install  ## the whole test suite; a part by ARGS='tests/unit'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: install  ## MLflow's UI on the runs of ./var, at http://127.0.0.1:5000
	$(BIN)/mlflow ui --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/var/mlflow.db}

bench: install  ## benchmarks that take minutes; others by BENCH=rating, with options by ARGS
	@for name in $(BENCH); do \
		test -f "benchmarks/$$name.py" || { echo "error: BENCH=$$name: give some of $(BENCHES)" >&2; exit 2; }; done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	for name in $(BENCH); do $(BIN)/python benchmarks/$$name.py $(ARGS) || exit; done

docs: install  ## the documentation site, strictly, in build/site
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs build --strict

lock:  ## write requirements.lock anew from pyproject.toml
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet $(PIP_TOOLS)
	build/lock/bin/pip-compile --quiet --extra pipelines --extra server --extra docs --extra dev --generate-hashes --strip-extras --no-annotate --no-header \
		--unsafe-package torch --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.lock pyproject.toml

clean:  ## remove caches and build leftovers; .venv and var stay
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
