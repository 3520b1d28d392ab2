# Every target works on a fresh machine: it creates .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_OUT ?= demo-out
BENCH ?= build/bench

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

bench: $(STAMP)  ## ratios against named peers, on this installation's own text
	$(BIN)/python -c "from pathlib import Path; from govern.demo.embedded import \
	  write_embedded_corpus; write_embedded_corpus(Path('$(BENCH)/corpus'))"
	$(BIN)/python benchmarks/ids_throughput.py $(BENCH)/corpus/*.jsonl
	$(BIN)/python benchmarks/ids_scale.py --documents 100000 --work $(BENCH)/scale
	$(BIN)/python benchmarks/sink_step.py --repeats 3

bench-large: $(STAMP)  ## ten million documents; ten minutes and 35 GB of disk
	$(BIN)/python benchmarks/ids_scale.py --documents 10000000 --words 65 --work $(BENCH)/large

docs: $(STAMP)  ## regenerate the command reference
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) $(DEMO_OUT) build *.egg-info
