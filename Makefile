# On a fresh machine, `make demo` and `make test` do everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
READY := $(VENV)/.ready
FINDER := $(VENV)/.torchvision-finder
CHECK_PYTHON := $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "framefold needs Python 3.11 or newer: make PYTHON=python3.11 ...")'

.PHONY: setup demo test quick canary oracle lmms serving serving-test gpu-check lint clean

setup: $(READY) $(FINDER)

# torch first, because building DeepSpeed needs it. Extras that need CUDA are installed only if there is a GPU.
$(READY): pyproject.toml constraints.txt
	@echo "setup: creating $(VENV) (a few minutes the first time)"
	@$(CHECK_PYTHON)
	@$(PYTHON) -m venv $(VENV)
	@echo "setup: torch"
	@$(PIP) torch==2.13.0 setuptools wheel ninja
	@echo "setup: framefold and its extras (train, lora, report, natural, dev)"
	@DS_BUILD_OPS=0 $(PIP) --no-build-isolation -e '.[train,lora,report,natural,dev]'
	@echo "setup: torchvision, in a folder of its own because of the CPU build of torch"
	@$(PIP) --no-deps --upgrade --target $(VENV)/torchvision torchvision==0.28.0
	@echo "setup: the oldest supported transformers, in a folder of its own (for tests/conformance/test_oldest_transformers.py)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/transformers-oldest transformers==5.20.0
	@if nvidia-smi >/dev/null 2>&1; then \
	  $(PIP) --no-build-isolation -e '.[mamba]' || echo "setup: mamba-ssm could not be built; its CUDA kernels are not available"; fi
	@touch $(READY)
	@echo "setup: done"

# Makes that torchvision importable in every Python of the environment.
$(FINDER): framefold/torchvision_finder.py $(READY)
	@$(BIN)/python framefold/torchvision_finder.py
	@touch $@

demo: setup
	@$(BIN)/framefold demo --out runs/demo $(DEMO_ARGS)

test: setup
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(PYTEST_ARGS)

# The inner loop: what runs in one process, with one family of hosts. The other tests start processes or take long.
QUICK := $(addprefix --ignore=tests/,runs guides cli/doctor evaluation/bench evaluation/lmms \
  evaluation/ablation/test_work_queue.py evaluation/inspection/test_commands.py \
  evaluation/report/test_page_browser.py training/checkpoint/test_commands.py training/checkpoint/test_resume.py \
  training/fit/test_loggers.py training/frozen_host/test_torchvision.py training/strategies \
  training/tinyhost/test_shipped.py data/synthetic/test_shortcuts.py conformance/test_oldest_transformers.py \
  conformance/test_processors.py conformance/test_pictures_beside_video.py conformance/test_compiled.py \
  cli/test_progress_of_verbs.py training/checkpoint/test_place.py training/fit/test_damaged_samples.py \
  training/fit/test_signals.py training/fit/test_resumed_settings.py adapters/pretrained/test_hub_stalls.py \
  data/video/test_equal_bytes.py test_import_signals.py test_without_transformers.py)

quick: setup
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(QUICK) -k "not conformance or llava_onevision" $(PYTEST_ARGS)

# The conformance tests with the newest transformers on PyPI, in a folder of its own; the summary lists what broke.
CANARY := $(VENV)/transformers-newest
canary: setup
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile --upgrade --target $(CANARY) transformers
	@PYTHONPATH=$(abspath $(CANARY)) $(BIN)/python -c 'import transformers; print("canary: transformers", transformers.__version__)'
	@PYTHONPATH=$(abspath $(CANARY)) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:cacheprovider -n 2 --dist loadfile --tb=line -rfE \
	  tests/conformance --ignore=tests/conformance/test_oldest_transformers.py $(PYTEST_ARGS)

# mamba-ssm's Triton kernels in Triton's interpreter. Not in site-packages, where transformers would try to use them.
ORACLE := $(VENV)/triton-oracle
$(ORACLE)/.ready: $(READY)
	@echo "oracle: triton, einops and the sources of mamba-ssm, in a folder of their own (1 GB)"
	@MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE $(PIP) --no-deps --no-build-isolation --upgrade \
	  --target $(ORACLE) triton==3.9.0 einops==0.8.2 mamba-ssm==2.3.2.post1
	@touch $@

oracle: $(ORACLE)/.ready
	@FRAMEFOLD_TRITON_ORACLE=1 $(BIN)/python -m pytest -q -rA tests/adapters/layers/test_mamba2_triton.py

# lmms-eval for `framefold eval`. Not in site-packages, because its pins would install another torch and another PyAV.
LMMS := $(VENV)/lmms-eval
$(LMMS)/.ready: $(READY) constraints-lmms.txt
	@echo "lmms: lmms-eval and its requirements, in a folder of their own (half a GB)"
	@rm -rf $(LMMS)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile --target $(LMMS) -r constraints-lmms.txt
	@touch $@

lmms: $(LMMS)/.ready

# vLLM for CPUs and framefold's plug-in, in an environment of its own: it pins another transformers than framefold.
SERVING := .venv-serving
SERVING_PIP := $(SERVING)/bin/pip install --quiet --disable-pip-version-check
$(SERVING)/.ready: constraints-serving.txt pyproject.toml framefold/torchvision_finder.py
	@echo "serving: creating $(SERVING) (3.9 GB, several minutes)"
	@$(CHECK_PYTHON)
	@$(PYTHON) -m venv $(SERVING)
	@$(SERVING_PIP) -c constraints-serving.txt torch==2.13.0 setuptools
	@$(SERVING_PIP) --no-deps -r constraints-serving.txt
	@$(SERVING_PIP) --no-deps --no-build-isolation -e .
	@$(SERVING)/bin/python framefold/torchvision_finder.py
	@touch $@

serving: $(SERVING)/.ready

# Compressors in vLLM against framefold.attach in transformers.
serving-test: serving
	@$(SERVING)/bin/python -m pytest -q tests/adapters/serving $(PYTEST_ARGS)

# What no test can measure without a GPU; tests/evaluation/gpu_check runs its rehearsal.
gpu-check: setup
	@$(BIN)/python -m framefold.evaluation.gpu_check.check --out runs/gpu_check

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) $(SERVING) build dist *.egg-info runs
