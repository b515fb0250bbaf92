# Every target works alone from a clean clone. Python 3.11 or newer, a C++ compiler, cmake and make are all that must be
# there. What is set up already is not done again: scripts/install.py remembers, in .venv/.setup, what it finished.
#
# SMALLHOLD_TORCH_INDEX (an index address or a folder) says where the CPU build of PyTorch is, SMALLHOLD_CACHE where
# weights and compiled wheels are kept. Both come from the environment; see docs/operations.md.

PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# The rest is set on make's command line only: a stray HOST or INDEX of the shell must not steer anything.
VENV := .venv
# native: for this CPU; portable: for every x86-64 CPU since 2013.
LLAMA_BUILD := native
# cpu: stop where pip finds only PyTorch's CUDA build; any: take it.
TORCH := any
# yes: install a copy of smallhold instead of a link to this folder.
COPY := no
# Arguments passed on to the server, to pytest or to the benchmark.
ARGS :=

EXAMPLE_INDEX := .smallhold/example
# make serve: the index (the example's is built where it is the one), and where to listen (the settings decide if unset).
INDEX := $(EXAMPLE_INDEX)
HOST :=
PORT :=
# make eval-report and the benchmarks: where the QA sets are; where the reports go.
DATA := ../shared/data
OUT := out
# make bench: which of benchmarks/ to run, the quick ones first; the last three where what they measure is in DATA.
BENCH := retrieval window long_answers embedding drift poisoning llama_speed engine_lookup chunking index_growth \
	lexical_kinds $(and $(wildcard $(DATA)/formats),formats) $(and $(wildcard $(DATA)/conversations),followup) \
	$(and $(wildcard $(DATA)/scifact),scale)
NQ_SYSTEMS := benchmarks/nq-recorded.toml
REPORT_MODELS := qwen2.5-coder-0.5b-instruct qwen2.5-coder-1.5b-instruct smollm2-135m-instruct

# Tests that share something lie together in their file and are dealt out in runs, the rest of a long run to whoever is
# done first. Real models take all cores, so theirs follow one another.
PARALLEL := --numprocesses auto --dist worksteal
# Tests start processes by the dozen: each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

TEST_MODELS := all-MiniLM-L6-v2 qwen2.5-coder-0.5b-reader smollm2-135m-instruct

BIN := $(VENV)/bin
SMALLHOLD := $(BIN)/smallhold
SETUP = $(or $(PYTHON),$(error there is no Python 3.11 or newer on the PATH: set PYTHON=)) scripts/install.py
OPTIONS = --venv $(VENV) --llama-build $(LLAMA_BUILD) --torch $(TORCH) $(if $(filter yes,$(COPY)),--copy)

.DEFAULT_GOAL := help
.PHONY: help install serve test test-quick check lint types format bench bench-engine contract soak image-check eval-report lock clean dependencies package dev

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: package ## Set everything up: virtual environment, llama.cpp for this CPU, default weights
	@$(SMALLHOLD) models pull

serve: install ## Serve the chat page on http://127.0.0.1:8080, over the example documents or INDEX=DIR; HOST=, PORT=
	@$(if $(filter $(EXAMPLE_INDEX),$(INDEX)),$(SMALLHOLD) index examples/corpus --index $(INDEX))
	@exec $(SMALLHOLD) serve --index $(INDEX) $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) $(ARGS)

test: dev ## Run all tests: those without real models, then those with them
	@$(SMALLHOLD) models pull $(TEST_MODELS)
	@$(BIN)/python -m pytest -m "not model" $(PARALLEL) $(ARGS)
	@$(BIN)/python -m pytest -m model $(ARGS)

test-quick: dev ## Run the tests that need no weights and no browser and are not slow
	@$(BIN)/python -m pytest -m "not model and not browser and not slow" $(PARALLEL) $(ARGS)

check: lint types test-quick ## What to run before a commit

lint: dev ## Lint, and check the formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: dev ## Check the types
	@$(BIN)/mypy
	@$(BIN)/mypy scripts/install.py scripts/image_check.py

