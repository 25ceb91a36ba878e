# The commands of this repository. Each makes the environment that it needs; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --use-pep517
UV     := $(shell command -v uv 2>/dev/null)
BENCH  ?=
# Tests mostly wait for each other and for time: more of them at once than there are cores.
JOBS   ?= 4
SEED   ?=
DURATION ?= 100
MINUTES ?= 30
ROUNDS ?= 10
SCENARIO ?=
COMPILED_TESTS := tests/unit/kernel_proc/p2p tests/unit/kernel_proc/relay tests/unit/kernel_proc/ipc \
  tests/unit/kernel_proc/test_publishing.py tests/unit/kernel_proc/test_node.py tests/unit/kernel_proc/protocols tests/unit/ipc_schema tests/unit/logos_sockets tests/unit/logos_client tests/unit/logos_gateway tests/unit/mapi_proc \
  tests/faults/test_relay_peers.py tests/faults/test_mapi_killed.py $(addprefix tests/integration/test_, relay_nodes.py relay_wire.py \
  kernel_requests.py kernel_events.py client_messaging.py client_kernel.py mapi_messages.py mapi_apps.py mapi_delivery.py gateway_apps.py gateway_security.py)
NPM_DIRS := client/js tests/browser tests/interop/js tests/interop/discv5 tests/interop/sdk tests/bench/js

# Demo, tests and benches start hundreds of processes: compile each module once, out of the tree, even where the
# machine's setting is to keep no bytecode. It is 0.3 s of CPU for each start of a kernel.
ifdef PYTHONDONTWRITEBYTECODE
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache
endif

.DEFAULT_GOAL := help
.PHONY: help env runtime docs-env node clients demo test test-clients test-distributions test-lowest scale compiled pure test-compiled simulate simulate-channels coverage check conformance format docs bench chaos gateway-kills soak lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

# A lock names every package with its hash, and is installed as it stands: nothing is resolved, so nothing that the
# node does not load is asked for, and no compiler.
runtime: $(VENV)/.runtime ## what a node needs in .venv, with locked versions
env: $(VENV)/.dev ## what developing needs in .venv, with locked versions
docs-env: $(VENV)/.docs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one with: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	@echo "making a virtual environment in $(VENV)"
	@$(if $(UV),$(UV) venv --quiet --allow-existing --seed --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))

$(VENV)/.%: requirements/%.lock pyproject.toml client/pyproject.toml | $(BIN)/python
	@echo "installing $$(grep -c '^[a-z0-9]' $<) packages of $<$(if $(UV), with uv)"
	@$(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(PIP)) --no-deps --require-hashes -r $<
	@echo "installing this tree"
	@$(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(PIP)) --no-deps --editable client --editable .
	@touch $@

# Node.js is needed for the other implementations we test against; without it those tests say so and skip.
node:
	@if command -v npm >/dev/null; then for d in $(NPM_DIRS); do \
	  if [ -f $$d/package-lock.json ] && [ ! -f $$d/node_modules/.package-lock.json -o $$d/package-lock.json -nt $$d/node_modules/.package-lock.json ]; then \
	    echo "npm ci in $$d"; (cd $$d && npm ci --silent --no-fund --no-audit && touch node_modules/.package-lock.json) || exit 1; fi; done; \
	else echo "npm not found: the interoperability tests will be skipped"; fi

demo: runtime ## two supervised nodes, an app on each, messages both ways, kill -9, clean up
	$(BIN)/logos demo

clients: env node ## build the clients that need it, where their tools are there
	$(BIN)/python client/conformance/ours.py

test: env node ## all tests but large simulations, compiled clients and installations (under eight minutes on two cores)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

test-distributions: env node ## the wheels in environments of their own, and in empty roots as the images have them
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m distribution tests

test-clients: env node clients ## the clients in Go, C++ and Rust, where their tools are there
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m compiled_client tests

# Installations that resolve for themselves may take any version that pyproject.toml allows; the locks have new ones.
test-lowest: env ## the unit tests with the oldest versions of our dependencies that pyproject.toml allows
	@mkdir -p build
	$(BIN)/uv $(LOWEST) --extra dev pyproject.toml -o build/lowest.txt
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python build/lowest
	$(BIN)/uv pip install --quiet --python build/lowest/bin/python --no-deps -r build/lowest.txt --editable client --editable .
	build/lowest/bin/python -m pytest -q -n $(JOBS) --dist worksteal tests/unit

