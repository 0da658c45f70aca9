# The front doors of a checkout. `make help` lists them.
#
# .venv is made once with $(PYTHON) and made anew when setup.py changes; the
# stamp files in it say which extras are installed.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
SHELL_SCRIPTS := .ci/run $(wildcard launch/*.sh)

.DEFAULT_GOAL := help
.PHONY: help demo test browser peers tpu beam lint clean

help:
	@echo 'make demo   the whole road in under 6 minutes: corpus, tokenizer,'
	@echo '            pretraining, fine-tuning, scores, runs/demo/report.html'
	@echo 'make test   the test suite (ARGS="-k shards" runs a part of it)'
	@echo 'make browser   the report page in the Chromium of this system'
	@echo 'make peers  the tests against torch and transformers, at full size'
	@echo 'make tpu    compile for TPU slices that are not there (libtpu)'
	@echo 'make beam   the tests of preparing on Apache Beam'
	@echo 'make lint   ruff format --check, ruff check, shellcheck'
	@echo 'make clean  remove $(VENV); runs/ stays'
	@echo
	@echo 'Each makes $(VENV) first where needed, with $(PYTHON);'
	@echo 'another interpreter (3.11 or later): make demo PYTHON=python3.12'

demo: $(VENV)/installed
	$(BIN)/python launch/demo.py $(ARGS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

browser: $(VENV)/installed-browser
	$(BIN)/python -m pytest tests/browser_test.py -rs $(ARGS)

peers: $(VENV)/installed-peers
	$(BIN)/python -m pytest -m peers $(ARGS)

tpu: $(VENV)/installed-tpu
	$(BIN)/python -m pytest -m tpu -rs $(ARGS)

beam: $(VENV)/installed-beam
	$(BIN)/python -m pytest tests/beam_test.py -rs $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/shellcheck $(SHELL_SCRIPTS)

clean:
	rm -rf $(VENV)

$(VENV)/installed: setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'error: $(PYTHON) is missing or older than Python 3.11;' \
	    'name another: make PYTHON=python3.12 ...' >&2; exit 1; }
	@echo 'Making $(VENV) and installing gpt1_jax with what it needs'
	@echo '(once; about 500 MB from the package index, a few minutes) ...'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo 'Installing what the tests need ...'
	@$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/installed-browser: $(VENV)/installed-test
	@echo 'Installing what drives Chromium (50 MB) ...'
	@$(PIP) --editable '.[browser]'
	@touch $@

$(VENV)/installed-peers: $(VENV)/installed-test
	@echo 'Installing torch and transformers (up to 3 GB with CUDA) ...'
	@$(PIP) --editable '.[test,peers]'
	@touch $@

$(VENV)/installed-tpu: $(VENV)/installed-test
	@echo 'Installing the compiler for TPUs (libtpu) ...'
	@$(PIP) --editable '.[test,tpu]'
	@touch $@

$(VENV)/installed-beam: $(VENV)/installed-test
	@echo 'Installing Apache Beam ...'
	@$(PIP) --editable '.[test,beam]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed-test
	@echo 'Installing the linters ...'
	@$(PIP) --editable '.[dev]'
	@touch $@
