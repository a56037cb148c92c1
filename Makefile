# `make reproduce` runs the main job; `make test` runs the tests. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.ready

.PHONY: setup reproduce test lint types bench gpu-check sanitize ledger clean

setup: $(SETUP)

reproduce: $(SETUP)
	$(BIN)/python -m experiments.deep_compression --seeds=0 --record=runs/deep_compression/reproduced.json

test: $(SETUP) lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(SETUP)
	$(BIN)/mypy

# Measures; run it on a quiet machine, then commit the records.
bench: $(SETUP)
	$(BIN)/python -m experiments.bench_lift
	$(BIN)/python -m experiments.bench_step
	$(BIN)/python -m experiments.bench_shrink
	$(BIN)/python -m experiments.bench_quantize
	$(BIN)/python -m experiments.bench_kernels
	$(BIN)/python -m experiments.bench_packed
	$(BIN)/python -m experiments.bench_ops
	$(BIN)/python -m experiments.bench_token

# On a machine with an NVIDIA card: every kernel against float64, and races; then commit the record. $(BIN) has
# jax for CPUs: `$(BIN)/python -m pip install "jax[cuda12]"` first, or give another Python with GPU_PYTHON=.
GPU_PYTHON ?= $(BIN)/python
gpu-check: $(SETUP)
	$(GPU_PYTHON) -m experiments.gpu_check

# The kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer: a wrong access ends them.
sanitize: $(SETUP)
	EFFICIENT_CXXFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m pytest -q tests/kernels -k "not without_a_compiler and not said"

ledger: $(SETUP)
	$(BIN)/python -m experiments.ledger

clean:
	rm -rf $(VENV) build dist *.egg-info

# The environment is built beside its final place's marker: an interrupted set-up is done again.
$(SETUP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "efficient needs Python 3.11 or newer; got `$(PYTHON) --version`. Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $(SETUP)
