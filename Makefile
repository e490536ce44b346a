.PHONY: help install tools check test test-long test-fault test-gpu deploy-test container-test soak demo serve bench bench-quick compare coresets svp release-api clean
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
POOL ?= out/pool
OUT ?= out
DATA ?= tests/data
COMPARED ?= $(OUT)/compare

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Make .venv with everything, at the versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt proto/generate.py $(wildcard proto/coresift/v1/*.proto)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Coresift needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[server,cpu,simulate]' --group check --group test
	@touch $@

tools: ## Install the system tools that tests use: prometheus, kubectl (Debian, as root)
	.ci/tools

check: $(INSTALLED) ## Lint, types, layers, API
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p coresift.server -p coresift.client
	$(BIN)/lint-imports --no-cache
	$(BIN)/hadolint Dockerfile
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf breaking --against released.binpb

test: $(INSTALLED) ## Every test but the long ones and the attacks
	$(BIN)/pytest -n 2 --dist loadfile $(TEST_ARGS) -m "not long and not fault and not container and not gpu"

test-long: $(INSTALLED) ## The tests that take minutes
	$(BIN)/pytest -m "long and not fault"

test-fault: $(INSTALLED) ## Attacks on every promise, with injected faults (up to 25 minutes)
	$(BIN)/python -m pip install --quiet -c constraints.txt --group fuzz
	$(BIN)/pytest tests/fault/test_overload.py
	$(BIN)/pytest -n 2 --dist worksteal tests/fault --ignore tests/fault/test_overload.py

test-gpu: $(INSTALLED) ## The laws on a CUDA device, which skip without one (CORESIFT_TEST_DEVICE=torch:cpu: on torch's CPU)
	$(BIN)/pytest -m gpu -rs tests/gpu

deploy-test: $(INSTALLED) ## Alerts and dashboards on a live Prometheus, the drain in real time (three minutes)
	$(BIN)/pytest -m long tests/integration/deploy

container-test: $(INSTALLED) ## Build what is in the image, by the Dockerfile's steps, and run it (two minutes)
	$(BIN)/pytest -m container

soak: $(INSTALLED) ## Ten minutes of mixed load: memory, tasks, descriptors, connections, permits
	$(BIN)/python -m tests.fault.soak

demo: $(INSTALLED) ## A simulated labeling campaign on real data, with a table and curves
	$(BIN)/coresift simulate tests/data/clinc150 --concepts 4 --seeds 1 --budget 1000 --out $(OUT)/demo

$(POOL): | $(INSTALLED)
	$(BIN)/coresift pool build tests/data/clinc150/embeddings.npy --ids tests/data/clinc150/ids.txt.gz \
	  --metadata tests/data/clinc150/items.jsonl.gz --name clinc150 --out $@

serve: $(INSTALLED) $(POOL) ## Serve the pool of the demo on 127.0.0.1:50051 (POOL=DIR for another)
	$(BIN)/coresift serve --pool $(POOL)

bench: $(INSTALLED) ## Measure every target at 1M x 256 and ten times that (hours, 20 GB of disk)
	$(BIN)/python -m tests.benchmarks --out $(OUT)/bench

bench-quick: $(INSTALLED) ## The loop, annotators, sessions, scans, starts at 100k items (three minutes)
	$(BIN)/python -m tests.benchmarks --quick --out $(OUT)/bench

compare: $(INSTALLED) ## Every strategy on real data: tables and plots (DATA=DIR; an hour)
	$(BIN)/coresift simulate $(DATA)/clinc150 --methods all --compare --resume --out $(COMPARED)/clinc150
	test ! -d $(DATA)/fashion_mnist || $(BIN)/coresift simulate $(DATA)/fashion_mnist \
	  --use use_index_longtail.npy --methods all --compare --resume --out $(COMPARED)/fashion_mnist

coresets: $(INSTALLED) ## Every core-set method on real data: tables and plots (DATA=DIR; an hour)
	$(BIN)/python -m tests.benchmarks.coresets $(DATA)/clinc150 --items 10000 --out $(OUT)/coresets/clinc150
	test ! -d $(DATA)/fashion_mnist || $(BIN)/python -m tests.benchmarks.coresets \
	  $(DATA)/fashion_mnist --items 10000 --out $(OUT)/coresets/fashion_mnist

svp: $(INSTALLED) ## Selection via proxy on real images (DATA=DIR with fashion_mnist; an hour)
	$(BIN)/python -m tests.benchmarks.svp run --resume --out $(OUT)/svp \
	  --data $(if $(wildcard $(DATA)/fashion_mnist),$(DATA)/fashion_mnist,$(DATA)/fashion_mnist_6000)

release-api: $(INSTALLED) ## Make the API of now the one that `make check` compares with
	cd proto && ../$(BIN)/buf build -o released.binpb

clean: ## Remove what was made
	rm -rf .venv out dist
