# Every target works on a bare machine with Python 3.11 or newer: .venv is made, and remade when pyproject.toml changes.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help install train test test-all test-gpu check format bench clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(READY)  ## create .venv with the tested versions

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -c 'import torch, torchvision'
	touch $(READY)

train: $(READY)  ## train with the defaults: digits, a multilayer perceptron, Adam (ARGS="model=cnn" adds overrides)
	$(BIN)/python train.py $(ARGS)

test: $(READY)  ## the tests, under five minutes on two cores (ARGS="-k csv" adds options)
	$(BIN)/python -m pytest -n auto $(ARGS)

test-all: $(READY)  ## the tests, the slow ones too, and the packages that only these need
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[all]'
	$(BIN)/python -m pytest -n auto -m 'not gpu' $(ARGS)

test-gpu: $(READY)  ## what needs a GPU
	$(BIN)/python -m pytest -m gpu $(ARGS)

check: $(READY)  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)  ## format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)  ## the benchmarks, one after another; they print ratios
	set -e; for name in startup step evaluate growth reliability curvature sweep callbacks distributed; do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done

clean:  ## remove the environment and caches; outputs/ and data/ stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build src/*.egg-info
