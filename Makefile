# Everything from a fresh clone: needs git, make and Python 3.11, 3.12 or 3.13; uv is used if it is there.
# Nothing is written outside this folder: caches live in $(CACHE), state in FORECASTING_HOME (.forecasting).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CACHE := $(CURDIR)/.forecasting/cache
VENV := .venv
# scripts in .venv/bin begin with the interpreter's path, and the kernel cuts such a line at 127 characters: use -m
PYTHON := $(VENV)/bin/python
AREA ?=
# how many tests run at a time, those that share a deployment on one worker: tests/conftest.py
JOBS ?= 2
PYTEST = -m pytest --numprocesses $(JOBS)
SEEDS ?= 5

# what `make bench` was asked for, as options of its command
BENCH = $(and $(DATA),--data "$(DATA)") $(and $(CUTOFF),--cutoff $(CUTOFF)) $(and $(ORIGINS),--origins $(ORIGINS)) \
	$(and $(SERIES),--series $(SERIES)) $(and $(PAGE),--page "$(PAGE)")

export UV_CACHE_DIR := $(CACHE)/uv
export PIP_CACHE_DIR := $(CACHE)/pip
export XDG_CACHE_HOME := $(CACHE)/xdg
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

# when the command began, for the demo's account of its time
export FORECASTING_BEGAN := $(shell date +%s)

unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONHOME
unexport VIRTUAL_ENV
unexport PYTHONPATH

.PHONY: help demo up bench bench-demo bench-m5 bench-orange-juice test test-kill test-docs test-homes test-browser test-contracts test-workflows test-bench ci-models ci-deploy-staging ci-release lint check lock clean install install-dev

help:  ## Show this list.
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: install  ## Run four customers through a real Airflow and print what came out.
	@$(PYTHON) -m forecasting demo

up: install  ## Run Airflow on this machine until Ctrl-C; prints address and login.
	@$(PYTHON) -m forecasting up

check: install  ## Check customers, contracts and settings.
	@$(PYTHON) -m forecasting check

test: install-dev  ## Run the tests; AREA=tests/store runs a part.
	@$(PYTHON) $(PYTEST) -m "not kill and not homes and not docs and not browser and not bench" $(AREA)

test-kill: install-dev  ## Run the tests that kill processes many times over.
	@$(PYTHON) $(PYTEST) -m kill tests

test-docs: install-dev  ## Run what the documentation shows against a deployment.
	@$(PYTHON) $(PYTEST) -m docs tests/docs

test-homes: install-dev  ## Run the tests that need whole deployments, a live Airflow, a second home, or a bad network.
	@$(PYTHON) $(PYTEST) -m homes --durations=15 tests

test-browser: install-dev  ## Run the tests of the Forecasts pages and of `plot` in Chromium; SCREENSHOTS=folder keeps what it saw.
	@$(PYTHON) $(PYTEST) -m browser --durations=5 tests/plugins tests/cli/test_plot_page.py

bench: $(VENV)/bench/.installed  ## Compare forecasts on a customer: CUSTOMER_YAML=file; DATA=folder, ORIGINS=6, SERIES=50, PAGE=file.
	@$(VENV)/bench/bin/python -m benchmarks.bench $(BENCH) -- $(or $(CUSTOMER_YAML),$(error bench: name a customer file: make bench CUSTOMER_YAML=dags/customers/pasta.yaml))

bench-demo: $(VENV)/bench/.installed  ## The same for the demo's customers.
	@$(VENV)/bench/bin/python -m benchmarks.bench --demo $(BENCH)

test-bench: $(VENV)/bench/.installed  ## Run the tests of the benchmarks with all that they compare with.
	@$(VENV)/bench/bin/python $(PYTEST) tests/benchmarks

test-contracts: $(VENV)/contracts/.installed  ## Have another tool, datacontract-cli, check the data contracts.
	@tools/lint-contracts $(VENV)/contracts/bin/python data_contracts/*.odcs.yaml

test-workflows: $(VENV)/workflows/.installed  ## Have actionlint and zizmor check the workflows.
	@tools/lint-workflows $(VENV)/workflows/bin .github/workflows/*.yaml

bench-orange-juice: install  ## Score the orange juice protocol on DATA=folder of yx.parquet; SEEDS=1, TUNE=n earlier rounds.
	@test -n "$(DATA)" || { echo "DATA=folder is missing: the one that holds yx.parquet (R package bayesm)" >&2; exit 2; }
	@$(PYTHON) -m benchmarks.orange_juice.run "$(DATA)" --seeds $(SEEDS) $(if $(TUNE),--tune $(TUNE)) $(if $(PAGE),--page "$(PAGE)")

ci-models: install  ## Train what a change since BASE=main touches, on both sides, and compare; SAMPLE=60, REPORT=file.
	@tools/ci-models $(PYTHON)

ci-deploy-staging: install  ## Take recipes that win in dev to staging; TARGET_ENV=file, BASE=main: only what changed.
	@tools/ci-promote $(PYTHON) staging

ci-release: install  ## Take what competes in staging to prod; TARGET_ENV=file.
	@tools/ci-promote $(PYTHON) prod

bench-m5: install  ## Forecast M5 by the product's own path; DATA=folder ORIGIN=1857|1885|1913|1941 OUT=file [SERIES=n].
	@$(PYTHON) -m benchmarks.m5 $(if $(DATA),--data "$(DATA)") $(if $(ORIGIN),--origin $(ORIGIN)) $(if $(OUT),--out "$(OUT)") $(if $(SERIES),--series $(SERIES)) $(if $(BENCH_CACHE),--cache "$(BENCH_CACHE)") $(if $(PAGE),--page "$(PAGE)")

lint: install-dev  ## Run ruff, mypy, import-linter and `forecasting check`.
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy --strict forecasting
	@$(PYTHON) -c 'from importlinter.cli import lint_imports_command as lint; lint()'
	@$(PYTHON) -m forecasting check

lock:  ## Write the lock files anew, keeping the versions they hold (needs uv; UPGRADE=--upgrade moves them).
	@tools/lock $(UPGRADE)

clean:  ## Remove the virtual environment, caches and all local state, the embedded warehouse included.
	@tools/clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: requirements.lock requirements-uv.lock tools/install
	@tools/install requirements.lock
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock requirements-uv.lock tools/install
	@tools/install requirements-dev.lock
	@touch $@ $(VENV)/.installed

$(VENV)/workflows/.installed: requirements-workflows.lock requirements-uv.lock tools/install
	@tools/install requirements-workflows.lock $(VENV)/workflows
	@touch $@

$(VENV)/contracts/.installed: requirements-contracts.lock requirements-uv.lock tools/install
	@tools/install requirements-contracts.lock $(VENV)/contracts
	@touch $@

$(VENV)/bench/.installed: requirements-bench.lock requirements-uv.lock tools/install $(VENV)/.installed-dev
	@tools/install requirements-bench.lock $(VENV)/bench
	@touch $@
