# make tune       create the environment and run a sweep on this machine
# make test       unit and integration tests, in parallel
# make contracts  proofs against SageMaker's own toolkits, SDK and service model
# make check      lint, format, types, layers, words
# make words      list words that have a plainer term, and test names that are too long
# make docs       build the documentation site into site/
# make notebooks  run the scripts in notebooks/ and save them with their outputs
# make clean      delete environments, builds and caches
# PYTHON=python3.12 selects another interpreter; ARGS="model=resnet18 lr=range" another sweep; WORKERS=2 test processes.
PYTHON ?= python3
ARGS ?= model=resnet34 lr=range
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
TOOLKITS := .toolkits
SETUP := setup.cfg pyproject.toml constraints.txt

.PHONY: help tune test contracts check words docs notebooks clean
help:
	@sed -n 's/^# //p' Makefile

# One stamp per environment: a second call installs nothing, a changed setup.cfg installs what changed.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("dogbreed needs Python 3.10 or newer, $(PYTHON) is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(SETUP) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(SETUP) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,debug,sagemaker,serve]'
	@touch $@ $(VENV)/.base

# SageMaker's toolkits conflict with other packages, so each has a separate environment.
$(TOOLKITS)/%/.ready: tests/contracts/%-toolkit.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	@touch $@

tune: $(VENV)/.base
	$(BIN)/python -m launch.tune $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest tests --ignore tests/contracts -m 'not slow and not gpu' --numprocesses $(WORKERS) --dist loadscope

contracts: $(VENV)/.dev $(TOOLKITS)/training/.ready $(TOOLKITS)/inference/.ready
	DOGBREED_TOOLKIT=$(abspath $(TOOLKITS))/training DOGBREED_INFERENCE=$(abspath $(TOOLKITS))/inference \
		$(BIN)/python -m pytest tests/contracts
	$(BIN)/python -m pytest -m slow tests --ignore tests/contracts

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.check_words

words: $(VENV)/.dev
	$(BIN)/python -m tests.check_words

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

notebooks: $(VENV)/.dev
	$(BIN)/python notebooks/build.py

clean:
	rm -rf $(VENV) $(TOOLKITS) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
