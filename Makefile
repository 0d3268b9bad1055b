# The commands of the README. Each makes .venv when it is missing, or older than pyproject.toml.
#
#   make demo ARGS="--users 1000"      kycache demo, with its options
#   make test ARGS="tests/test_x.py"   pytest, with its options
#   make check                         lint, format, types
#   make bench                         every script in bench/

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check bench

help:
	@sed -n 's/^#   //p' Makefile

$(INSTALLED): pyproject.toml
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[demo,dev]'
	@touch $@

demo: $(INSTALLED)
	$(VENV)/bin/kycache demo $(ARGS)

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest $(ARGS)

check: $(INSTALLED)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/pyright

bench: $(INSTALLED)
	@set -e; for script in bench/*.py; do \
		test -e "$$script" || { echo "bench/ holds no script yet"; exit 0; }; \
		echo "== $$script"; $(VENV)/bin/python "$$script" $(ARGS); \
	done
