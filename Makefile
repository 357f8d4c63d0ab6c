# make run    the sample bootstrap, from nothing to a page      make setup   .venv with everything, versions tried together
# make test   the whole suite, no GPU, no network               make check   ruff, mypy, import-linter
# make test-slow what takes minutes each: schedules, several machines, servers that stand still
# make bench  ratios against the alternatives                   make bench-gpu the same on an NVIDIA GPU, with its tests
# make up/down the stack of infra/compose.yaml
# Options of the product go into ARGS:   make run ARGS="--set seed=3"

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input -q -c constraints.txt
TORCH_CPU ?= https://download.pytorch.org/whl/cpu
COMPOSE ?= docker compose
TEST_PROCESSES ?= 2
ARGS ?=

.PHONY: setup run test test-slow check format bench bench-scale bench-gpu storm up down clean tools
.DEFAULT_GOAL := setup

setup: tools $(STAMP)

# Named with its remedy before anything is installed or started: Python and venv.
tools:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "Python is missing: install Python 3.10 or newer (Debian/Ubuntu: apt install python3 python3-venv), or say make PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$$($(PYTHON) --version) is too old: install Python 3.10 or newer and run make PYTHON=python3.11" >&2; exit 1; }
	@test -e $(STAMP) || $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "Python's venv module is missing: apt install python3-venv (Fedora has it in python3)" >&2; exit 1; }

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# Without an NVIDIA GPU take torch's CPU build: the default one on Linux brings gigabytes of CUDA.
	command -v nvidia-smi >/dev/null 2>&1 || $(PIP) --no-deps --timeout 10 --retries 1 $$(grep '^torch==' constraints.txt) --index-url $(TORCH_CPU) || true
	$(PIP) -e '.[dev,ray]'
	@touch $@

run: setup
	$(BIN)/capfilt run configs/sample.yaml $(ARGS)

# A file's tests share its fixtures, so that files, not tests, are dealt out to the processes.
test: setup
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(ARGS)

# Real waiting: a schedule's next minute, servers away for two, machines that are lost.
test-slow: setup
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile -m slow $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-scale: setup
	$(BIN)/python -m tests.benchmarks.scale $(ARGS)

# Hours: writers that are stopped and killed at one prefix, then 200,000 spoiled images.
storm: setup
	$(BIN)/python -m tests.benchmarks.storm $(ARGS)
	$(BIN)/python -W ignore -m tests.reliability.fuzz_images --images 200000

bench-gpu: setup
	$(BIN)/python -m tests.benchmarks --device cuda $(ARGS)

up:
	@command -v docker >/dev/null 2>&1 || { echo "docker is missing: https://docs.docker.com/engine/install" >&2; exit 1; }
	@test -f infra/.env || { echo "secrets are missing: cp infra/.env.example infra/.env and fill them in" >&2; exit 1; }
	$(COMPOSE) --env-file infra/.env -f infra/compose.yaml up --build --detach --wait
	@echo "Prefect http://127.0.0.1:4200   MLflow http://127.0.0.1:5000   S3 http://127.0.0.1:8333"

down:
	$(COMPOSE) --env-file infra/.env -f infra/compose.yaml down

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
