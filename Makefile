# Every target sets up what it needs and is then one `python -m ...` line, so nobody needs make:
# see the README for the same on Windows.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
# make demo TORCH_INDEX=URL takes torch and torchvision from that index, once, before the rest.
TORCH_INDEX ?=
# What `make check` runs: the rules of the house and the numbers of the model, in seconds.
QUICK := $(patsubst %,tests/test_%.py,attention config house model sampling shapes)

.PHONY: help demo course train-scenes check format lint test test-slow test-all bench-gpu wheel clean

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/run.stamp  ## draw new scenes, caption them, and write demo/index.html
	$(PY) -m captioning demo

course: $(VENV)/run.stamp  ## start the course
	$(PY) -m chapters init && $(PY) -m chapters start 0

train-scenes: $(VENV)/run.stamp  ## train the embedded model again, all three stages (about an hour on 2 cores)
	$(PY) -m captioning train-scenes

check: lint  ## format, lint, types and the quick tests, in under a minute
	$(PY) -m pytest -q -m "not slow" $(QUICK)

format: $(VENV)/test.stamp  ## put the code in ruff's format
	$(PY) -m ruff format

lint: $(VENV)/test.stamp  ## format, lint and types, nothing changed
	$(PY) -m ruff format --check
	$(PY) -m ruff check
	$(PY) -m mypy

test: $(VENV)/test.stamp  ## every test but the slow proofs
	$(PY) -m pytest -m "not slow"

test-slow: $(VENV)/test.stamp  ## the slow proofs alone
	$(PY) -m pytest -m slow

test-all: $(VENV)/test.stamp  ## every test
	$(PY) -m pytest

bench-gpu: $(VENV)/run.stamp  ## memory and time of training steps on this GPU, planned and measured
	$(PY) -m benchmarks.gpu

wheel: $(VENV)/test.stamp  ## build the wheel into dist/
	$(PY) -m build --no-isolation --wheel

clean:  ## take away what was built, the virtual environment apart
	rm -rf build dist demo *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache

# --- setting up -------------------------------------------------------------------------------
# A stamp is touched only when its step is done, so a step that was interrupted runs again; pip
# then goes on where it stopped. setup.cfg is newer than the stamps when the dependencies changed.

INSTALL = $(if $(TORCH_INDEX),$(PY) -m pip install --index-url $(TORCH_INDEX) torch torchvision &&) \
	$(PY) -m pip install --editable

OLD = import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "$(PYTHON) is %d.%d, \
	wanted 3.11 or newer. Name another: make PYTHON=python3.12" % v)

# venv writes bin/activate last: an environment without it was left half made.
$(VENV)/made.stamp:
	@$(PYTHON) -c '$(OLD)'
	test -f $(VENV)/bin/activate && $(PY) -m pip --version || $(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/run.stamp: $(VENV)/made.stamp setup.cfg
	$(INSTALL) .
	touch $@

$(VENV)/test.stamp: $(VENV)/made.stamp setup.cfg
	$(INSTALL) '.[test]'
	touch $(VENV)/run.stamp $@
