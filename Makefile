# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
READY := $(VENV)/.ready

.PHONY: setup demo test lint clean

setup: $(READY)

# torch first: DeepSpeed looks for it while it is built. Extras that need CUDA are tried only where there is a GPU.
$(READY): pyproject.toml constraints.txt
	@echo "setup: creating $(VENV) (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "framefold needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)
	@echo "setup: torch"
	@$(PIP) torch==2.13.0 setuptools wheel ninja
	@echo "setup: framefold and its extras (train, lora, report, dev)"
	@DS_BUILD_OPS=0 $(PIP) --no-build-isolation -e '.[train,lora,report,dev]'
	@echo "setup: torchvision, out of the way of CPU torch (framefold answer and show look there)"
	@$(PIP) --no-deps --upgrade --target $(VENV)/torchvision torchvision==0.28.0
	@echo "setup: the oldest supported transformers, out of the way too (tests/test_oldest_transformers.py looks there)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/transformers-oldest transformers==5.20.0
	@if nvidia-smi >/dev/null 2>&1; then \
	  $(PIP) --no-build-isolation -e '.[mamba]' || echo "setup: mamba-ssm did not build; its CUDA kernels will be missing"; fi
	@touch $(READY)
	@echo "setup: done"

demo: setup
	@$(BIN)/framefold demo --out runs/demo

test: setup
	@$(BIN)/python -m pytest -q $(PYTEST_ARGS)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info runs
