# `make` lists the targets. The first one that needs it sets up .venv; nothing else on the machine is touched.

PYTHON ?= python3
PY := .venv/bin/python
INSTALLED := .venv/.installed
TORCH := $(shell grep '^torch==' constraints.txt)
# One process a core, at most four; a file's tests stay together, because they share what is costly to make.
# In alphabetical order: the default begins with the files of most tests and leaves the slowest tests to the end.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PIP := $(PY) -m pip -qq --disable-pip-version-check --no-input

.PHONY: help demo bench test test-all test-random test-isolated fuzz faults lint types docs clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo "  ARGS=… is passed on: make demo ARGS=--plan, make test ARGS='tests/audio -x'"

demo: $(INSTALLED) ## transcribe sample speech from s3:// to s3:// on this machine
	@$(PY) -m distil_ray demo $(ARGS)

bench: $(INSTALLED) ## compare speed and WER with other programs, which are installed into .bench the first time
	@$(PY) jobs/benchmark.py engines rounds=1 $(ARGS)

test: $(INSTALLED) ## the tests, without those that take long
	@$(PY) -m pytest $(PARALLEL) $(ARGS)

test-all: $(INSTALLED) ## all tests, with those that take long: killed drivers and nodes, whole corpora, several nights
	@$(PY) -m pytest $(PARALLEL) -m '' $(ARGS)

test-random: $(INSTALLED) ## the tests in a random order: SEED=7 gives the same again (1)
	@$(PY) -m pytest -p randomly --randomly-seed=$(or $(SEED),1) $(ARGS)

test-isolated: $(INSTALLED) ## every test file in a process of its own; ARGS='tests/export tests/pipeline/test_planner.py' for some
	@$(PY) -m tests.support.isolated $(ARGS)

fuzz: $(INSTALLED) ## 5,000 damaged files of ten formats through the decode stage; ARGS='20000 7' for others
	@$(PY) -m tests.fuzz.decode_stage $(ARGS)

faults: $(INSTALLED) ## a driver killed 25 times, and 3 times with a real model; a node killed: many minutes
	@$(PY) -m pytest -s -m slow tests/end_to_end/test_kills.py tests/end_to_end/test_nodes.py tests/assistant_training/test_job.py $(ARGS)

lint: $(INSTALLED) ## ruff: rules and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(INSTALLED) ## mypy, strict
	@$(PY) -m mypy

docs: $(INSTALLED) ## docs/configuration.md, made from the settings' models
	@$(PY) -m distil_ray.config.reference_page > docs/configuration.md

clean: ## remove the demo's files and all caches; .venv and downloaded weights stay
	rm -rf .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# torch first and by its exact version: pip then takes the CPU build where an index or a folder of wheels offers one.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: distil_ray needs Python 3.11 or\
	 newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=/path/to/python3.12 …"; exit 1; }
	@echo "install    .venv, with $(TORCH) and the versions of constraints.txt; 2 to 5 minutes the first time"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --upgrade pip
	@$(PIP) install $(TORCH)
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@
