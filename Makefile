# Everything one does with this repository. `make help` explains each target.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# tests run side by side; two workers suit the smallest machine this is built for
JOBS   ?= 2
SOURCES := crds/moa_api operator/moa_operator router/moa_router simulator/moa_simulator
CHECKED := $(SOURCES) tests bench

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint type bench crds docs cluster cluster-down images lock clean

help: ## explain every target
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "moa-operator needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(VENV)/.ready ## install everything into .venv (the other targets do it themselves)

demo: $(VENV)/.ready ## fuse one question on a real small model (SIMULATED=1: in seconds, KEEP=1: keep serving)
	$(BIN)/moa-router demo $(if $(SIMULATED),--simulated) $(if $(KEEP),--keep)

test: $(VENV)/.ready lint type ## lint, type-check and run all tests with coverage
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --cov --cov-report=term $(PYTEST)

lint: $(VENV)/.ready ## check format, style and the floors of the architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

type: $(VENV)/.ready ## check types, strictly
	$(BIN)/mypy $(CHECKED)

bench: $(VENV)/.ready ## measure the router against a bare relay, on this machine
	$(BIN)/python -m bench $(BENCH)

crds: $(VENV)/.ready ## write crds/moaprofiles.yaml from the models
	$(BIN)/python -m moa_api.schema --write crds/moaprofiles.yaml

cluster: $(VENV)/.ready ## start a Kubernetes to play with (NODES=2: with real nodes) and print its KUBECONFIG
	$(BIN)/python -m tests.cluster up $(if $(NODES),--nodes $(NODES),--stage)

cluster-down: $(VENV)/.ready ## stop exactly what `make cluster` started
	$(BIN)/python -m tests.cluster down

# ENGINE is found if not given; options of its `build` go to BUILD (BUILD='--volume …'), another base image to BASE.
ENGINE :=
BUILD  :=
BASE   :=
PUSH   :=
IMAGES := router operator simulator
NAME   := docker.io/moa-operator
TAG     = $(shell sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' pyproject.toml)

images: ## build the container images with docker, podman or buildah (PUSH=registry.example/team: push them too)
	set -e; engine='$(ENGINE)'; \
	for found in docker podman buildah; do \
	  if [ -z "$$engine" ] && $$found info >/dev/null 2>&1; then engine=$$found; fi; \
	done; \
	if [ -z "$$engine" ]; then echo "make images: neither docker nor podman nor buildah answers here" >&2; exit 1; fi; \
	revision=$$(git rev-parse HEAD 2>/dev/null || echo unknown); \
	for image in $(IMAGES); do \
	  $$engine build $(BUILD) $(if $(BASE),--build-arg BASE=$(BASE)) \
	    --build-arg VERSION=$(TAG) --build-arg REVISION=$$revision \
	    --file Dockerfile.$$image --tag $(NAME)/$$image:$(TAG) .; \
	  $(if $(PUSH),$$engine tag $(NAME)/$$image:$(TAG) $(PUSH)/$$image:$(TAG); $$engine push $(PUSH)/$$image:$(TAG);) \
	done

docs: $(VENV)/.ready ## write the references in docs/ from the code
	$(BIN)/python docs/write.py

# name a package with UPGRADE=… to renew it alone
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
  $(if $(UPGRADE),--upgrade-package $(UPGRADE),--upgrade)

lock: $(VENV)/.ready ## renew requirements/*.txt, with hashes
	$(LOCK) pyproject.toml --extra router -o requirements/router.txt
	$(LOCK) pyproject.toml --extra operator -o requirements/operator.txt
	$(LOCK) pyproject.toml --extra simulator -o requirements/simulator.txt
	$(LOCK) pyproject.toml --extra demo -o requirements/demo.txt
	$(LOCK) pyproject.toml --extra demo --extra dev -o requirements/dev.txt
	$(LOCK) --group build -o requirements/build.txt

clean: ## remove what the targets above made, but for .venv
	rm -rf .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist
