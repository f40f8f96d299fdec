# Everything that one does with this project. `make help` lists it; the work is done elsewhere.
SHELL := /bin/bash
.DEFAULT_GOAL := help
FLOOR := integration/lab/floor
HOST_TRIPLE := x86_64-unknown-linux-gnu
RELEASE := target/$(HOST_TRIPLE)/release
DAEMONS := pod-watcher ipvs-programmer bgp-announcer node-router route-reflector
TOOLS := tunnel-init example-web
# What --version says.
PORTLB_VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)+$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
# Tests that need a floor of the lab, so that a plain `cargo test` leaves them out.
SYSTEM_TESTS := -p integration --test system -p lab --test data_path --test parts \
  -p ipvs-programmer --test ipvs_kernel -p tunnel-init --test real_kernel
# The same, and it needs a guest with more memory.
CLUSTER_TEST := -p integration --test cluster
IPTABLES_CASES := roll-load,delete-everything
RUN_CLUSTER = LAB_MEMORY=6G LAB_TIMEOUT=2400 \
  LAB_OUTSIDE=$(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/debug/control-plane \
  CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$(CURDIR)/$(FLOOR)/run \
  cargo test --locked $(CLUSTER_TEST) -- --nocapture
# On a real API server of the lab, without a guest.
API_SERVER_TESTS := -p lab --test kubernetes -p integration --test kubernetes
FUZZ_SECONDS ?= 60
# Only the integration tests whose name contains this.
FILTER ?=

.PHONY: help build static test test-unit test-integration test-images test-manifests test-kubernetes test-cluster demo lab lint fmt bench-convergence bench-kubernetes fuzz images floor floor-demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: static ## build the daemons: release, static, under target/x86_64-unknown-linux-gnu/release/

# With --target, so that the flag reaches the daemons and not the compiler's own plugins.
static:
	RUSTFLAGS="-C target-feature=+crt-static" PORTLB_VERSION="$(PORTLB_VERSION)" \
	  cargo build --release --locked --target $(HOST_TRIPLE) $(DAEMONS:%=-p %) $(TOOLS:%=-p %) -p integration --bins

test: lint test-unit test-images test-manifests test-kubernetes test-integration ## everything but test-cluster, which CI runs, too

test-unit: ## unit, property and component tests, and the guard of the layers
	cargo test --locked --workspace --exclude integration
	cargo test --locked -p integration --test architecture

test-integration: floor ## real kernel, real peers, in network namespaces (FILTER=name for some)
	cargo build --locked $(DAEMONS:%=-p %)
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$(CURDIR)/$(FLOOR)/run \
	  cargo test --locked $(SYSTEM_TESTS) -- --test-threads=1 $(FILTER)

test-images: floor ## build the container images and run each one's --help
	containers/test

test-manifests: ## the manifests: their flags, privileges and rights, against a real API server
	$(FLOOR)/install packages kubernetes
	cargo build --locked $(DAEMONS:%=-p %) $(TOOLS:%=-p %)
	cargo test --locked -p integration --test manifests -- --test-threads=2

test-kubernetes: ## the pod-watcher on a real API server, which fails in every way
	$(FLOOR)/install packages kubernetes
	cargo build --locked $(DAEMONS:%=-p %)
	cargo test --locked $(API_SERVER_TESTS) -- --test-threads=2

# Everything beside kube-proxy in its default mode; in the other what its rules could disturb.
test-cluster: cluster-parts ## a real cluster of three nodes under load, kube-proxy in two modes (LAB_CASES=scale,drain for some)
	$(RUN_CLUSTER)
	LAB_PROXY_MODE=iptables LAB_CASES=$(or $(LAB_CASES),$(IPTABLES_CASES)) $(RUN_CLUSTER)

.PHONY: cluster-parts
cluster-parts: floor images
	$(FLOOR)/install kubernetes
	integration/lab/images/build

demo: floor-demo build ## the whole load balancer on this machine, step by step (under a minute, once built)
	$(FLOOR)/run $(RELEASE)/demo

lab: floor-demo build ## the demo's topology with a prompt, to try things
	$(FLOOR)/install packages grpcurl
	LAB_TIMEOUT=0 $(FLOOR)/run $(RELEASE)/demo --prompt

lint: ## format and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked $(SYSTEM_TESTS) -- -D warnings
	cargo clippy --locked $(CLUSTER_TEST) $(API_SERVER_TESTS) --test manifests -- -D warnings

fmt: ## format the code
	cargo fmt --all

bench-convergence: floor build ## ours beside keepalived + exabgp + GoBGP, on one topology in one run
	$(FLOOR)/run $(RELEASE)/bench-convergence
	LAB_FLOOR=host $(FLOOR)/run $(RELEASE)/bench-convergence 10 route

BENCH_BESIDE := LAB_TIMEOUT=3600 LAB_OUTSIDE=$(RELEASE)/control-plane
bench-kubernetes: floor build ## ours beside kube-proxy in IPVS mode, on a real API server and etcd
	$(FLOOR)/install kubernetes
	LAB_FLOOR=host $(FLOOR)/run $(RELEASE)/bench-kubernetes 5000x1x10
	LAB_FLOOR=host $(FLOOR)/run $(RELEASE)/bench-kubernetes 1x100x100
	$(BENCH_BESIDE) $(FLOOR)/run $(RELEASE)/bench-kubernetes 500x1x10 100

fuzz: ## each decoder's fuzz target for FUZZ_SECONDS (60)
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
