# Everything that one does with this project. `make help` lists it; the work is done elsewhere.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# Scripts and tests look for programs and images below target/.
unexport CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR
FLOOR := integration/lab/floor
HOST_TRIPLE := x86_64-unknown-linux-gnu
RELEASE := target/$(HOST_TRIPLE)/release
DAEMONS := pod-watcher ipvs-programmer bgp-announcer node-router route-reflector
TOOLS := tunnel-init example-web
# What --version says.
PORTLB_VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)+$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
FUZZ_SECONDS ?= 60
# Only tests whose names contain this.
FILTER ?=
# `make check`: the commit since which crates count as changed.
BASE ?=
# The program that knows every job of a test run; `target/test-runner/` has their logs.
TEST_RUNNER := cargo build --quiet --locked --workspace --bin test-runner && target/$(HOST_TRIPLE)/debug/test-runner

# The images of a test run hold the programs of the tests, so these carry the version, too.
test test-all test-images test-cluster: export PORTLB_VERSION := $(PORTLB_VERSION)

.PHONY: help build static programs check test test-all test-unit test-integration test-images test-manifests test-kubernetes test-cluster demo lab lint fmt bench-convergence bench-kubernetes fuzz images floor floor-demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: static ## build the daemons: release, static, under target/x86_64-unknown-linux-gnu/release/

RELEASE_BUILD := PORTLB_VERSION="$(PORTLB_VERSION)" cargo build --release --locked $(DAEMONS:%=-p %) $(TOOLS:%=-p %)
static:
	$(RELEASE_BUILD) -p integration --bins

programs: ## what the images contain, and nothing else
	$(RELEASE_BUILD)

check: ## format, lints, unit tests of changed crates and their dependents (BASE=commit)
	$(TEST_RUNNER) --live check $(BASE:%=--base %)

test: ## every test, side by side where they can be, and a table of the phases: what CI runs
	$(TEST_RUNNER) all

test-all: ## the same with every case of the long matrices, not a sample
	$(TEST_RUNNER) --complete all

test-unit: ## unit, property and component tests, and the guard of the layers (FILTER=name for some)
	$(TEST_RUNNER) --live --filter "$(FILTER)" jobs unit

test-integration: ## real kernel, real peers, in network namespaces (FILTER=name for some)
	$(TEST_RUNNER) --live --filter "$(FILTER)" jobs system- $(if $(FILTER),,kernel-)

test-images: ## build the container images and run each one's --help
	$(TEST_RUNNER) --live jobs images-test

test-manifests: ## the manifests: their flags, privileges and rights, against a real API server
	$(TEST_RUNNER) --live --filter "$(FILTER)" jobs manifests

test-kubernetes: ## the pod-watcher on a real API server, which fails in every way
	$(TEST_RUNNER) --live --filter "$(FILTER)" jobs kubernetes

test-cluster: ## a real cluster of three nodes under load, kube-proxy in two modes (LAB_CASES=scale,drain for some)
	$(TEST_RUNNER) --live jobs cluster

demo: floor-demo build ## the whole load balancer on this machine, step by step (under a minute, once built)
	$(FLOOR)/run $(RELEASE)/demo

lab: floor-demo build ## the demo's topology with a prompt, to try things
	$(FLOOR)/install packages grpcurl
	LAB_TIMEOUT=0 $(FLOOR)/run $(RELEASE)/demo --prompt

lint: ## format, clippy, documentation and dependencies, warnings denied
	$(TEST_RUNNER) --live jobs format clippy documentation dependencies

fmt: ## format the code
	cargo fmt --all

bench-convergence: floor build ## ours beside keepalived + exabgp + GoBGP, on one topology in one run
	$(FLOOR)/run $(RELEASE)/bench-convergence
	LAB_FLOOR=host $(FLOOR)/run $(RELEASE)/bench-convergence 10 route
	LAB_FLOOR=host $(FLOOR)/run $(RELEASE)/bench-convergence 10 flood

BENCH_BESIDE := LAB_TIMEOUT=3600 LAB_OUTSIDE=$(RELEASE)/control-plane
bench-kubernetes: floor build ## ours beside kube-proxy in IPVS mode, on a real API server and etcd
	$(FLOOR)/install kubernetes
	LAB_FLOOR=host $(FLOOR)/run $(RELEASE)/bench-kubernetes 5000x1x10
	LAB_FLOOR=host $(FLOOR)/run $(RELEASE)/bench-kubernetes 1x100x100
	$(BENCH_BESIDE) $(FLOOR)/run $(RELEASE)/bench-kubernetes 500x1x10 100

fuzz: ## each fuzz target for FUZZ_SECONDS (60)
	integration/fuzz $(FUZZ_SECONDS)

images: ## the container images, as OCI archives under target/images/
	$(FLOOR)/install packages-images
	containers/build

floor: ## what the tests need: Debian packages, lab kernel, grpcurl
	$(FLOOR)/install packages kernel grpcurl

floor-demo: ## what the demo needs
	$(FLOOR)/install packages-demo

clean: ## remove what was built, but not the lab kernel
	cargo clean --profile dev
	cargo clean --profile release
	rm -rf target/lab target/images target/lab-images
