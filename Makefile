# make install | test | lint | demo | gpu-check        (PYTHON=python3.11 picks the interpreter of .venv)
PYTHON ?= python3
SEED ?= 0
BIN := .venv/bin

.PHONY: install test lint demo gpu-check clean

install: .venv/installed

.venv/installed: constraints.txt pyproject.toml setup.py $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	SALCR_REQUIRE_CPP=1 $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

demo: install
	$(BIN)/salcr demo --seed $(SEED) --out runs/demo-$(SEED) --resume

# On the machine's own environment (a CUDA torch is not ours to install): python3 unless PYTHON says otherwise.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check

clean:
	rm -rf .venv build *.egg-info salcr/_C*.so
