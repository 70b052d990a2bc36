# make demo   a video from a prompt, on a fresh machine
# make test   lint, types and all tests, on a fresh machine; the last lines sum up
# make test-lowest | test-newest   the library's tests with the lowest versions that pyproject.toml allows, with the newest of all
# make lint | js | types | pytest | mutants | bench   parts of it (js: js-types, js-tests; pytest: pytest-library, -commands, -nodes, -editor)
# make fuzz | kills | queued   damaged inputs, commands ended at random moments, a workflow queued again and again

PYTHON ?= python3
LOWEST_PYTHON ?= 3.10
NEWEST_PYTHON ?= 3.13
UV ?= uv
VENV ?= .venv
BIN := $(VENV)/bin
JS := tools/js
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

PART := $(PYTHON) tools/parts.py run
SKIP := $(PYTHON) tools/parts.py skip
PYTEST = OMP_NUM_THREADS=1 $(PART) $(1) --junit build/parts/$(1).xml -- \
	$(BIN)/python -m pytest --junit-xml=build/parts/$(1).xml $(2)

COMMANDS := tests/unit/cli tests/unit/report tests/unit/training

PROMPT ?= a large striped red star moves left over the sea

.PHONY: demo test test-lowest test-newest pytest pytest-library pytest-commands pytest-nodes pytest-editor lint js js-types \
	js-tests types mutants fuzz kills queued bench clean

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

# Every part runs, also after one that failed; the last lines say what each did and what was skipped.
test: $(VENV)/installed-dev
	@rm -rf build/parts
	@$(MAKE) --keep-going --no-print-directory lint js types pytest || true
	@$(PYTHON) tools/parts.py show lint 'js types' 'js tests' mypy library commands nodes editor

# Environments of their own, made anew, by uv. UV_TORCH_BACKEND=cpu: torch without CUDA.
LIBRARY_IN = $(UV) venv --quiet --clear --python $(2) build/$(1) && \
	$(UV) pip install --quiet --python build/$(1) --resolution $(3) --editable '.[test]' && \
	OMP_NUM_THREADS=1 build/$(1)/bin/python -m pytest tests/unit

test-lowest:
	$(call LIBRARY_IN,lowest,$(LOWEST_PYTHON),lowest-direct)

test-newest:
	$(call LIBRARY_IN,newest,$(NEWEST_PYTHON),highest)

# The longest first, three beside each other (the editor mostly waits), so that two cores are busy to the end; one thread
# each: tiny models gain nothing from more, and on a busy machine they lose a lot.
pytest: $(VENV)/installed-dev
	@$(MAKE) --jobs=3 --keep-going --no-print-directory $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) \
		pytest-nodes pytest-editor pytest-library pytest-commands

pytest-library: $(VENV)/installed-dev
	@$(call PYTEST,library,tests/unit $(COMMANDS:%=--ignore=%))

# The highest floors, as long as all others together.
pytest-commands: $(VENV)/installed-dev
	@$(call PYTEST,commands,$(COMMANDS))

pytest-nodes: $(VENV)/installed-dev
	@$(call PYTEST,nodes,tests/comfy)

pytest-editor: $(VENV)/installed-dev
	@$(call PYTEST,editor,tests/ui)

lint: $(VENV)/installed-dev
	@$(PART) lint -- sh -c '$(BIN)/ruff check . && $(BIN)/ruff format --check .'

js: js-types js-tests

# The types of js/, against the editor's. A machine without npm, or without a network to install from, does without.
js-types:
	@if ! command -v npm >/dev/null; then $(SKIP) 'js types' 'there is no npm on this machine'; \
	elif ! $(MAKE) --silent $(JS)/node_modules/installed 2>/dev/null; then $(SKIP) 'js types' 'npm could not install TypeScript'; \
	else $(PART) 'js types' -- sh -c '$(JS)/node_modules/.bin/tsc --project $(JS) && echo "no type errors in $(words $(wildcard js/*.js)) files"'; fi

# The modules of js/ that work without an editor, or with as much of one as a test can play.
js-tests:
	@if ! command -v node >/dev/null; then $(SKIP) 'js tests' 'there is no node on this machine'; \
	elif ! node -e 'process.exit(require("module").register ? 0 : 1)'; then $(SKIP) 'js tests' 'they need node 20.6 or newer'; \
	else $(PART) 'js tests' -- node --test --test-reporter=spec tests/js/*.test.mjs; fi

$(JS)/node_modules/installed: $(JS)/package-lock.json
	cd $(JS) && npm ci --silent --no-audit --no-fund --fetch-retries=1 --fetch-timeout=30000 >/dev/null 2>&1
	touch $@

types: $(VENV)/installed-dev
	@$(PART) mypy -- sh -c '$(BIN)/mypy && $(BIN)/python -m tests.node_types'

mutants: $(VENV)/installed-dev
	$(BIN)/python -m tests.mutants

fuzz: $(VENV)/installed-dev
	$(BIN)/python -m tests.fuzz

kills: $(VENV)/installed-dev
	$(BIN)/python -m tests.fuzz.kills

queued: $(VENV)/installed-dev
	$(BIN)/python -m tests.fuzz.queued

bench: $(VENV)/installed-dev
	$(BIN)/python -m tests.benchmarks.transformer
	$(BIN)/python -m tests.benchmarks.vae
	$(BIN)/python -m tests.benchmarks.windows

clean:
	rm -rf $(VENV) $(JS)/node_modules demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
