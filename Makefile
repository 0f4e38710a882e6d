# make demo    routes between network namespaces, over AF_XDP, from one command (KEEP=1 leaves the lab up)
# make test    every test, as CI runs them
# make bench   throughput, latency and changes under load in some minutes, and a page of them; see docs/BENCH.md
# make bench-full   the same for longer, and what perf measures in memory, by TCP and of a large cluster
# make peers   the kernel in Calico's layouts, Open vSwitch and DPDK, installed and measured beside; see docs/PEERS.md
.PHONY: demo test bench bench-full peers build install

ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E)

install:
	@.ci/install

build: install
	cargo build --release -p vrouter

demo: build
	$(ROOT) target/release/vrouter lab run demo/lab.yaml --manifests demo/manifests $(if $(KEEP),--keep)

test:
	.ci/run

BENCH := $(ROOT) target/release/vrouter bench
RESULTS := bench-results
PERF := $(ROOT) target/release/perf
REPORT := $(BENCH) report --in $(RESULTS) --out $(RESULTS)/report.html

bench: build
	$(BENCH) mrr --out $(RESULTS)
	$(BENCH) pdr --out $(RESULTS)
	$(BENCH) latency --out $(RESULTS)
	$(BENCH) reconf --out $(RESULTS)
	$(BENCH) decide --out $(RESULTS)
	cargo build --release -p perf
	$(PERF) memory lpm idle scaling --out $(RESULTS)
	$(REPORT)

bench-full: build
	$(BENCH) mrr --out $(RESULTS) --rounds 7 --sizes 64,128,256,512,1024,1280,1518,imix --family 4,6 \
		--flows 64,1000,100000,1000000 --rules 100,1,10,1000,10000 --routes 0,1000,100000
	$(BENCH) ndr --out $(RESULTS) --duration 2m --sizes 64,512,imix
	$(BENCH) pdr --out $(RESULTS) --duration 2m --sizes 64,512,imix
	$(BENCH) latency --out $(RESULTS) --rounds 20
	$(BENCH) reconf --out $(RESULTS) --rounds 10 --routes 0,10000
	$(BENCH) compare --out $(RESULTS) --rounds 7
	$(BENCH) decide --out $(RESULTS) --rounds 5 --rules 1000,10,100
	$(BENCH) soak --out $(RESULTS) --duration 10m
	cargo build --release -p perf
	$(PERF) all --out $(RESULTS)
	$(REPORT)

peers: install
	@.ci/install-peers
	cargo build --release -p perf -p vrouter
	$(PERF) peers-memory peers --rounds 3 --out $(RESULTS)
	$(REPORT)
