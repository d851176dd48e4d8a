# `make demo` shows what lrkit does, `make test` proves it. Both set up .venv themselves, and cheaply the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LIGHT := .venv-light
.DEFAULT_GOAL := help
.PHONY: help install demo test test-light test-hosts check bench prove clean

help:
	@echo "make demo        find, train, watch, diagnose and show, on real data (about a minute after installation)"
	@echo "make test        every room's tests"
	@echo "make test-light  the torch-free rooms, in an environment without torch"
	@echo "make test-hosts  inside the host frameworks"
	@echo "make check       ruff, mypy --strict, the house rules"
	@echo "make bench       the benchmarks' tables"
	@echo "make prove       the long proofs"

install: $(VENV)/.installed

# The stamp makes a second call free; it is older than pyproject.toml whenever something new has to be installed.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lrkit needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(LIGHT)/.installed: pyproject.toml constraints.txt
	@test -x $(LIGHT)/bin/python || $(PYTHON) -m venv $(LIGHT)
	$(LIGHT)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: install
	$(BIN)/lrkit demo

test: install
	$(BIN)/python -m pytest -n 2

test-light: $(LIGHT)/.installed
	$(LIGHT)/bin/python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"
	$(LIGHT)/bin/python -m pytest -n 2

test-hosts: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[hosts]'
	$(BIN)/python -m pytest -n 2 -m hosts

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py

bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	for b in $$(find benchmarks -name '*.py' | sort); do $(BIN)/python $$b || exit 1; done

prove: install
	$(BIN)/python -m pytest -n 2 -m prove

clean:
	rm -rf $(VENV) $(LIGHT) runs
