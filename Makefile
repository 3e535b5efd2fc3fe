# Everything a newcomer types. `make demo` and `make test` install what they need themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 3000

.PHONY: setup replace-copy demo dev check test lint validate bench clean help

help:  ## Show the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed  ## Make .venv/ with everything

# A copy of the package (`pip install .`) keeps the code of that day, whatever is pulled: it is replaced.
COPY := $(wildcard $(VENV)/lib/python*/site-packages/quantlab_dagster)

$(VENV)/.installed: pyproject.toml constraints.txt $(if $(COPY),replace-copy)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## Make raw data in demo-lake/, compact it through Dagster, verify it, show the result
	$(BIN)/quantlab demo

dev: setup  ## Dagster's UI and daemon on http://127.0.0.1:3000 (PORT=3001: another port)
	$(BIN)/quantlab dev --port $(PORT)

check: lint  ## While you work: lint, types, and the tests that need no server, no browser and no long time
	$(BIN)/python -m pytest -q -m "not server and not browser and not slow"

test: setup  ## All tests, as CI runs them: in two processes, each file in one of them
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup  ## ruff and mypy (strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

validate: setup  ## Load the definitions as Dagster does
	$(BIN)/dagster definitions validate --workspace workspace.yaml

bench: setup  ## The yardstick, ours beside other engines, in some minutes (benchmarks/README.md has the rest)
	$(BIN)/python benchmarks/yardstick.py --sizes small,few,events --kinds wide --rounds 2 --also up-to-date,scans

clean:  ## Remove what the commands made, .venv/ included
	rm -rf $(VENV) .dagster demo-lake
