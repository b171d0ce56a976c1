# `make` lists the targets. The first target that needs .venv creates it; nothing is installed outside of it.

PYTHON ?= python3
PY := .venv/bin/python
INSTALLED := .venv/.installed
TORCH := $(shell grep '^torch==' constraints.txt)
# One process per core, at most four; the tests of a file run in one process, because they share costly fixtures.
# Not reordered: the default begins with the files of most tests and leaves the slowest tests to the end.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
LOWEST := .venv-lowest
PIP := $(PY) -m pip -qq --disable-pip-version-check --no-input

.PHONY: help demo bench gpu-check test test-all test-random test-isolated test-lowest fuzz faults lint types docs clean
.DEFAULT_GOAL := help

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo "  ARGS adds arguments: make demo ARGS=--plan, make test ARGS='tests/audio -x'"

demo: $(INSTALLED) ## transcribe sample speech on this machine, from and to a local S3 endpoint
	@$(PY) -m distil_ray demo $(ARGS)

bench: $(INSTALLED) ## compare speed and WER with other programs (the first call installs them into .bench)
	@$(PY) jobs/benchmark.py engines rounds=1 $(ARGS)

gpu-check: $(INSTALLED) ## check an NVIDIA GPU in ten minutes: tokens, speed, memory, advice; writes .bench/reports/gpu.html
	@$(PY) jobs/benchmark.py gpu-check $(ARGS)

test: $(INSTALLED) ## run the tests, except slow ones
	@$(PY) -m pytest $(PARALLEL) $(ARGS)

test-all: $(INSTALLED) ## run all tests, also slow ones: killed drivers and nodes, whole corpora, sequences of nightly runs
	@$(PY) -m pytest $(PARALLEL) -m '' $(ARGS)

test-random: $(INSTALLED) ## run the tests in random order; SEED=7 sets the seed (default 1)
	@$(PY) -m pytest -p randomly --randomly-seed=$(or $(SEED),1) $(ARGS)

test-isolated: $(INSTALLED) ## run each test file in its own process; ARGS='tests/export tests/pipeline/test_planner.py' selects files
	@$(PY) -m tests.support.isolated $(ARGS)

test-lowest: $(LOWEST)/.installed ## run the tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	@$(LOWEST)/bin/python -m pytest $(PARALLEL) $(ARGS)

fuzz: $(INSTALLED) ## run 5,000 damaged files of ten formats through the decode stage; ARGS='20000 7' sets number and seed
	@$(PY) -m tests.fuzz.decode_stage $(ARGS)

faults: $(INSTALLED) ## run the slow tests that kill drivers and nodes (many minutes)
	@$(PY) -m pytest -s -m slow tests/end_to_end/test_kills.py tests/end_to_end/test_nodes.py tests/assistant_training/test_job.py $(ARGS)

lint: $(INSTALLED) ## check rules and format with ruff
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(INSTALLED) ## check types with mypy --strict
	@$(PY) -m mypy

docs: $(INSTALLED) ## generate docs/configuration.md from the config
	@$(PY) -m distil_ray.config.reference_page > docs/configuration.md

clean: ## remove the files of the demo and all caches; keeps .venv, .venv-lowest and downloaded weights
	rm -rf .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# torch is installed first, with its exact version: pip then prefers the CPU build if an index or folder has one.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: distil_ray needs Python 3.11 or\
	 newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Set another: make PYTHON=/path/to/python3.12 …"; exit 1; }
	@echo "install    .venv with $(TORCH) and the versions in constraints.txt; takes 2 to 5 minutes"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --upgrade pip
	@$(PIP) install $(TORCH)
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

# The lowest versions of the package's own requirements, also where a tool of the tests asks for newer ones. An override
# without the extras of Ray would leave out its dashboard, which has the metrics. The test of the wheel builds it
# without isolation, with the environment's setuptools.
$(LOWEST)/.installed: pyproject.toml constraints.txt
	@echo "install    .venv-lowest with $(TORCH) and else the lowest versions that pyproject.toml allows"
	@$(PYTHON) -m venv --clear $(LOWEST)
	@$(LOWEST)/bin/python -m pip -qq install $(TORCH) uv
	@echo $(TORCH) > $(LOWEST)/torch.txt
	@$(LOWEST)/bin/uv pip compile -q --resolution lowest-direct --override $(LOWEST)/torch.txt -o $(LOWEST)/lowest.txt pyproject.toml
	@sed -i 's/^ray==/ray[data,default]==/' $(LOWEST)/lowest.txt
	@$(LOWEST)/bin/uv pip install -q -p $(LOWEST) --resolution lowest-direct --override $(LOWEST)/lowest.txt \
	 -e '.[dev]' 'setuptools>=77' $$(grep -E '^(hypothesis|pytest)' constraints.txt)
	@touch $@
