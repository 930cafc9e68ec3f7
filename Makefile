# `make help` lists the targets. Everything runs in .venv, which `make setup` makes and every target keeps current.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# The tests start some five hundred processes: where nothing compiled were kept, each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
ARGS ?=
N ?= 20
SEEDS ?= 100
WORKERS ?= 4

.PHONY: help setup demo demo-drones test check bench crash sim images test-images manual newest advisories proto lock format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: ## make .venv from the locked requirements (PYTHON=... picks the interpreter)
	@.ci/setup

demo: setup ## one cloud, three edges, one terminal: faults, and a table that proves nothing was lost (ARGS=...)
	@$(BIN)/python -m examples.demo $(ARGS)

demo-drones: setup ## the drones sample: two sites and a cloud on a live map, an outage, and a proof (ARGS=...)
	@$(BIN)/python -m examples.drones $(ARGS)

test: setup ## every test that belongs to a change (ARGS=... goes to pytest, WORKERS=0 runs one at a time)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

check: setup ## format, lint, types, import rules, then exactly what `make test` runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@$(MAKE) test

bench: setup ## the speed and memory tables (minutes; wants an idle machine)
	@$(BIN)/python -m tests.bench $(ARGS)

crash: setup ## kill -9 at every named fail point, then N times at random under load
	@$(BIN)/python -m tests.crash --kills $(N) $(ARGS)

sim: setup ## deterministic simulation of SEEDS random seeds
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

images: ## build the container images
	@containers/build.sh

test-images: images ## run the images and send events through them from outside
	@containers/test.sh

manual: setup ## man pages and completion scripts of the commands, in build/share
	@$(BIN)/python .ci/manual.py $(ARGS)

newest: ## border, carriers and codec on the newest versions that pyproject.toml allows (needs a package index)
	@.ci/newest $(ARGS)

advisories: ## the locked requirements against public advisories; exit status 1 = found, 2 = could not be asked (needs the network)
	@.ci/advisories $(ARGS)

proto: setup ## generate the message classes from protos/
	@$(BIN)/python .ci/generate_messages.py

lock: setup ## write requirements/*.txt (UPGRADE=1 takes newer versions; needs a package index)
	@.ci/lock $(BIN)/python

format: setup ## format the code and apply safe lint fixes
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

clean: ## remove .venv and every cache
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
