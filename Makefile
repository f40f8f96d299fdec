# The commands of this project. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# Scripts and tests look for programs and images in target/, so cargo must not use another folder.
unexport CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR
ENVIRONMENT := integration/lab/environment
HOST_TRIPLE := x86_64-unknown-linux-gnu
RELEASE := target/$(HOST_TRIPLE)/release
DAEMONS := pod-watcher ipvs-programmer bgp-announcer node-router route-reflector
TOOLS := tunnel-init example-web
# The version that each program prints with --version.
PORTLB_VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)+$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
FUZZ_SECONDS ?= 60
# If FILTER is set, the targets with FILTER in their help run only the tests whose names contain this text.
FILTER ?=
# `make check` tests the crates that differ from the commit BASE.
BASE ?=
# Builds and runs test-runner, which writes the logs of its jobs to target/test-runner/.
TEST_RUNNER := cargo build --quiet --locked --workspace --bin test-runner && target/$(HOST_TRIPLE)/debug/test-runner

# The images of a test run contain the programs of the tests, so these programs need the version, too.
test test-all test-images test-cluster: export PORTLB_VERSION := $(PORTLB_VERSION)

.PHONY: help build static programs check test test-all test-unit test-integration test-images test-manifests test-kubernetes test-cluster demo lab lint fmt bench-convergence bench-kubernetes fuzz images environment environment-demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: static ## build the daemons: release, static, under target/x86_64-unknown-linux-gnu/release/

RELEASE_BUILD := PORTLB_VERSION="$(PORTLB_VERSION)" cargo build --release --locked $(DAEMONS:%=-p %) $(TOOLS:%=-p %)
static:
	$(RELEASE_BUILD) -p integration --bins

programs: ## build only the programs of the images
	$(RELEASE_BUILD)

check: ## check format, lints and unit tests of changed crates and their dependents (BASE=commit)
	$(TEST_RUNNER) --live check $(BASE:%=--base %)

test: ## run every test, in parallel where possible, and print a table of the jobs; CI runs this
	$(TEST_RUNNER) all

test-all: ## run every test, with every case of the long matrices instead of a sample
	$(TEST_RUNNER) --complete all

test-unit: ## run unit, property and component tests, and the check of the layers (FILTER=name for some)
	$(TEST_RUNNER) --live --filter "$(FILTER)" jobs unit

test-integration: ## run tests with a real kernel and real peers, in network namespaces (FILTER=name for some)
	$(TEST_RUNNER) --live --filter "$(FILTER)" jobs system- $(if $(FILTER),,kernel-)

test-images: ## build the container images, check each one and run its program
	$(TEST_RUNNER) --live jobs images-test

test-manifests: ## check flags, privileges and rights of the manifests, with a real API server (FILTER=name for some)
	$(TEST_RUNNER) --live --filter "$(FILTER)" jobs manifests

test-kubernetes: ## run pod-watcher against a real API server that fails in many ways (FILTER=name for some)
	$(TEST_RUNNER) --live --filter "$(FILTER)" jobs kubernetes

test-cluster: ## run a real cluster of three nodes under load, kube-proxy in two modes (LAB_CASES=scale,drain for some)
	$(TEST_RUNNER) --live jobs cluster

demo: environment-demo build ## show the whole load balancer on this machine, step by step (under a minute after the build)
	$(ENVIRONMENT)/run $(RELEASE)/demo

lab: environment-demo build ## start the demo's topology and a prompt in it
	$(ENVIRONMENT)/install packages grpcurl
	LAB_TIMEOUT=0 $(ENVIRONMENT)/run $(RELEASE)/demo --prompt

lint: ## check format, clippy, documentation and dependencies; a warning fails
	$(TEST_RUNNER) --live jobs format clippy documentation dependencies

fmt: ## format the code
	cargo fmt --all

bench-convergence: environment build ## compare portlb with keepalived + exabgp + GoBGP, on one topology in one run
	$(ENVIRONMENT)/run $(RELEASE)/bench-convergence
	LAB_ENVIRONMENT=host $(ENVIRONMENT)/run $(RELEASE)/bench-convergence 10 route
	LAB_ENVIRONMENT=host $(ENVIRONMENT)/run $(RELEASE)/bench-convergence 10 flood

BENCH_IN_GUEST := LAB_TIMEOUT=3600 LAB_CONTROL_PLANE=$(RELEASE)/control-plane
bench-kubernetes: environment build ## compare portlb with kube-proxy in IPVS mode, on a real API server and etcd
	$(ENVIRONMENT)/install kubernetes
	LAB_ENVIRONMENT=host $(ENVIRONMENT)/run $(RELEASE)/bench-kubernetes 5000x1x10
	LAB_ENVIRONMENT=host $(ENVIRONMENT)/run $(RELEASE)/bench-kubernetes 1x100x100
	$(BENCH_IN_GUEST) $(ENVIRONMENT)/run $(RELEASE)/bench-kubernetes 500x1x10 100

fuzz: ## run each fuzz target for FUZZ_SECONDS (60)
	integration/fuzz $(FUZZ_SECONDS)

images: ## build the container images, as OCI archives under target/images/
	$(ENVIRONMENT)/install packages-images
	containers/build

environment: ## install what the tests need: Debian packages, lab kernel, grpcurl
	$(ENVIRONMENT)/install packages kernel grpcurl

environment-demo: ## install what the demo needs
	$(ENVIRONMENT)/install packages-demo

clean: ## remove builds, images and lab logs from target/; the lab kernel stays
	cargo clean --profile dev
	cargo clean --profile release
	rm -rf target/lab target/images target/lab-images