format: dev ## Format the code and mend what ruff can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: dev ## Run the measurements of benchmarks/, hours in all, or one: BENCH=NAME, with ARGS of its own
	@$(SMALLHOLD) models pull $(TEST_MODELS)
	@$(SMALLHOLD) index examples/corpus --index $(EXAMPLE_INDEX)
	@set -e; for name in $(BENCH); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name $(ARGS); done

bench-engine: dev ## Measure the inference engine beside llama-server and llama-cpp-python's server, over DATA/squad2-small
	@$(SMALLHOLD) models pull $(TEST_MODELS)
	@$(BIN)/python -m benchmarks.engine $(if $(wildcard $(DATA)/squad2-small),--data $(DATA)/squad2-small) $(ARGS)

contract: dev ## Ask the server whatever its OpenAPI document allows, and hold it to that; 500 examples an operation
	@$(BIN)/python -m benchmarks.contract --out $(OUT)/contract.json $(ARGS)

soak: dev ## Overload the server and disturb indexes, for some 30 minutes; ARGS="--parts faults --share 0.1" and the like
	@$(BIN)/python -m benchmarks.soak --out $(OUT)/soak.json $(ARGS)

image-check: ## Carry out the Dockerfile's steps in a clean root, and run what comes out; needs debootstrap and root, no Docker
	@$(or $(PYTHON),$(error there is no Python 3.11 or newer on the PATH: set PYTHON=)) scripts/image_check.py $(ARGS)

eval-report: install ## Measure small against large on the QA sets of DATA; an hour or more, resumable, into OUT
	@$(SMALLHOLD) models pull $(REPORT_MODELS)
	@$(SMALLHOLD) eval run --data $(DATA)/squad2-small --out $(OUT)/squad2-small --cache $(OUT)/cache $(ARGS) \
		--system tiny,small,large,small+retrieval,small+warm,large+retrieval,small+oracle
	@$(SMALLHOLD) eval run --data $(DATA)/nq-recorded --out $(OUT)/nq-recorded --cache $(OUT)/cache --skip 200 $(ARGS) \
		--systems $(NQ_SYSTEMS) --system small+retrieval,large+retrieval,GPT-3.5,ChatGPT,GPT-4,Bing
	@$(call rewritten,squad2-small)
	@$(call rewritten,nq-recorded,--skip 200)
	@$(SMALLHOLD) eval judged $(DATA)/judged/triviaqa-judged.json
	@$(SMALLHOLD) eval judged $(DATA)/nq-recorded

# A run on documents whose answers were rewritten: who follows them, and who remembers? $(2) are options of it.
rewritten = { test -d $(OUT)/$(1)-rewritten || $(SMALLHOLD) eval counterfactual $(DATA)/$(1) $(OUT)/$(1)-rewritten; } \
	&& $(SMALLHOLD) eval run --data $(OUT)/$(1)-rewritten --out $(OUT)/$(1)-counterfactual --cache $(OUT)/cache \
	--limit 100 $(2) --no-abstain $(ARGS) --system small,large,small+retrieval,large+retrieval

lock: ## Lock the dependencies anew after a change of pyproject.toml; ARGS=--upgrade takes the newest
	@PYTHON=$(PYTHON) bash scripts/lock.sh $(ARGS)

clean: ## Remove the virtual environment and build leftovers; indexes, weights and compiled wheels stay
	@if [ -d $(VENV)/.setup ]; then rm -rf $(VENV); fi
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	@find rag indexer eval configs tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

dependencies: ## The set-up's first part: all that smallhold runs on, without smallhold (the Dockerfile uses it)
	@$(SETUP) dependencies $(OPTIONS)

package: ## The set-up's second part: smallhold itself, without weights (the Dockerfile uses it)
	@$(SETUP) package $(OPTIONS)

dev: ## Set up what tests, lint and types need
	@$(SETUP) dev $(OPTIONS)
