# `make` prints what can be made. `make demo` and `make test` set up everything they need.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The first interpreter on the path that is new enough.
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
  $(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
RUN := runs/demo
INPAINTING := runs/demo_inpainting

.PHONY: help setup test test-all explore lint format docs demo demo-inpainting clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make the virtual environment .venv (the others do it when needed)

# Made anew when the list of packages changes; otherwise kept.
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "restore needs Python 3.11 or newer on the path (or make PYTHON=...)" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) (torch is large: this takes minutes once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal
# Of the examples that `make explore` draws; the same number draws the same.
SEED := $(shell echo $$RANDOM)

# Sets have the same order every time, as everything that is drawn has (tests/conftest.py).
test test-all: export PYTHONHASHSEED := 0
test: $(READY) ## run the tests (minutes), the same way every time
	$(PYTEST)

test-all: $(READY) ## run the tests, the slow ones too
	$(PYTEST) -m ''

explore: export PYTHONHASHSEED := $(SEED)
explore: $(READY) ## run the tests on other examples than usual (SEED=N: on those again)
	@echo "to see the same again: make explore SEED=$(SEED)"
	$(PYTEST) --hypothesis-profile=explore --hypothesis-seed=$(SEED) \
	  || { echo "to see the same again: make explore SEED=$(SEED)" >&2; exit 1; }

lint: $(READY) ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## write docs/settings.md from the comments in conf/
	$(BIN)/python docs/make_settings.py

demo: $(READY) ## train, evaluate and apply on the built-in photos (about five minutes)
	@rm -rf $(RUN)
	$(BIN)/restore train experiment=demo_warped folder=$(RUN)
	$(BIN)/restore evaluate weights=$(RUN) references=[given,none] folder=$(RUN)/test save=true
	$(BIN)/restore apply weights=$(RUN) input=$(RUN)/test/given/low reference=$(RUN)/test/given/reference output=$(RUN)/applied
	@echo
	@cat $(RUN)/test/references.md
	@echo
	@echo "comparison sheets: $(RUN)/test/given/pictures    restored photos: $(RUN)/applied"

demo-inpainting: $(READY) ## train to sharpen and fill holes, compare with methods without learning (five minutes)
	@rm -rf $(INPAINTING)
	$(BIN)/restore train experiment=demo_inpainting folder=$(INPAINTING)
	$(BIN)/restore evaluate weights=$(INPAINTING) data=partial_sr_demo protocol=rgb folder=$(INPAINTING)/test save=true
	$(BIN)/restore compare methods.learned=$(INPAINTING)/test methods.biharmonic=biharmonic \
	  methods.telea=telea methods.exemplar=exemplar truth=$(INPAINTING)/test \
	  inputs=$(INPAINTING)/test/input holes=$(INPAINTING)/test/mask \
	  references=$(INPAINTING)/test/reference against=biharmonic folder=$(INPAINTING)/compare pictures=3
	@echo
	@echo "the page: $(INPAINTING)/compare/index.html    restored photos: $(INPAINTING)/test/restored"

clean: ## remove the virtual environment, caches and runs of the demo
	rm -rf $(VENV) $(RUN) $(INPAINTING) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
