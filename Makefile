# Two commands on a fresh machine: `make demo` and `make test`. Each installs what it needs.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed

.PHONY: install demo test test-plain test-ray lint docs lock bench chaos hosts scale clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rushes needs Python 3.11 or later, found " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --quiet --python $(PY) --require-hashes -r requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(PY) --no-deps -e .
	@# Ray starts many processes: without compiled bytecode each takes three times as long.
	@$(PY) -m compileall -q -j 0 $(VENV)/lib cluster actors jobs serve >/dev/null 2>&1 || true
	@touch $(STAMP)

demo: $(STAMP)
	@$(PY) -m jobs.demo

# Side by side: neither fills two cores, and together they take two thirds of the time.
test: $(STAMP)
	@$(MAKE) --no-print-directory -j 2 test-plain test-ray

test-plain: $(STAMP)
	$(PY) -m pytest -q

test-ray: $(STAMP)
	$(PY) -m pytest -q -m ray
	$(PY) -m pytest -q -m ray_process

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyrefly check
	$(VENV)/bin/lint-imports

docs: $(STAMP)
	$(PY) -m jobs.cli.reference > docs/cli.md

# No address of an index in the lock: it installs from whichever index the machine uses.
lock:
	$(VENV)/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev \
	  --no-emit-index-url --generate-hashes --no-header --quiet -o requirements.lock

# About 40 minutes on two quiet cores; BENCH_RESULTS=FOLDER sends the results of a trial elsewhere. Recordings of many
# people are fetched from Debian packages.
VOICES ?= .voices
PHOTOS ?= .photos
bench: $(STAMP)
	$(PY) -m benchmarks.transcription
	$(PY) -m benchmarks.diarization
	$(PY) -m benchmarks.bulk_write
	$(PY) -m benchmarks.voices
	$(PY) -m benchmarks.reembed
	$(PY) -m benchmarks.real_voices $(VOICES)
	$(PY) -m benchmarks.speaker_id $(VOICES)
	$(PY) -m benchmarks.clustering $(VOICES)
	$(PY) -m benchmarks.labelling
	$(PY) -m benchmarks.images
	$(PY) -m benchmarks.real_pictures $(PHOTOS)
	$(PY) -m benchmarks.duplicates $(PHOTOS)
	$(PY) -m benchmarks.serve_search
	$(PY) -m benchmarks.serve_overload
	$(PY) -m benchmarks.ingest
	$(PY) -m benchmarks.gpu
	@echo 'beside infinity-emb: $(PY) -m benchmarks.serve --infinity VENV/bin/infinity_emb'

# Kill drivers, actors, writers, decoders, connections and servers N times each (27 meet every point), a quarter of a minute a run.
N ?= 27
chaos: $(STAMP)
	$(PY) -m benchmarks.chaos --runs $(N)

# A backfill on four hosts (network namespaces, so root) that are lost one after the other; two minutes a run.
hosts: $(STAMP)
	$(PY) -m benchmarks.hosts --runs $(N)

# The engine with stages that replay timings: a quarter of an hour for each number of GPUs; then a million units.
scale: $(STAMP)
	$(PY) -m benchmarks.scale --gpus 1,2,4,8
	$(PY) -m benchmarks.scale_ledger
	$(PY) -m benchmarks.long_asset

clean:
	rm -rf $(VENV) demo
