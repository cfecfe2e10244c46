# Each target does its own set-up in .venv: no root, no activation.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-reference test-real test-npu test-long lint wheel clean

# What is compiled when the package is installed.
KERNELS := hatch_build.py $(wildcard kernels/src/cpu/*.h kernels/src/cpu/*.cc)

# Stamps: an environment is made again when pyproject.toml or a kernel changes.
$(VENV)/run.stamp: pyproject.toml $(KERNELS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	$(BIN)/pip install --quiet --editable ".[test,lint,av]"
	touch $@

# PyTorch first and on its own, so that pip does not look for another build of it.
$(VENV)/reference.stamp: $(VENV)/test.stamp
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet transformers==5.23.0 tiktoken more-itertools tqdm numba
	$(BIN)/pip install --quiet --no-deps openai-whisper==20250625
	touch $@

demo: $(VENV)/run.stamp
	$(BIN)/python -m tools.demo

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m "not npu and not real and not long"

# The same tests with openai-whisper and transformers there to compare with.
test-reference: $(VENV)/reference.stamp
	$(BIN)/python -m pytest -m "reference and not real and not long"

# Published weights on real speech, both fetched once (tests/support/real), without root.
test-real: $(VENV)/reference.stamp
	$(BIN)/python -m pytest -m "real and not long"

# The NPU path on AMD's real user space over an emulated driver; sets both up, without root.
test-npu: $(VENV)/test.stamp
	PYTHON=$(CURDIR)/$(BIN)/python tools/npu_emulator/setup
	$(BIN)/python -m pytest -m "npu and not long"

# What takes minutes to hours: failures of every product, endurance on the emulator, long files, all
# of the real speech, a million inputs of the fuzzers.
test-long: $(VENV)/reference.stamp
	PYTHON=$(CURDIR)/$(BIN)/python tools/npu_emulator/setup
	$(BIN)/python -m pytest -m long

lint: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# With the CPU kernels for this platform, compiled by the compiler that is here.
wheel: $(VENV)/run.stamp
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	ls dist/*.whl

clean:
	rm -rf $(VENV) .demo dist kernels/lib
