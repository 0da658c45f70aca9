# Commands for a checkout: `make help` lists them.
#
# The environment $(VENV) is created with $(PYTHON) on first use. Stamp files in
# it record the installed extras, which are updated when setup.py changes.

PYTHON ?= python3
VENV ?= .venv
LOCK ?=
ARGS ?=

COMMA := ,
BIN := $(VENV)/bin
# A module is compiled when it is first imported; most never are.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet \
  --no-compile $(if $(LOCK),--constraint $(LOCK))
PYTEST := $(BIN)/python -m pytest
SHELL_SCRIPTS := .ci/run $(wildcard launch/*.sh)
# Core tests: model, training step, corpus, tokenizers, tasks, configuration.
FAST := $(patsubst %,tests/%_test.py, \
  batches building checkpoint chips cleaning cli configs data_sets decoding \
  documents documents_refused dropout examples examples_refused features \
  layers layouts linear losses metrics models optim progress \
  sentencepiece_tokenizer sharding sharding_traffic shards shards_damaged \
  step storage summary table tokenization windows)

.DEFAULT_GOAL := help
.PHONY: help demo torture record test test-fast browser peers tpu beam docs lint format lock clean

help:
	@echo 'make demo       run every command once on a small corpus, in 5 to 12'
	@echo '                CPU minutes; writes runs/demo/report.html'
	@echo 'make test       run all tests (one file: ARGS=tests/shards_test.py)'
	@echo 'make test-fast  run the core tests, in under 2 minutes'
	@echo 'make torture    stop commands at random moments, damage checkpoints and'
	@echo '                files, and count what is lost; ARGS=--trials=3 is short'
	@echo 'make record     time a run to perplexity 90 (ARGS=--books=FOLDER)'
	@echo 'make lint       check format, style, types, import rules and shell'
	@echo 'make format     format the code with ruff'
	@echo 'make browser    test the report page in Chromium'
	@echo 'make peers      test against torch and transformers at full size'
	@echo 'make tpu        compile for TPU slices, without a TPU (libtpu)'
	@echo 'make beam       test prepare on Apache Beam'
	@echo 'make docs       build the documentation into site/'
	@echo 'make lock       update requirements.lock to the newest versions'
	@echo 'make clean      remove $(VENV); keep runs/'
	@echo
	@echo 'Options: PYTHON=python3.12 selects the interpreter (3.11 or later),'
	@echo 'VENV=DIR the environment; LOCK=requirements.lock installs the tested'
	@echo 'versions.'

demo: $(VENV)/installed
	$(BIN)/python launch/demo.py $(ARGS)

# Three at a time on two cores: many tests wait for processes of their own.
test: $(VENV)/installed-test
	$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

torture: $(VENV)/installed-test
	$(BIN)/python launch/malformed.py $(if $(ARGS),--inputs=2000)
	$(BIN)/python launch/torture.py --output=runs/torture $(ARGS)

record: $(VENV)/installed
	$(BIN)/python launch/record.py $(ARGS)

test-fast: $(VENV)/installed-test
	$(PYTEST) -n 2 --dist loadfile -m 'not slow and not peers and not tpu' \
	  $(FAST) $(ARGS)

browser: $(VENV)/installed-browser
	$(PYTEST) tests/browser_*_test.py -rs $(ARGS)

# Without the cache that tests/conftest.py sets, which is tried with CPUs only.
peers: $(VENV)/installed-peers
	JAX_ENABLE_COMPILATION_CACHE=false $(PYTEST) -m peers $(ARGS)

tpu: $(VENV)/installed-tpu
	JAX_ENABLE_COMPILATION_CACHE=false $(PYTEST) -m tpu -rs $(ARGS)

beam: $(VENV)/installed-beam
	$(PYTEST) tests/beam*_test.py -rs $(ARGS)

docs: $(VENV)/installed-docs
	JAX_PLATFORMS=cpu DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=1 \
	  $(BIN)/python -m mkdocs build --strict --quiet

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck $(SHELL_SCRIPTS)

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --editable '.[test,dev]'
	build/lock/bin/pip freeze --exclude-editable > requirements.lock

clean:
	rm -rf $(VENV)

$(VENV)/installed: setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'error: $(PYTHON) is missing or older than Python 3.11;' \
	    'select another: make PYTHON=python3.12 ...' >&2; exit 1; }
	@echo 'Installing gpt1_jax and its requirements in $(VENV)'
	@echo '(once; about 500 MB from the package index, a few minutes) ...'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# The pip of Python 3.11 takes twice as long. Without it we go on with that.
	@$(PIP) --upgrade pip || true
	@$(PIP) --editable .
	@touch $@

# Takes several at once, too: .venv/installed-dev,docs
$(VENV)/installed-%: $(VENV)/installed
	@echo 'Installing the extra $* ...'
	@$(PIP) --editable '.[test,$*]'
	@touch $@ $(patsubst %,$(VENV)/installed-%,$(subst $(COMMA), ,$*))
