# make tune      makes the environment and runs a sweep on this machine
# make test      makes the environment and passes the tests
# make check     lint, format, types
# make notebooks runs the scripts in notebooks/ and keeps them with their outputs
# PYTHON=python3.12 picks another interpreter; ARGS="model=resnet18 lr=range" another sweep.
PYTHON ?= python3
ARGS ?= model=resnet34 lr=range
VENV := .venv
BIN := $(VENV)/bin
SETUP := setup.cfg pyproject.toml constraints.txt

.PHONY: help tune test slow check notebooks clean
help:
	@sed -n 's/^# //p' Makefile

# A stamp a kind of environment: a second call installs nothing, a changed setup.cfg installs what changed.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("dogbreed needs Python 3.10 or newer, $(PYTHON) is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(SETUP) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(SETUP) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,debug,sagemaker,serve]'
	@touch $@ $(VENV)/.base

tune: $(VENV)/.base
	$(BIN)/python -m launch.tune $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m 'not slow and not gpu'

slow: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(VENV)/.dev
	$(BIN)/python notebooks/build.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
