# make quickstart   set up, train GPT-2 small for 20 steps, say where the plots are
# make test         set up, then lint, types, floors and all tests
# make test-faults  the long form of the fault tests: 200 kills, 10,000 fuzzed inputs
# make test-ecosystem  lm-evaluation-harness on a checkpoint, relplot on calibration; installs them first
# Every target sets up the environment it needs in .venv; PYTHON chooses the interpreter (3.11+).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup setup-dev quickstart shakespeare test test-faults test-ecosystem check format bench clean

help:
	@sed -n 's/^# //p' Makefile

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

# torch first and by its pin, which takes the CPU build where the package index has one.
$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "SharpGPT needs Python 3.11 or newer; give one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

quickstart: setup
	$(BIN)/python train.py --config configs/quick_test.yaml

# Characters, four small layers, a penalty on: readable text and plots in a few minutes on a CPU.
shakespeare: setup
	$(BIN)/python train.py --config configs/shakespeare_char_cpu.yaml --penalty_type neg_entropy --penalty_weight 0.1

test: check
	$(BIN)/python -m pytest -n 2

test-faults: setup-dev
	$(BIN)/python -m pytest tests/faults --faults long -n 2

test-ecosystem: $(VENV)/.installed-ecosystem
	$(BIN)/python -m pytest tests/ecosystem --ecosystem

$(VENV)/.installed-ecosystem: $(VENV)/.installed-dev requirements-ecosystem.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-ecosystem.txt
	@touch $@

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-dev
	$(BIN)/python benchmarks/bench_shakespeare_char.py
	$(BIN)/python benchmarks/bench_startup.py
	$(BIN)/python benchmarks/bench_fused.py
	$(BIN)/python benchmarks/bench_compiled.py
	$(BIN)/python benchmarks/bench_step.py
	$(BIN)/python benchmarks/bench_batches.py
	$(BIN)/python benchmarks/bench_prepare.py
	$(BIN)/python benchmarks/bench_checkpoint.py
	$(BIN)/python benchmarks/bench_verdict.py
	$(BIN)/python benchmarks/bench_report.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
