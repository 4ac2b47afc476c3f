# One target per thing that a person does here. `make help` lists them.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1|/' | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

.PHONY: install
install: $(STAMP) ## Make .venv with everything locked in requirements.lock

# uv is installed into the environment from its own locked requirement, so a machine needs only Python and make.
$(STAMP): requirements.lock tools/uv/requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is needed, $$($(PYTHON) --version 2>&1) found; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "make: Python's venv module is needed (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Installing the locked packages into $(VENV)"
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tools/uv/requirements.txt
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: lock
lock: $(STAMP) ## Lock the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile --quiet --universal --upgrade --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --extra local --group dev pyproject.toml -o requirements.lock

.PHONY: demo
demo: $(STAMP) ## Run the reference system on real sidecars, place the orders of the demo file, and check what becomes of them
	@$(BIN)/apibase demo $(ARGS)

.PHONY: up
up: $(STAMP) ## Run the reference system until Ctrl-C
	@$(BIN)/apibase up $(ARGS)

.PHONY: test
test: $(STAMP) ## Unit tests, contract and sidecar tests on daprd 1.18
	@$(BIN)/python -m apibase.local.binaries
	@$(BIN)/pytest -m "not full" $(ARGS)

.PHONY: test-full
test-full: $(STAMP) ## Everything, and the time that each part takes
	@$(BIN)/python -m apibase.local.binaries 1.18 1.14 zipkin vault
	@$(BIN)/pytest --durations=15 $(ARGS)

.PHONY: bench
bench: $(STAMP) ## Measure again what docs/benchmarks/ says; leave the machine alone meanwhile
	@$(BIN)/python -m tests.bench.waiting_handlers $(ARGS)
	@$(BIN)/python -m tests.bench.chain $(ARGS)

.PHONY: bench-chain
bench-chain: $(STAMP) ## What the chain costs a call, against raw gRPC and the SDK's app; ARGS=--memory: a million calls
	@$(BIN)/python -m tests.bench.chain $(ARGS)

.PHONY: contract-table
contract-table: $(STAMP) ## Run the contract suite on every side, and write docs/contract-suite.md
	@$(BIN)/python -m apibase.local.binaries 1.18 1.14
	@$(BIN)/pytest --quiet --contract-table docs/contract-suite.md tests/contract $(ARGS)

.PHONY: criteria
criteria: $(STAMP) ## The table of all criteria with the tests that carry them
	@$(BIN)/pytest --quiet --no-header --criteria tests

.PHONY: protos
protos: $(STAMP) ## Fetch the contracts that ours import, for buf and the generator
	@$(BIN)/python tools/fetch_protos.py

.PHONY: gen
gen: protos ## Generate what is generated: code and descriptors of the contracts, the configuration reference
	@$(BIN)/apibase gen --protos protos --protos .protos/protovalidate --out generated
	@$(BIN)/python tools/component_stubs.py
	@$(BIN)/python tools/configuration_reference.py

.PHONY: accept
accept: gen ## Accept the contracts as they are: what `make check` compares later changes with
	@$(BIN)/apibase breaking --accept

.PHONY: format
format: $(STAMP) ## Format code and contracts
	@$(BIN)/ruff format service tests tools
	@$(BIN)/ruff check --fix --quiet service tests tools || true
	@$(BIN)/buf format --write protos

.PHONY: check
check: protos ## Lint, types, layers, contracts, and that generating again changes nothing
	@$(BIN)/ruff format --check --quiet service tests tools >/dev/null || { $(BIN)/ruff format --check service tests tools; echo "make: \`make format\` does that" >&2; exit 1; }
	$(BIN)/ruff check --quiet service tests tools
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/apibase gen --protos protos --protos .protos/protovalidate --out generated --check
	$(BIN)/python tools/component_stubs.py --check
	$(BIN)/buf breaking protos --against protos/accepted.binpb
	$(BIN)/apibase breaking
	$(BIN)/python tools/configuration_reference.py --check

.PHONY: clean
clean: ## Remove what was made here, but not the cache of binaries
	rm -rf $(VENV) .protos .apibase .pytest_cache .mypy_cache .ruff_cache dist
