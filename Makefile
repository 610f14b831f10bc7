# make          builds the two programs into bin/
# make demo     migrates two simulated devices between two processes
# make test     runs everything; this is what CI runs
# make help     lists the rest

# -trimpath: the programs hold no path of the machine that built them.
# CGO_ENABLED=0: static programs, which run in any container or initramfs.
BUILD = CGO_ENABLED=0 go build -trimpath

# The checkers' versions are pinned here and not in go.mod: nobody who imports
# migpipe needs them.
LINTER      = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

# How long each fuzz target runs in make test and in make fuzz: a number of
# inputs (1000x) or a time. A number ends at the same point on slow machines.
FUZZ_SMOKE = 1000x
FUZZ_TIME  = 1m

.PHONY: build demo test needs check unit race quick mutants lines chaos fuzz-smoke fuzz vm bench bench-memory bench-micro bench-downtime help clean

build: ## build bin/mig-send and bin/mig-recv
	$(BUILD) -o bin/ ./cmd/mig-send ./cmd/mig-recv

demo: build ## migrate simulated devices between two processes on this machine
	test/demo.sh bin

# Several steps, so that a failure says which; the VM test comes last because
# it takes longest. The last lines repeat what the steps have skipped.
test: export MIGPIPE_SKIPPED = $(CURDIR)/bin/skipped
test: needs check unit race fuzz-smoke vm ## run everything
	@if [ -s '$(MIGPIPE_SKIPPED)' ]; then echo 'make test: every step passed. They skipped:'; cat '$(MIGPIPE_SKIPPED)'; \
	else echo 'make test: every step passed, and skipped nothing'; fi

needs: ## what the tests need, and this machine lacks
	test/needs.sh

check: ## gofmt, go vet, go mod tidy, builds for other machines, golangci-lint, govulncheck
	test/check.sh $(LINTER) $(GOVULNCHECK)

# Without -race: here are the tests that count allocations and memory, which
# the race detector changes, and the programs run as users run them.
# -count=1: never from the cache, since some of it depends on the machine.
unit: ## every test but the VM's, as the code is shipped
	test/gotest.sh -count=1 -timeout 10m
	go test -count=1 -tags failpoints ./internal/failpoint

# -short leaves out the gigabyte transfers, which unit has just done.
race: ## every test but the VM's, with the race detector
	test/gotest.sh -race -short -count=1 -timeout 10m

# Unit tests alone, without those that start processes, networks or machines, or play whole
# migrations: under a minute on two cores.
quick: ## the tests to run after each edit
	go vet ./...
	go test -short $$(go list ./... | grep -vE '/(test|cmd)(/|$$)|/transport$$|/sim$$') ./cmd/internal/... ./test/arch ./test/mutants

mutants: ## plant faults one by one: each has to be found by a test
	go run ./test/mutants

lines: ## count the lines of code
	@go run ./test/lines

# CHAOS_SEED=7 CHAOS_RANDOM=200 draws other cases, and more of them.
CHAOS_SEED   = 1
CHAOS_RANDOM = 40
chaos: ## kill, stop and cut off the two programs at every point
	@go test -count=1 -timeout 60m -v ./test/chaos -all -seed $(CHAOS_SEED) -random $(CHAOS_RANDOM) >chaos.log 2>&1; \
	status=$$?; grep -a '^chaos:' chaos.log; [ $$status = 0 ] || { echo 'chaos: FAILED, see chaos.log'; exit 1; }

fuzz-smoke: ## every fuzz target for a moment
	test/fuzz.sh $(FUZZ_SMOKE)

fuzz: ## every fuzz target for $(FUZZ_TIME)
	test/fuzz.sh $(FUZZ_TIME)

# MIGPIPE_VM: 1 skips, saying why, where the machine cannot do it; CI sets
# require. -timeout: the first run downloads and builds two kernels.
MIGPIPE_VM ?= 1
# Not for the recipes' environment, where unit and race would run the VMs too.
unexport MIGPIPE_VM
vm: ## migrate a real VFIO device between two virtual machines
	test/vm.sh $(MIGPIPE_VM)

# A virtual machine's memory is moved too. It is made once, by the way only if the VM
# test has its kernels, which take a while.
MEMORY     = bench/out/memory.bin
BENCH      = go build -C bench -o $(CURDIR)/bin/ ./downtime ./footprint ./throughput
VM_KERNELS = $(wildcard $(or $(MIGPIPE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/migpipe)/vm/debian-*/vmlinuz)

# Real runs, which make every figure of README: two minutes for the downtimes, two and a
# half for the programs' memory, eleven for 5 rounds of some 120 ways, on two cores.
# Figures and charts are in bench/out: results.json, bench.txt for benchstat, and
# report.html, which has all of it.
bench: $(if $(VM_KERNELS),$(MEMORY)) ## compare downtimes, memory, and throughput with quic-go, TLS and TCP
	$(BENCH)
	bin/downtime
	bin/footprint
	bin/throughput

bench-memory: $(MEMORY) ## dump the memory of a virtual machine for make bench, once

$(MEMORY):
	MIGPIPE_VM=$(MIGPIPE_VM) go test -v -count=1 -timeout 40m ./test/vm -run TestVM/debian/memory -memory $(CURDIR)/$@

# -run '^$$': no tests. -benchmem: bytes and allocations as well.
bench-micro: ## micro-benchmarks of every package
	go test -run '^$$' -bench . -benchmem ./...
	go test -C bench -run '^$$' -bench . -benchmem ./...

# 3 rounds of 4 strategies, twice, and what journals cost. What it draws is in bench/out.
bench-downtime: ## compare downtimes with QEMU's ways, by model and by measurement
	$(BENCH)
	bin/downtime

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

clean: ## remove what was built
	rm -rf bin
