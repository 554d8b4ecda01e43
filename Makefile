# `make help` lists the commands. Each sets up what it needs in .venv; a second run is fast.
#
#   PYTHON     which interpreter makes the environments (3.11 or newer)
#   PIP_FLAGS  more for pip, such as the index of the CPU-only builds of torch
#   JOBS       processes of the test suite
PYTHON ?= python3
PIP_FLAGS ?=
JOBS ?= 2
SEED ?= 0
RUN ?= runs/demo-$(SEED)

BIN := .venv/bin
BENCH := .venv-bench/bin
PIP := -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS)
LOCKED := pyproject.toml constraints.txt
# Every extra that the tests use.
EXTRAS := dev,all

# Tests run in several processes of one thread each; everything else has all cores.
export OMP_NUM_THREADS ?= 1
CORES := $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu)

.DEFAULT_GOAL := help
.PHONY: help demo test lint types results proofs bench clean

help: ## these lines
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/demo.stamp ## train V, M and C in ViZDoom, dream, wake up, and show the page
	OMP_NUM_THREADS=$(CORES) $(BIN)/reverie train world_models_2018.doom_quick --seed $(SEED) --out $(RUN)
	$(BIN)/reverie report $(RUN) --open

test: lint types ## lint, types and the test suite
	$(BIN)/python -m pytest -n $(JOBS)

lint: .venv/dev.stamp ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/dev.stamp ## pyright on the package
	$(BIN)/pyright

results: .venv/demo.stamp ## print the table of results/ and renew docs/results.md and README.md
	$(BIN)/python scripts/results.py

proofs: .venv/dev.stamp ## measure the learning claims again: hours; runs in runs/ are gone on with
	@set -e; for claim in demo transfer temperature; do \
	  OMP_NUM_THREADS=$(CORES) $(BIN)/python proofs/doom.py $$claim; \
	done
	OMP_NUM_THREADS=1 $(BIN)/python proofs/dreamer.py kalman
	OMP_NUM_THREADS=1 $(BIN)/python proofs/jepa.py two_rooms
	OMP_NUM_THREADS=1 $(BIN)/python proofs/bench.py two_rooms --budget 1m
	OMP_NUM_THREADS=1 $(BIN)/python proofs/bench.py cartpole --budget 1m
	$(BIN)/python proofs/player.py rate --run runs/doom-0
	$(BIN)/python proofs/player.py fuzz

bench: .venv-bench/bench.stamp ## time the rivals beside us, in an environment of their own
	@set -e; for file in $$(ls benchmarks/*.py | grep -v harness.py); do \
	  echo "== $$file"; OMP_NUM_THREADS=$(CORES) $(BENCH)/python $$file; \
	done

clean: ## remove the environments and caches; runs and results stay
	rm -rf .venv .venv-bench build dist .pytest_cache .ruff_cache .numba_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The package with the demo's game; the stamp is newer than what it was made of.
.venv/demo.stamp: $(LOCKED)
	$(PYTHON) scripts/check_system.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) -c constraints.txt -e '.[doom]'
	touch $@

.venv/dev.stamp: $(LOCKED)
	$(PYTHON) scripts/check_system.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@ .venv/demo.stamp

# The rivals come without their dependencies, so that torch stays the one of constraints.txt.
.venv-bench/bench.stamp: $(LOCKED) benchmarks/requirements.txt
	$(PYTHON) scripts/check_system.py
	test -x $(BENCH)/python || $(PYTHON) -m venv .venv-bench
	$(BENCH)/python $(PIP) -c constraints.txt -e '.[doom,data]'
	$(BENCH)/python $(PIP) --no-deps -r benchmarks/requirements.txt
	touch $@
