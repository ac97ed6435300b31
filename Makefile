# `make demo` and `make test` need nothing but this file: scripts/prepare.sh sets up the rest.

PYTHON ?=
export PYTHON

# Processes that run tests, most of which wait for containers much of the time.
TEST_WORKERS ?= 4

PREPARE := scripts/prepare.sh
BIN := $(CURDIR)/.venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test announce venv dev programs mlflow engine lint docs bench clean stop-engine

help:  ## List these targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: venv engine  ## Set everything up and run the tutorial's sweep in containers
	@. ./.engine.env && cd tutorials/basic && PATH="$(BIN):$$PATH" && set -ex && \
	  caliban run --nogpu --experiment_config experiment.json trainer.train && \
	  caliban status

test: announce dev programs mlflow engine lint  ## Set everything up and run every check and test
	. ./.engine.env && $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

announce:
	@echo "make test: sets up what is missing, checks style and types, then runs all tests in" \
	  "$(TEST_WORKERS) processes. They build and run some hundred real images: 20 minutes on 4 cores," \
	  "and a few GB of disk for as long as it runs."

venv:  ## Make the virtual environment .venv, with caliban in it
	@$(PREPARE) venv

dev:  ## The same, with the development tools
	@$(PREPARE) dev

programs:  ## See to a browser, a terminal and a registry for the tests
	@$(PREPARE) programs

mlflow:  ## See to a tracking server of MLflow for the tests
	@$(PREPARE) mlflow

engine:  ## See to a Docker engine and a base image
	@$(PREPARE) engine

lint: dev  ## Check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs:  ## Build the documentation into docs/_build/html
	@$(PREPARE) docs
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

bench: venv mlflow engine  ## Measure what caliban costs
	. ./.engine.env && $(BIN)/python scripts/bench.py

clean:  ## Remove what the targets above have made, except the engine
	@$(PREPARE) clean-images
	rm -rf .venv .mlflow .engine.env build dist *.egg-info docs/_build
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find caliban docs scripts tests tutorials -name __pycache__ -prune -exec rm -rf {} +

stop-engine:  ## Stop the Docker engine, if it was started by `make engine`
	@$(PREPARE) stop-engine
