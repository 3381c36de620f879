# Everything a machine needs is installed by `make install`, into .venv of this checkout. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types check docs lock coverage mutants chaos soak bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

install: $(STAMP) ## prepare .venv with pinned, hash-checked packages

$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "auditgap needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install ## see it work: embedded Kafka, a worker, a sample feed, the gaps
	$(BIN)/auditgap demo

# Two at a time, each with a broker of its own: most of the time is spent waiting for sessions, restarts and timeouts.
test: install ## every test, on a real Kafka
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: install ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## strict types
	$(BIN)/mypy

check: lint types test ## what CI runs

coverage: install ## lines and branches of the core that its tests run, some four minutes
	$(BIN)/coverage run -m pytest -q tests/unit tests/property
	$(BIN)/coverage report

mutants: install ## mutation testing of the core, on a sample, and its report in docs; about an hour
	$(BIN)/python tests/docs/mutants.py

chaos: install ## kills, stops, joins and leaves, 20 rounds at full size
	AUDITGAP_TEST_CHAOS_ROUNDS=20 $(BIN)/python -m pytest tests/chaos --timeout=3600

soak: install ## the invariants over 20,000 simulated histories; some ten minutes
	AUDITGAP_TEST_HISTORIES=20000 $(BIN)/python -m pytest tests/property/test_invariants.py --timeout=3600

bench: install ## throughput beside its baselines, and latency; about ten minutes
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/latency.py

docs: install ## write docs/reference.md, topics.md, asyncapi.yaml and security.md from the tables in the code
	$(BIN)/python tests/docs/reference.py
	$(BIN)/python tests/docs/topics.py
	$(BIN)/python -m tests.docs.security

lock: install ## resolve the pinned requirements anew
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header -o requirements/runtime.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --extra demo -o requirements/demo.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --extra demo --extra notify --group dev -o requirements/dev.txt pyproject.toml

clean: ## remove what the targets made
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
