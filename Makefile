# Two commands matter: `make demo` and `make test`. Each creates .venv and installs what it needs.
# On Linux, PyPI's torch brings CUDA along; for the CPU build set PIP_EXTRA_INDEX_URL to PyTorch's
# CPU index before the first `make`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-matrix lint bundled-eval bundled-train clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Run the support-desk demo and write demo-output/report.html
	$(BIN)/slm-adapters demo $(DEMO_ARGS)

test: $(VENV)/.dev ## Lint, type-check and run every test; prints what was skipped and why
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(TEST_ARGS)

test-matrix: $(VENV)/.dev ## Recorder and model tests with the oldest and newest releases we claim
	PYTHON=$(BIN)/python tests/matrix.sh .matrix $(MATRIX)

lint: $(VENV)/.dev ## Apply the formatter, then lint and type-check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

bundled-eval: $(VENV)/.demo ## Recompute the bundled model's held-out table
	$(BIN)/python examples/bundled_slm/evaluate.py $(EVAL_ARGS)

bundled-train: $(VENV)/.demo ## Train the bundled model again (wants a GPU)
	$(BIN)/python examples/bundled_slm/train.py $(TRAIN_ARGS)

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) demo-output dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing slm-adapters[demo]; the first time takes a few minutes ..."
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing slm-adapters[dev]; the first time takes a few minutes ..."
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo
