# From a bare machine with python3 (3.10 or later, with venv), git, g++ and make.
PYTHON ?= python3
VENV ?= .venv
PYTEST_FLAGS ?= -q
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test test-quick test-all test-slow nightly lint bench native gpu-check baselines roofline readme docs wheel kernel-package clean
.DEFAULT_GOAL := help

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done

demo: $(STAMP)  ## draw a small data set, train on it, evaluate, predict: minutes on two cores
	$(BIN)/yolov9k demo

# A file of tests a process and a thread each: torch's threads spin at their barriers, and two such processes stall each other.
# Without MAKEFLAGS, which would have a make that a test starts ask for the jobs of this one.
RUN := MAKEFLAGS= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Side by side: lint keeps one core busy for a minute.
test: $(STAMP)  ## lint, types and the quick tests, one of every proof among them: minutes
	@$(MAKE) --no-print-directory -j2 lint test-quick

test-quick: $(STAMP)  ## the quick tests alone
	$(RUN) tests --tier quick $(PYTEST_FLAGS)

test-all: test  ## the quick tests, then every benchmark once and the slow tests: half an hour on two cores
	$(MAKE) test-slow

test-slow: $(STAMP)  ## what test-all has beyond test
	$(RUN) bench --benchmark-disable $(PYTEST_FLAGS)
	$(RUN) tests --tier slow $(PYTEST_FLAGS)

nightly: $(STAMP)  ## hours: properties and fuzz with many examples, every architecture; leaves bench/results/nightly, to be committed
	$(BIN)/python -m bench.nightly

lint: $(STAMP)  ## ruff, mypy and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/codespell

bench: $(STAMP)  ## time everything and save a record in bench/results
	$(BIN)/python -m pytest bench --benchmark-storage=file://bench/results --benchmark-autosave $(PYTEST_FLAGS)

native: $(STAMP)  ## recompile csrc/ in place, only what changed
	$(BIN)/python setup.py build_ext --inplace

gpu-check:  ## on a machine with a GPU: build, device tests, sanitizers, benchmarks, one report; installs nothing
	$(PYTHON) bench/gpu_check.py

# BASELINES="--published DIR --ultralytics DIR --libreyolo DIR", and any other flag; bench/baselines/README.md
baselines:  ## on a machine with a GPU: ours beside the published code, Ultralytics and LibreYOLO, where BASELINES says; installs nothing
	for what in train latency val bccd; do $(PYTHON) -m bench.baselines $$what $(BASELINES) || exit; done

roofline:  ## on a machine with a GPU: every kernel of a training step against what the device can do; installs nothing
	$(PYTHON) -m bench.roofline

readme: $(STAMP)  ## write README's measured table and chart from the records in bench/results
	$(BIN)/python -m bench.readme_table
	$(BIN)/python -m bench.readme_chart

docs: $(STAMP)  ## build the documentation into docs/_build; a broken link or reference fails it
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

wheel: $(STAMP)  ## a wheel for each Python 3.10 to 3.13 found, checked by auditwheel, in dist/
	$(BIN)/python -m release.wheels

kernel-package: $(STAMP)  ## the Triton kernels in the layout of Hugging Face's kernels, in dist/kernel-package; nothing is published
	$(BIN)/python -m release.kernel_package

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info yolov9k/_native*.so .pytest_cache .mypy_cache .ruff_cache .benchmarks .hypothesis .cache

# Installed again when the recipe or a compiled source has changed since.
$(STAMP): pyproject.toml constraints.txt setup.py build_backend.py $(wildcard csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "needs Python 3.10 or later; name one: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) lacks venv; Debian, Ubuntu: apt-get install python3-venv python3-dev"; exit 1; }
	@command -v $(firstword $(or $(CXX),g++)) >/dev/null || \
		{ echo "no C++ compiler; Debian, Ubuntu: apt-get install g++"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
