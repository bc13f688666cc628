# What one does with Phalanx in a checkout. Every target sets up .venv first (deploy/bootstrap.py), which takes a
# minute or two once and a fifth of a second from then on.

ENGINE ?= auto# auto, cuda or cpu: which build of vLLM
MODEL ?=
DP ?=
TP ?=
PORT ?=
URL ?=
ARGS ?=
BIN := .venv/bin

# The environment's own Python first: a new python3 on the PATH is no reason to build everything again.
ifndef PYTHON
PYTHON := $(shell for python in $(BIN)/python python3 python3.12 python3.13 python3.11; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo "$$python" && exit; done; echo python3)
endif
SETUP = @$(PYTHON) deploy/bootstrap.py --engine $(ENGINE)

.DEFAULT_GOAL := help
.PHONY: help serve test check bench load survival chaos nodes ray journal clients gpu clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  Variables: ENGINE=auto|cuda|cpu PYTHON=python3.12 ARGS='more arguments'"

serve: ## Serve, all set-up included: make serve MODEL=... DP=ranks TP=workers PORT=8000
	$(SETUP)
	@$(BIN)/phalanx serve $(MODEL) $(if $(DP),--dp-size $(DP)) $(if $(TP),--tp-size $(TP)) $(if $(PORT),--port $(PORT)) $(ARGS)

test: ## Run all tests but the long ones, with real vLLM too; ARGS=tests/unit runs some
	$(SETUP) --dev
	$(BIN)/python -m pytest --ignore=tests/load --ignore=tests/survival --ignore=tests/netns --ignore=tests/clients \
		--ignore=tests/ray \
		$(if $(ARGS),$(ARGS),-n 2 --no-loadscope-reorder)

check: ## Lint, format, types and the rules of the layout: what CI runs before the tests
	$(SETUP) --dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy deploy
	$(BIN)/mypy examples tests/load
	$(BIN)/python -m pytest -q tests/unit/test_architecture.py

bench: ## Measure against the peers; ARGS='gateway' or another one measures something else
	$(SETUP) --dev
	$(BIN)/python -m bench $(if $(ARGS),$(ARGS),throughput)

load: ## The load tests; URL=http://host:8000 puts that service under load, ARGS='--clients 64 --duration 1m'
	$(SETUP) --dev
	$(BIN)/python -m $(if $(URL),tests.load --url $(URL),pytest tests/load) $(ARGS)

survival: ## Kill real vLLM's processes in every stage and see it recover, and vLLM on two nodes; about half an hour
	$(SETUP) --dev
	$(BIN)/python -m pytest -s tests/survival $(ARGS)

chaos: ## 500 random rounds of kills, restarts, stalls and poison on simulated ranks; ARGS='--seed 2 --only 17'; ARGS=--nodes on nodes
	$(SETUP) --dev
	$(BIN)/python -m tests.chaos $(ARGS)

nodes: ## Nodes as network namespaces: links cut, agents and gateways killed; root and iproute2; about five minutes
	$(SETUP) --dev
	$(BIN)/python -m pytest -s tests/netns $(ARGS)

ray: ## Ranks that Ray places: clusters of three nodes on this machine, killed in parts and as a whole; about half an hour
	$(SETUP) --dev
	$(BIN)/python -m pytest -s tests/ray $(ARGS)

journal: ## The durable store on SQLite and on a PostgreSQL of its own (apt-get install postgresql), and gateways killed; ten minutes
	$(SETUP) --dev
	$(BIN)/python -m pytest tests/journal --postgres --kills 50 $(ARGS)

clients: ## Others' clients, each in an environment of its own (3 GB): openai, lm-eval, inspect, guidellm, LiteLLM, LangChain; ten minutes
	$(SETUP) --dev
	$(BIN)/python -m pytest -o timeout=1800 tests/clients $(ARGS)

gpu: ## On a host with GPUs: values at the edge of what vLLM's workers hold; about two minutes
	$(SETUP)
	$(BIN)/python -m tests.gpu $(ARGS)

clean: ## Remove .venv and everything else that was built here
	rm -rf .venv .venv-clients .venv-peers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
