# Every chore has one word, and CI calls the same ones. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint fuzz bench bench-peers docs fmt

SCRIPTS := $(wildcard scripts/*) .ci/run $(wildcard bench/*/start bench/*/peers/*/start)

# rustup's folder, for shells that were open before it was installed.
export PATH := $(PATH):$(HOME)/.cargo/bin

help: ## Lists these words
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: ## Builds, serves a small RAG service behind the gateway, prints commands to try; Ctrl-C stops
	@scripts/setup demo
	@exec scripts/demo

test: ## Runs every test (installs what is missing, and says so)
	@scripts/setup test
	@python=$$(scripts/python-env) && export PORTCULLIS_TEST_PYTHON="$$python" PYTHONDONTWRITEBYTECODE=1 && \
	chroma=$$(scripts/python-env chroma) && export PORTCULLIS_TEST_CHROMA="$$chroma" && \
	lightrag=$$(scripts/python-env lightrag) && export PORTCULLIS_TEST_LIGHTRAG="$$lightrag" && \
	proxies=$$(scripts/python-env proxies) && export PORTCULLIS_TEST_PROXIES="$$proxies" && \
	node=$$(scripts/node-env) && export PORTCULLIS_TEST_NODE="$$node" && \
	"$$python" examples/rag-fastapi/test_service.py && \
	cargo test --workspace --locked --no-fail-fast

lint: ## Formatting, clippy, syntax of the scripts
	@scripts/setup lint
	@for script in $(SCRIPTS); do bash -n "$$script"; done
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

fmt: ## Formats the sources
	cargo fmt --all

# SECONDS_EACH is for each target; TARGET narrows them.
SECONDS_EACH ?= 60
fuzz: ## Fuzzes the parsers (fuzz/src/lib.rs says which): make fuzz [SECONDS_EACH=60] [TARGET=path]; needs nightly Rust and cargo-fuzz
	@scripts/setup lint
	@scripts/fuzz $(SECONDS_EACH) $(TARGET)

bench: ## Micro-benchmarks: policy, gate, proxy
	@scripts/setup lint
	cargo bench --package portcullis --locked

# BENCH is the folder of a side-by-side bench with a `run` that takes --peer-dir; ONLY narrows its peers.
ONLY ?= nginx-plain,nginx-lua-cache,haproxy-jwt@ES256,envoy-jwt-cache,portcullis
bench-peers: ## Side by side with other proxies: make bench-peers BENCH=/path/to/bench
	@[[ -n "$(BENCH)" ]] || { echo "say where the bench is: make bench-peers BENCH=/path/to/bench" >&2; exit 64; }
	cargo build --release --locked --bin portcullis --example bench_tokens
	"$(BENCH)/run" --peer-dir bench/portcullis --only '$(ONLY)' $(ARGS)

docs: ## Generates what is generated: config/schema.json, docs/reference/
	BLESS=1 cargo test --quiet --locked --package portcullis --test config_files schema
	BLESS=1 cargo test --quiet --locked --package portcullis --test docs _page_is_
