# make demo   a video from a prompt, on a fresh machine
# make test   lint, types and all tests, on a fresh machine
# make lint | types | pytest | mutants | bench   parts of it

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

PROMPT ?= A small red boat drifts across a calm lake at dawn. Soft mist lies over the water, and low golden light \
comes from the left and paints long reflections on the ripples. Dark pines stand along the far shore. The camera \
follows slowly from the side at the height of the water, and the boat leaves a fine wake behind it. The mood is quiet, \
the colours are warm and muted, and every plank of the hull can be seen.

.PHONY: demo test pytest lint types mutants bench clean

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
	$(BIN)/flashvideo generate "$(PROMPT)" --models tiny --preview-size 96x64 --size 384x256 --frames 17 \
		--joint --overwrite -o demo/demo.mp4
	@echo "Made demo/demo.preview.mp4 (Stage I), demo/demo.mp4 (Stage II) and demo/demo.joint.mp4 (side by side)."

test: lint types pytest

# One thread: tiny models gain nothing from more, and on a busy machine they lose a lot.
pytest: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

mutants: $(VENV)/installed-dev
	$(BIN)/python -m tests.mutants

bench: $(VENV)/installed-dev
	$(BIN)/python -m tests.benchmarks.transformer
	$(BIN)/python -m tests.benchmarks.vae

clean:
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
