# make demo    routes between network namespaces, over AF_XDP, from one command (KEEP=1 leaves the lab up)
# make test    every test, as CI runs them
# make bench   measurements, kernel forwarding beside; see docs/PERFORMANCE.md
# make peers   the kernel in Calico's layouts, Open vSwitch and DPDK, installed and measured beside; see docs/PEERS.md
.PHONY: demo test bench peers build install

ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E)

install:
	@.ci/install

build: install
	cargo build --release -p vrouter

demo: build
	$(ROOT) target/release/vrouter lab run demo/lab.yaml --manifests demo/manifests $(if $(KEEP),--keep)

test:
	.ci/run

bench: install
	cargo build --release -p perf
	$(ROOT) target/release/perf all

peers: install
	@.ci/install-peers
	cargo build --release -p perf
	$(ROOT) target/release/perf peers-memory peers --rounds 3