scale: env ## simulations of a hundred nodes and more, with a clock of their own, and 1,000 seeds of channels
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m simulation tests

# Extension modules beside the sources, which Python then prefers. The same tests pass with and without them.
compiled: env ## compile the message path of all processes in place with mypyc (needs a C compiler)
	@$(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(PIP)) "setuptools>=80,<81"
	$(BIN)/python deploy/compile.py

pure: ## remove what `make compiled` made
	$(or $(wildcard $(BIN)/python),$(PYTHON)) deploy/compile.py --clean

test-compiled: compiled ## the tests of the compiled rooms on the compiled build
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(COMPILED_TESTS); code=$$?; $(MAKE) --no-print-directory pure; exit $$code

simulate: env docs-env ## relay networks of up to 10,000 nodes in simulated time, with plots: make simulate [SCENARIO=published]
	$(BIN)/python -m tests.simulation $(SCENARIO)
	$(BIN)/python -m tests.simulation.plots

simulate-channels: env ## reliable channels on a bad network, by seeds: make simulate-channels [FIRST=40000] [SEEDS=100000]
	$(BIN)/python -m tests.simulation.channels --first $(or $(FIRST),0) --seeds $(or $(SEEDS),1000)

coverage: env node ## branch coverage of the unit tests, told for each room
	$(BIN)/python -m tests.coverage_rooms --jobs $(JOBS)

docs: env docs-env ## the documentation and the clients' reference as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

check: env ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python client/make_blocking.py --check
	$(BIN)/python client/make_js_contract.py --check
	$(BIN)/python client/make_go_contract.py --check
	$(BIN)/python client/make_cpp_contract.py --check
	$(BIN)/python client/make_rust_contract.py --check
	@if command -v cargo >/dev/null; then cd client/rust && cargo fmt --check; fi
	$(BIN)/lint-imports --no-cache

format: env ## format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

conformance: env node ## hold the clients to the contract: client/conformance
	$(BIN)/python client/conformance

bench: env node ## all benchmarks, or one: make bench BENCH=relay
	$(BIN)/python -m tests.bench $(BENCH)

# The seeds take 40 minutes on two cores; a run that was stopped goes on where it was, unless the code has changed.
chaos: env ## three nodes and two stores in trouble, then 100,000 seeds of channels: make chaos [SEED=7] [DURATION=600] [MOVES=clock,together] [SEEDS=0]
	$(BIN)/python -m tests.chaos --seconds $(DURATION) $(if $(SEED),--seed $(SEED)) $(if $(MOVES),--moves $(MOVES))
	$(BIN)/python -m tests.simulation.channels --seeds $(or $(SEEDS),100000) --resume build/channel-seeds.json

gateway-kills: env ## gateway, Messaging API and kernel killed in turn under REST sends and SSE: make gateway-kills [ROUNDS=30]
	$(BIN)/python -m tests.support.gateway_kills --rounds $(ROUNDS)

soak: env ## steady load for half an hour, on two nodes and on a network that comes and goes: make soak [MINUTES=4]
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

LOWEST := pip compile --quiet --resolution lowest-direct --no-emit-package logos-client --no-header --no-annotate
COMPILE := pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-package logos-client \
  --no-emit-index-url --no-header --no-annotate
lock: env ## resolve requirements/*.lock again: make lock [UPGRADE=--upgrade]
	$(BIN)/uv $(COMPILE) $(UPGRADE) pyproject.toml -o requirements/runtime.lock
	$(BIN)/uv $(COMPILE) $(UPGRADE) --extra dev -c requirements/runtime.lock pyproject.toml -o requirements/dev.lock
	$(BIN)/uv $(COMPILE) $(UPGRADE) --group docs -c requirements/dev.lock pyproject.toml -o requirements/docs.lock

clean: ## remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	for d in $(NPM_DIRS); do rm -rf $$d/node_modules; done
