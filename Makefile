# `make demo` shows what foveal does; `make test` proves it. Both make .venv first.

PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo

.PHONY: demo test fuzz lint clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

demo: .venv/installed
	$(BIN)/foveal train resnet_nano --data digits --out $(RUN) --overwrite
	$(BIN)/foveal evaluate $(RUN) --data digits --split test
	$(BIN)/foveal predict $(RUN) examples/digits --out $(RUN)/predictions
	$(BIN)/foveal cost $(RUN)
	@echo "the run is in $(RUN): checkpoints, metrics.jsonl, run.json, report.html, pictures/ and predictions/"

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto

fuzz: .venv/tested
	FOVEAL_FUZZ=20 OMP_NUM_THREADS=1 $(BIN)/pytest tests/test_fuzz*.py

clean:
	rm -rf .venv runs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
