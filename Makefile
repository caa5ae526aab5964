# Every habit of a developer as one word. Each line below can be pasted into a shell as well.

ENVOY_VERSION ?= 1.40.0
ENVOY_VERSIONS ?= 1.36.4 1.37.0 1.39.3 1.40.0
ARCHITECTURES ?= x86_64 aarch64

# What the tests run: see integration-tests/src/installed.rs.
export ENVOY ?= $(CURDIR)/.tools/envoy/$(ENVOY_VERSION)/envoy
export ENVOY_RUNTIME ?= $(CURDIR)/target/quick/envoy-runtime
export RUNTIME_TEST_PYTHON ?= $(CURDIR)/.tools/python/bin/python
export RUNTIME_TEST_NODE_MODULES ?= $(CURDIR)/.tools/node/node_modules
export RUNTIME_TEST_ETCD ?= $(CURDIR)/.tools/etcd/3.7/etcd
export RUNTIME_TEST_ETCD_DEBIAN ?= $(CURDIR)/.tools/etcd/debian/etcd
export RUNTIME_TEST_JARS ?= $(CURDIR)/.tools/java
export RUNTIME_TEST_GRPCURL ?= $(CURDIR)/.tools/bin/grpcurl
export RUNTIME_TEST_TRAP ?= $(CURDIR)/target/quick/filters/runtime-trap.wasm
export RUNTIME_TEST_DAPR_GO ?= $(CURDIR)/.tools/bin/dapr-go

# The commit, for `envoy-runtime --version` of what is built for others; not for an edit, which it would make build more.
COMMIT = $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null)

FILTERS = --target wasm32-wasip1 -p runtime-filter -p tunnel-filter
STATE_FILTER = --target wasm32-wasip1 -p runtime-filter --no-default-features
FEATURES = --features envoy-runtime-proto/descriptors
TEST = cargo test --no-fail-fast $(FEATURES)

.DEFAULT_GOAL := help
.PHONY: help run test lint bench build program quick fmt clean toolchain needed basics tools filters filters-for-tests docs site dist test-dist dist-twice matrix test-matrix
.PHONY: test-containers fuzz hostile mutants

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: basics needed ## Build what that takes, and serve state in memory on the default ports (ARGS: more for `envoy-runtime run`)
	$(ENVOY_RUNTIME) run -f envoy-configs/in-memory.yaml --envoy $(ENVOY) $(ARGS)

needed: toolchain
	tools/filters.sh filter target/filters needed
	$(PROGRAM)

test: tools program filters-for-tests ## Run all tests: real Envoy, real servers, real SDKs
	$(TEST) --workspace --exclude runtime-filter

lint: tools .tools/bin/cargo-deny ## Formatting, clippy for both targets, licences and advisories
	cargo fmt --all --check
	cargo clippy --all-targets $(FEATURES),integration-tests/containers,integration-tests/dist -- -D warnings
	cargo clippy $(FILTERS) --features runtime-filter/trap -- -D warnings
	cargo clippy $(STATE_FILTER) -- -D warnings
	tools/deny.sh

bench: basics program ## Measure against Envoy's own direct response, side by side
	tools/system.sh tests
	tools/etcd.sh
	cargo run --release --bin runtime-bench

build: filters ## Build target/release/envoy-runtime with the filters inside
	@echo "building target/release/envoy-runtime (the first time three minutes on two cores)"
	ENVOY_RUNTIME_COMMIT=$(COMMIT) cargo build --release -p envoy-runtime

PROGRAM = cargo build --profile quick -p envoy-runtime

program: filters ## Build target/quick/envoy-runtime: the same, linked quickly, for `make run` and the tests
	$(PROGRAM)

quick: filters-for-tests ## Build target/quick/envoy-runtime with filters built quickly: for an edit and its test, not for measuring
	tools/filters.sh filter-quick target/quick/filters
	ENVOY_RUNTIME_FILTERS=$(CURDIR)/target/quick/filters $(PROGRAM)

filters: toolchain ## Build runtime.wasm, runtime-state.wasm and tunnel.wasm into target/filters
	tools/filters.sh filter target/filters

dist: toolchain ## Build what users install into dist/: a wheel and a tarball for x86-64 and arm64, an SBOM, checksums (ARCHITECTURES)
	tools/python.sh
	tools/dist.sh $(ARCHITECTURES)

test-dist: tools dist ## Install what `make dist` built as a user would, and call it
	cargo test -p integration-tests --features dist --test dist

dist-twice: dist ## Build it once more in another folder, and compare
	tools/dist-twice.sh $(ARCHITECTURES)

site: ## Build the documentation as a site with search into target/site
	tools/mdbook.sh
	tools/site.sh

filters-for-tests: toolchain ## Build the filter with a method that traps, for the tests of what happens then
	tools/filters.sh filter-quick target/quick/filters trap

fmt: ## Format all code
	cargo fmt --all

docs: ## Write docs/configuration.md from the code's own tables
	UPDATE=1 cargo test -p runtime-api --test reference

test-matrix: tools program filters-for-tests ## Run the integration tests with every Envoy that is supported
	tools/envoy.sh $(ENVOY_VERSIONS)
	tools/matrix.sh $(ENVOY_VERSIONS)

matrix: test-matrix ## The same

test-containers: tools program filters-for-tests ## Run the integration tests with Envoy and Redis in containers
	tools/containers.sh
	RUNTIME_TEST_BACKEND=containers cargo test -p integration-tests --features containers

fuzz: tools program ## Send two million mutated requests
	RUNTIME_TEST_FUZZ_FRAMES=2000000 cargo test -p integration-tests --test fuzz -- --nocapture

hostile: tools program ## Ten hostile minutes for one Envoy; HOSTILE="--seconds 60 --only burst,pause" and the like narrow it
	cargo run --profile quick -p integration-tests --bin runtime-hostile -- $(HOSTILE)

MUTANTS ?= # arguments, such as `-f runtime-api/src/component/lock/redis.rs`, or `--shard 0/8` for every eighth

mutants: .tools/bin/cargo-mutants ## Change the core in one place after the other and see that a test notices: hours
	.tools/bin/cargo-mutants mutants --output target $(MUTANTS)

toolchain: ## Install what this machine lacks to build: a linker, the wasm target
	tools/system.sh build
	tools/rust.sh

basics: toolchain ## Install what this machine lacks to build and run it: also Envoy, Python with the Dapr SDK
	tools/system.sh
	tools/python.sh
	tools/envoy.sh $(ENVOY_VERSION)

tools: basics ## Install all that this machine lacks: also the servers, Node, a JDK, the SDKs
	tools/system.sh tests
	tools/node.sh
	tools/etcd.sh
	tools/grpcurl.sh
	tools/dapr-go.sh
	tools/java.sh

.tools/bin/cargo-deny: tools/cargo-deny.sh
	tools/cargo-deny.sh

.tools/bin/cargo-mutants: tools/cargo-mutants.sh
	tools/cargo-mutants.sh

clean: ## Remove what was built and fetched
	rm -rf target .tools dist
