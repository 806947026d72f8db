# `make help` explains each target. Every target sets up the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKSPACE ?= .
READY := $(VENV)/.ready
# The tests in several processes, each of up to 4 GiB. Their threads wait asleep: where there are more of them than cores,
# two trainings at once else take twice as long.
PYTEST_ON_ALL_CORES := OMP_WAIT_POLICY=passive $(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile
# Compiled modules halve the time a stage takes to start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup repro phantom studies leakage-lab starter report test test-slow test-all reliability lint format ui serve tuning-ui promote bench readme deps lock clean
.DEFAULT_GOAL := help

help: ## Explain the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-uv.txt
	$(BIN)/uv pip install --python $(BIN)/python --quiet --require-hashes --requirement requirements.txt
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)

setup: $(READY) ## Make the environment in .venv (every other target does this by itself)

repro: $(READY) ## Run the pipeline: real films (MIAS_ARCHIVE or the official address), else phantom films
	$(BIN)/mammo-ml repro

phantom: $(READY) ## Run the pipeline on phantom films in build/phantom, even where the real ones are at hand
	$(BIN)/mammo-ml repro --phantom

studies: $(READY) ## Run what cannot be small (hours): pre-training, comparisons, the leakage lab; needs MAMMO_EXTERNAL
	$(BIN)/dvc repro pipelines/studies/dvc.yaml

leakage-lab: $(READY) ## Measure what leaky splits are worth (an hour), once `make repro` has run; writes reports/studies/leakage_lab/
	$(BIN)/dvc repro pipelines/studies/dvc.yaml:evaluate_leakage_lab

starter: $(READY) ## Copy pre-trained weights of the studies into the package: make starter STARTERS="detector_small classifier_compact"
	$(BIN)/python -m pipelines.studies.ship_starter $(STARTERS)

report: $(READY) ## Write build/report.html from what the last pass left; WORKSPACE=build/phantom for the phantoms'
	$(BIN)/mammo-ml report --workspace $(WORKSPACE)

test: $(READY) ## Run the tests that need no root and no hour (11 minutes on two cores); lists what it left out
	$(PYTEST_ON_ALL_CORES) -m "not slow"

test-slow: $(READY) ## Run the tests that `make test` leaves out (35 minutes)
	$(PYTEST_ON_ALL_CORES) -m slow

test-all: $(READY) ## Run every test, the slow ones included
	$(PYTEST_ON_ALL_CORES)

reliability: $(READY) ## Run the tests of every bar (minutes to an hour) and rewrite docs/reliability.md from what came of it
	@status=0; $(BIN)/pytest -m bar --reliability build/reliability.jsonl || status=$$?; \
		$(BIN)/python -m mammo_ml.reporting.reliability_table build/reliability.jsonl && exit $$status

lint: $(READY) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: $(READY) ## Open the MLflow UI; WORKSPACE=build/phantom for the phantoms' one
	$(BIN)/mammo-ml ui --workspace $(WORKSPACE)

serve: $(READY) ## Open the lesion locator, web page and REST, on the champions; WORKSPACE=build/phantom for the phantoms'
	$(BIN)/mammo-ml web --workspace $(WORKSPACE)

tuning-ui: $(READY) ## Open Optuna's dashboard on the tuning studies; WORKSPACE=build/phantom for the phantoms'
	$(BIN)/mammo-ml tuning-ui --workspace $(WORKSPACE)

promote: $(READY) ## Show what the gate says of the challengers
	-$(BIN)/mammo-ml promote mammo-classifier --dry-run --workspace $(WORKSPACE)
	-$(BIN)/mammo-ml promote mammo-detector --dry-run --workspace $(WORKSPACE)
	-$(BIN)/mammo-ml promote mammo-locator --dry-run --workspace $(WORKSPACE)

bench: $(READY) ## Measure speed, side by side and as a user meets it (hours: two passes and the tests among it); writes reports/benchmarks/; installs Keras
	$(BIN)/uv pip install --python $(BIN)/python --quiet --require-hashes --requirement requirements-bench.txt
	$(BIN)/python -m benchmarks.large_kernel
	$(BIN)/python -m benchmarks.detector
	$(BIN)/python -m benchmarks.allocator
	$(BIN)/python -m benchmarks.locator
	$(BIN)/python -m benchmarks.server
	$(BIN)/python -m benchmarks.pipeline

readme: $(READY) ## Rewrite the tables of README.md from the committed metrics and params.yaml
	$(BIN)/python -m mammo_ml.reporting.results_table

deps: $(READY) ## Rewrite the code dependencies in dvc.yaml from what the stages import
	$(BIN)/python -m pipelines.dependencies

lock: $(READY) ## Compile requirements.txt anew, hashed, without addresses
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--extra dev pyproject.toml --output-file requirements.txt
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"], sep="\n")' \
		| $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--constraint requirements.txt - --output-file requirements-bench.txt

clean: ## Remove the environment, caches and the phantoms' workspace; real data, runs and models stay
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
