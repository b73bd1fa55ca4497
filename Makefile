# What people run. Each target sets up what it needs first.
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-down image test test-long chaos bench bench-scale bench-profile bench-proxy lint

UV := $(shell command -v uv || echo $${XDG_CACHE_HOME:-$$HOME/.cache}/syncer/uv/bin/uv)
ROOT := $(filter 0,$(shell id -u))

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(UV)  ## install what is missing: uv, the Python packages, and as root the Debian packages of the node
	@$(UV) sync --quiet
	@missing=$$($(UV) run --quiet python -m e2e.lab packages); \
	if [ -z "$$missing" ]; then :; \
	elif [ -n "$(ROOT)" ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	else echo "no real node here: it needs root and" $$missing; fi

$(UV):
	python3 -m venv $(patsubst %/bin/uv,%,$(UV))
	$(patsubst %/uv,%/pip,$(UV)) install --quiet uv

demo: setup  ## a host cluster, two virtual clusters and what can be seen of them
	@$(UV) run python -m e2e.demo

demo-down: setup  ## take the demo down
	@$(UV) run python -m e2e.demo down

image: setup  ## the container image, without Docker or a registry; a lab that runs gets it
	@$(UV) run python -m e2e.lab.syncer_image

test: setup  ## every tier of tests: lint, types, contracts, unit, API servers, node
	@$(UV) run python -m e2e.tiers

test-long: setup  ## the tests that take longer than anybody waits for
	@$(UV) run python -m e2e.tiers long virtual-older host-older

SEEDS ?= 5000
FIRST ?= 0
chaos: setup  ## SEEDS=5000 random schedules from FIRST=0 on, on all cores
	@seq $(FIRST) 50 $$(($(FIRST) + $(SEEDS) - 1)) | xargs -P $$(nproc) -I '{}' sh -c \
	  'SYNCER_CHAOS_SEEDS={}+50 $(UV) run pytest --quiet --tb=short -p no:cacheprovider tests/sync/test_chaos.py -k agree || exit 1'

bench: setup  ## measure, on simulated nodes
	@$(UV) run python -m bench.run

bench-scale: setup  ## ten thousand pods on simulated nodes, and fairness between namespaces
	@$(UV) run python -m bench.scale

bench-profile: setup  ## where the syncer's CPU time goes
	@$(UV) run python -m bench.profile

bench-proxy: setup  ## what the front door costs beside going direct
	@$(UV) run python -m bench.proxy

lint: setup  ## the tiers that need nothing running
	@$(UV) run python -m e2e.tiers lint types contracts
