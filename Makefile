# The commands of this repository. Each makes the environment that it needs; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
BENCH  ?=
# Tests mostly wait for each other and for time: more of them at once than there are cores.
JOBS   ?= 3
SEED   ?=
DURATION ?= 100
MINUTES ?= 30
NPM_DIRS := client/js tests/interop/js tests/interop/discv5 tests/interop/sdk tests/bench/js

.DEFAULT_GOAL := help
.PHONY: help env node demo test check format bench chaos soak lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

env: $(READY) ## the Python environment in .venv, with locked versions

$(READY): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one with: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# Node.js is needed for the other implementations we test against; without it those tests say so and skip.
node:
	@if command -v npm >/dev/null; then for d in $(NPM_DIRS); do \
	  if [ -f $$d/package-lock.json ] && [ ! -f $$d/node_modules/.package-lock.json -o $$d/package-lock.json -nt $$d/node_modules/.package-lock.json ]; then \
	    echo "npm ci in $$d"; (cd $$d && npm ci --silent --no-fund --no-audit && touch node_modules/.package-lock.json) || exit 1; fi; done; \
	else echo "npm not found: the interoperability tests will be skipped"; fi

demo: env ## two supervised nodes, an app on each, messages both ways, kill -9, clean up
	$(BIN)/logos demo

test: env node ## all tests (under ten minutes on two cores)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

check: env ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: env ## format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env node ## all benchmarks, or one: make bench BENCH=relay
	$(BIN)/python -m tests.bench $(BENCH)

chaos: env ## three nodes and a store, killed and cut for three minutes: make chaos [SEED=7] [DURATION=600]
	$(BIN)/python -m tests.chaos --seconds $(DURATION) $(if $(SEED),--seed $(SEED))

soak: env ## steady load for half an hour, on two nodes and on a network that comes and goes: make soak [MINUTES=4]
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

lock: env ## resolve requirements/dev.lock anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-emit-index-url --no-header --upgrade pyproject.toml -o requirements/dev.lock

clean: ## remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	for d in $(NPM_DIRS); do rm -rf $$d/node_modules; done
