# make install | test | lint | docs | wheel | demo | sanitize | gpu-check
# PYTHON=python3.11: the interpreter of .venv; JOBS=8: processes of builds and of test
PYTHON ?= python3
SEED ?= 0
JOBS ?= 2
BIN := .venv/bin

# Bytecode is made of what is imported (pip would compile all of torch, three quarters of a minute) and kept for the
# processes after, whatever the environment says.
export PYTHONDONTWRITEBYTECODE =

.PHONY: install test lint style records variants docs wheel demo sanitize gpu-check clean

install: .venv/installed

.venv/installed: constraints.txt pyproject.toml setup.py $(wildcard csrc/* csrc/cuda/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	SALCR_REQUIRE_CPP=1 SALCR_BUILD_JOBS=$(JOBS) $(BIN)/python -m pip install --quiet --no-compile \
		--constraint constraints.txt --editable '.[test,docs,browser]'
	touch $@

test: install
	$(BIN)/python -m pytest -m 'not serial' --numprocesses $(JOBS) --dist worksteal
	$(BIN)/python -m pytest -m serial $$(grep -rl --include='test_*.py' mark.serial tests)

lint: style records variants

style: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

records: install
	$(BIN)/python -m benchmarks.report --check
	$(BIN)/python -m pytest -q tests/committed_records.py

# How many kernels the tests compile on a GPU, which takes half a minute to count.
variants: install
	$(BIN)/python -m pytest -q tests/kernel_variants.py

# build/docs/index.html: the pages of docs/ and the API reference; a reference to what is not there is an error.
docs: install
	$(BIN)/python -m sphinx -q --fail-on-warning -E docs build/docs

# build/wheels/*.whl, used once in an environment that has nothing else of ours.
wheel: install
	rm -rf build/wheels build/wheel-env
	SALCR_REQUIRE_CPP=1 SALCR_BUILD_JOBS=$(JOBS) $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheels .
	$(BIN)/python -m venv build/wheel-env
	build/wheel-env/bin/python -m pip install --quiet --no-compile --constraint constraints.txt torch build/wheels/*.whl
	cd build && wheel-env/bin/python ../tests/installed.py

# The same seed gives the same figures where processor, versions and number of threads are the same. With others sums are
# rounded otherwise, labels at the edge of a cluster change, and the figures move; docs/demo.md says by how much.
demo: install
	OMP_NUM_THREADS=2 $(BIN)/salcr demo --seed $(SEED) --out runs/demo-$(SEED) --resume

# The tests of the C++ backends, and of the CUDA solver on the host, under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: install
	SALCR_SANITIZE=address,undefined SALCR_REQUIRE_CPP=1 SALCR_BUILD_JOBS=$(JOBS) $(BIN)/python -m pip install --quiet --no-compile --no-deps --upgrade \
		--target build/sanitized .
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 SALCR_SANITIZE=address,undefined JOBS=$(JOBS) $(BIN)/python -m tests.sanitized build/sanitized

# On the machine's own environment (a CUDA torch is not ours to install): python3 unless PYTHON says otherwise.
# PART=install|tests|sanitize|bench|epoch|tune for one part; a call ends within 9 minutes, the next goes on where it stopped.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check $(if $(PART),--part $(PART)) $(if $(RESULTS),--out $(RESULTS))

clean:
	rm -rf .venv build *.egg-info salcr/_C*.so salcr/_cuda*.so
