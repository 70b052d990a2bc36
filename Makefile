# make demo   a video from a prompt, on a fresh machine
# make test   lint, types and all tests, on a fresh machine
# make lint | js | types | pytest | mutants | bench   parts of it

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JS := tools/js
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

PROMPT ?= a large striped red star moves left over the sea

.PHONY: demo test pytest pytest-library pytest-nodes pytest-editor lint js types mutants bench clean

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/installed
	@mkdir -p demo
	$(BIN)/flashvideo generate "$(PROMPT)" --models tiny --joint --overwrite -o demo/demo.mp4
	@echo "Made demo/demo.preview.mp4 (Stage I), demo/demo.mp4 (Stage II) and demo/demo.joint.mp4 (side by side)."

test: lint types pytest

# The library, the nodes and the editor beside each other (the editor mostly waits); one thread each: tiny models gain
# nothing from more, and on a busy machine they lose a lot.
pytest: $(VENV)/installed-dev
	@$(MAKE) --jobs=3 --keep-going --no-print-directory $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) \
		pytest-library pytest-nodes pytest-editor

pytest-library: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit

# Servers and browsers on a busy machine lose a message now and then: a test that fails is tried once more, and named (R).
pytest-nodes: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --reruns 1 -r fR tests/comfy

pytest-editor: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --reruns 1 -r fR tests/ui

lint: $(VENV)/installed-dev js
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The types of js/, against the editor's. A machine without npm, or without a network to install from, does without.
js:
	@if ! command -v npm >/dev/null; then echo "make js: skipped, there is no npm on this machine."; \
	elif ! $(MAKE) --silent $(JS)/node_modules/installed 2>/dev/null; then echo "make js: skipped, npm could not install TypeScript."; \
	else $(JS)/node_modules/.bin/tsc --project $(JS) && echo "make js: no type errors."; fi

$(JS)/node_modules/installed: $(JS)/package-lock.json
	cd $(JS) && npm ci --silent --no-audit --no-fund --fetch-retries=1 --fetch-timeout=30000 >/dev/null 2>&1
	touch $@

types: $(VENV)/installed-dev
	$(BIN)/mypy
	$(BIN)/python -m tests.node_types

mutants: $(VENV)/installed-dev
	$(BIN)/python -m tests.mutants

bench: $(VENV)/installed-dev
	$(BIN)/python -m tests.benchmarks.transformer
	$(BIN)/python -m tests.benchmarks.vae

clean:
	rm -rf $(VENV) $(JS)/node_modules demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
