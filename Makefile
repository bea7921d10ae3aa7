# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# processes that run tests, one thread each: WORKERS=0 runs them in one, for a debugger
WORKERS ?= 2
# fault tests wait more than they compute
FAULT_WORKERS ?= 3
STAMP := $(VENV)/.installed

.PHONY: install demo test test-faults lint types unit clean

install: $(STAMP)

# torch first: with the range of pyproject.toml, so that a build already at hand is taken
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "torch>=2.11,<2.14"
	$(BIN)/python -m pip install --quiet --editable ".[models,report,dev]"
	touch $(STAMP)

# Ray is large, and not built for every Python: where it cannot be had, its tests are skipped
$(VENV)/.cluster: $(STAMP)
	-$(BIN)/python -m pip install --quiet --editable ".[cluster]"
	touch $@

demo: install
	$(BIN)/python -m experiments.demo

test: lint types unit

# kills campaigns, measuring processes and writers at random instants; some minutes
test-faults: $(VENV)/.cluster
	$(BIN)/python -m pytest -n $(FAULT_WORKERS) --dist worksteal -m faults tests/faults tests/tuner/test_engine_ray.py

lint: install
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

unit: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

clean:
	rm -rf $(VENV) runs plans .mypy_cache .ruff_cache .pytest_cache
