PYTHON ?= python3
VENV ?= .venv
THREADS := $(shell nproc 2>/dev/null || echo 2)
BIN := $(VENV)/bin
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	--num_cpu_threads_per_process $(THREADS)

.PHONY: help install quickstart test test-fast test-conformance lint docs hub clean

help:
	@echo "make quickstart  pre-train a tiny model on synthetic ECGs, then score and plot an ECG file, also with the weights trained on PTB-XL"
	@echo "make test        the whole test suite, with ruff and mypy"
	@echo "make test-fast   the tests that need no model: files that import neither torch nor transformers"
	@echo "make test-conformance  transformers' own common test suites on our classes, fetched from the package index"
	@echo "make docs        guides and API reference, into site/"
	@echo "make lint        ruff and mypy alone"
	@echo "make hub         the folders of hub_cards/ to publish, with their code, in build/hub/"
	@echo "make clean       remove the virtual environment and what the other targets made"

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

install: $(VENV)/.installed

quickstart: install
	$(LAUNCH) examples/pretrain.py --dataset synthetic --num_records 2000 --epochs 8 --crop_seconds 3.84 \
		--batch_size 64 --lead_dropout 0.2 --size tiny --vocab_size 500 --output_dir merit-ecg \
		--overwrite_output_dir
	$(BIN)/python examples/quickstart.py --model merit-ecg
	$(BIN)/python examples/quickstart.py --model hub_cards/merit-ecg

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two workers with a thread each: two with two threads each wait for one another on two cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

hub: install
	for name in merit-ecg merit-ecg-statements merit-ecg-report; do \
		$(BIN)/python hub_cards/make_hub_folder.py --model hub_cards/$$name --output build/hub/$$name || exit 1; done

test-fast: install
	$(BIN)/python -m pytest -n 2 -m "not slow and not real_data" \
		$$(grep -LE '^(import|from) (torch|transformers|modeling_merit)( |$$)' tests/test_*.py)

test-conformance: install
	$(BIN)/python tests/conformance/fetch.py build/conformance
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 -q tests/conformance/suite_*.py

docs: install
	rm -rf build/docs
	$(BIN)/python setup.py --quiet build_py --build-lib build/docs  # modules where an installation has them
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # without a notice on the next MkDocs

clean:
	rm -rf $(VENV) build dist site *.egg-info merit-ecg runs
