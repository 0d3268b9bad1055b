# The commands of the README. Each makes .venv when it is missing, or older than pyproject.toml.
#
#   make demo ARGS="--users 1000"      kycache demo, with its options
#   make test ARGS="tests/cli/test_x.py" pytest, with its options
#   make check                         lint, format, types
#   make simulate SEEDS=0-9999 JOBS=2  histories of faults in one process; SEEDS=123 replays one
#   make mutants                       bugs that the simulation must find
#   make faults SEEDS=200              the tests that cause faults at random, with so many seeds each
#   make bench                         every script in bench/

PYTHON ?= python3
VENV := .venv
FOR_DEMO := $(VENV)/.for-demo
FOR_DEV := $(VENV)/.for-dev
FOR_BENCH := $(VENV)/.for-bench

.DEFAULT_GOAL := help
.PHONY: help demo test check simulate mutants faults bench

help:
	@sed -n 's/^#   //p' Makefile

# The demo does not wait for the tools of development: half a minute on a fresh machine.
$(FOR_DEMO): pyproject.toml
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(FOR_DEV): pyproject.toml
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[demo,dev]'
	@touch $(FOR_DEMO) $@

$(FOR_BENCH): $(FOR_DEV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[demo,dev,bench]'
	@touch $@

demo: $(FOR_DEMO)
	$(VENV)/bin/kycache demo $(ARGS)

# Two, whatever there is: the tests on real servers mostly wait, and some of them watch the clock.
test: $(FOR_DEV)
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(FOR_DEV)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/pyright

SEEDS ?=
JOBS ?= 1

simulate: $(FOR_DEV)
	PYTHONPATH=tests $(VENV)/bin/python -m simulation $(or $(SEEDS),0-999) --jobs $(JOBS)

mutants: $(FOR_DEV)
	PYTHONPATH=tests $(VENV)/bin/python -m simulation.mutants --jobs $(JOBS) $(ARGS)

faults: $(FOR_DEV)
	KYCACHE_SEEDS=$(or $(SEEDS),200) $(VENV)/bin/python -m pytest -n 0 $$(grep -rl --include='test_*.py' 'faults import.*seeds' tests) $(ARGS)

# What is run is a script; the others are modules of theirs.
bench: $(FOR_BENCH)
	@set -e; for script in $$(grep -l '^if __name__ ==' bench/*.py); do \
		echo "== $$script"; $(VENV)/bin/python "$$script" $(ARGS); \
	done
