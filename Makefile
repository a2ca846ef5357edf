# Everything that is done with Isthmus on one machine. `make help` says what.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

CACHE := $(or $(ISTHMUS_CACHE),.cache)
BIN := .venv/bin
PACKAGES := mesh security public_edge private_core sync_bridge deploy chaos tests
# A part is set up again when what it was made from is newer than its stamp.
SET_UP := .venv/.packages $(CACHE)/datasets/.unpacked
# Nobody who brings a Kafka needs its jars, or Java.
ifeq ($(ISTHMUS_KAFKA_BOOTSTRAP),)
SET_UP += java $(CACHE)/kafka/broker.jsa
endif

##@ Use

.PHONY: demo
demo: setup ## Run the whole mesh on real traffic, break it on purpose, verify, print a table, stop
	$(BIN)/isthmus demo

.PHONY: run
run: setup ## Start the mesh and stay, printing its addresses; Ctrl-C stops it
	$(BIN)/isthmus run

.PHONY: bench
bench: setup ## Measure it: each figure as a ratio against a baseline of the same run (var/bench/)
	$(BIN)/python -m chaos.bench

.PHONY: drill
drill: setup ## Break the mesh in every way of the short suite, and prove from its books that it held (var/drill/)
	$(BIN)/isthmus drill run --short

##@ Develop

.PHONY: setup
setup: $(SET_UP) ## Bring all that is needed: Python packages, Java, Kafka, data sets. Quick when nothing is missing

.PHONY: test
test: setup browser softhsm lint ## Check style, types and architecture, then run every test
	$(BIN)/python -m pytest --numprocesses=2 --no-loadscope-reorder

.PHONY: lint
lint: .venv/.packages ## Check style, types, architecture and contracts alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/lint-imports
	$(BIN)/buf lint mesh/generated/contract.binpb

.PHONY: protos
protos: .venv/.packages ## Generate the code of the contracts again
	$(BIN)/python -m deploy.protos

.PHONY: clean
clean: ## Remove the mesh's state and every cache, but not .venv and the downloads
	rm -rf var .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help
help: ## Show this
	@awk 'BEGIN { FS = ":.*## "; printf "Isthmus: a hybrid-cloud gRPC service mesh whose contract is its policy.\n" } \
	    /^##@ / { printf "\n\033[1m%s\033[0m\n", substr($$0, 5) } \
	    /^[a-z]+:.*## / { printf "  \033[36mmake %-8s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nSettings: ISTHMUS_HOME (var), ISTHMUS_PORT_BASE (18400), ISTHMUS_EDGE_NODES (6), ISTHMUS_KAFKA_BROKERS (1), ISTHMUS_DATABASE_STANDBY, ISTHMUS_BACKUP, ISTHMUS_DATABASE_URL, ISTHMUS_KAFKA_BOOTSTRAP.\n'

.PHONY: browser
browser:
	@deploy/local/setup.sh browser

.PHONY: softhsm
softhsm:
	@deploy/local/setup.sh softhsm

.PHONY: java
java:
	@deploy/local/setup.sh java

.venv/.packages: requirements-dev.txt pyproject.toml deploy/local/setup.sh
	@deploy/local/setup.sh packages
	@touch $@

$(CACHE)/kafka/.jars: deploy/local/kafka/pom.xml | java
	@deploy/local/setup.sh kafka
	@mkdir -p $(@D) && touch $@

$(CACHE)/kafka/broker.jsa: $(CACHE)/kafka/.jars | .venv/.packages
	@deploy/local/setup.sh archive

$(CACHE)/datasets/.unpacked: deploy/local/datasets.txt | .venv/.packages
	@deploy/local/setup.sh datasets
	@touch $@
