# Every target works on a fresh machine: it creates .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_OUT ?= demo-out

.PHONY: demo test test-slow lint bench bench-large docs clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## the whole story on text that this Python installation has
	$(BIN)/govern demo --out $(DEMO_OUT)

test: $(STAMP)  ## everything that runs in minutes
	$(BIN)/python -m pytest -m "not slow" -n 2

test-slow: $(STAMP)  ## the checks that take longer
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## regenerate the command reference
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) $(DEMO_OUT) build *.egg-info
