# You need Go, make and gcc (for the race detector). Node.js with npm runs the tests of the
# official SDK and of the JavaScript samples. Everything else is built from pinned source.

.DEFAULT_GOAL := help

# The modules that contain packages. tools and tests/vaultserver only pin programs.
MODULES := . tests
# The same flags as xcaddy, so that the two share Go's build cache.
BUILD_FLAGS := -trimpath -tags nobadger,nomysql,nopgx -ldflags '-s -w'
TOOL := go tool -modfile=$(CURDIR)/tools/go.mod

TEST_TIMEOUT ?= 20m
# Random runs of the refresh engine without the race detector, one for each seed.
SEEDS ?= 3000
FIRST_SEED ?= 1000
E2E_TIMEOUT ?= 20m
export TEST_TIMEOUT SEEDS FIRST_SEED E2E_TIMEOUT
FUZZTIME ?= 20s
BENCH ?= .

.PHONY: help
help: ## List these targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build ./token-broker: Caddy with this module.
	CGO_ENABLED=0 go build $(BUILD_FLAGS) -o token-broker ./cmd/token-broker

.PHONY: run
run: build ## Build ./token-broker and run Caddyfile.example.
	./token-broker run --config Caddyfile.example

.PHONY: test
test: gcc vaultserver sdk previous ## Run all tests with the race detector. The first run builds Vault, which takes minutes.
	@status=0; tools/test.sh || status=$$?; $(HAVE_NODE) || echo '$(NO_NODE)' >&2; exit $$status

# Built before the tests, so that it does not count towards their timeouts.
.PHONY: vaultserver
vaultserver:
	@echo 'Vault for the tests, built once:'
	@tests/vaultserver/build.sh

# Without Node.js some tests are skipped, which go test does not report: the warning is
# printed before and after the tests. In CI they fail instead.
HAVE_NODE := command -v node >/dev/null && command -v npm >/dev/null
NO_NODE := WARNING: node or npm is missing. Tests are SKIPPED: the official SDK, signatures in JavaScript, the sample of docs/events.md.

.PHONY: sdk
sdk:
	@if $(HAVE_NODE); then echo 'SDK for the tests, fetched once:'; tests/sdk/install.sh; else echo '$(NO_NODE)' >&2; fi

# Without the history (in a shallow clone) the tests that need it are skipped. In CI they
# fail instead.
.PHONY: previous
previous:
	@echo 'An earlier token-broker for the tests, built once:'
	@tests/previous/build.sh || test $$? = 3

.PHONY: gcc
gcc:
	@cc=$$(go env CC); command -v "$${cc%% *}" >/dev/null || { \
		echo "$$cc not found. Go's race detector needs a C compiler: install gcc, or set CC." >&2; exit 1; }

.PHONY: lint
lint: ## Run golangci-lint over every module. The first run builds it, which takes minutes.
	@set -e; for module in $(MODULES); do echo "lint $$module"; (cd $$module && $(TOOL) golangci-lint run ./...); done

.PHONY: fmt
fmt: ## Format the Go code and Caddyfile.example.
	@set -e; for module in $(MODULES); do (cd $$module && $(TOOL) golangci-lint fmt ./...); done
	@$(MAKE) --no-print-directory build
	./token-broker fmt --overwrite Caddyfile.example

.PHONY: bench
bench: build vaultserver ## Compare the cost of a request with plain reverse_proxy, the broker with its stores, and imports of files. Takes about ten minutes.
	cd tests && go build -o bench/bench ./bench && ./bench/bench -binary ../token-broker $(BENCHFLAGS)

LOAD := cd tests && go build -o load/load ./load && ./load/load

.PHONY: bench-overload
bench-overload: build vaultserver ## Run in front of a Vault that serves too few requests. Takes about six minutes.
	$(LOAD) overload -binary ../token-broker $(BENCHFLAGS)

.PHONY: soak
soak: build vaultserver ## Call 2,000 connections with short tokens for ten minutes.
	$(LOAD) soak -binary ../token-broker $(BENCHFLAGS)

.PHONY: bench-scale
bench-scale: build vaultserver ## Measure with 200,000 connections in each store. Takes more than an hour and 4 GB of memory.
	$(LOAD) scale -binary ../token-broker $(BENCHFLAGS)

.PHONY: gobench
gobench: ## Run the Go benchmarks that match BENCH (default: all).
	go test -run '^$$' -bench '$(BENCH)' -benchmem -timeout $(TEST_TIMEOUT) ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (default: 20s).
	@tools/fuzz.sh $(FUZZTIME)

.PHONY: vuln
vuln: ## Look for known vulnerabilities at https://vuln.go.dev.
	@set -e; for module in $(MODULES); do echo "vuln $$module"; (cd $$module && $(TOOL) govulncheck ./...); done

.PHONY: tidy
tidy: ## Tidy every go.mod and go.sum except Vault's, which would get an SDK that is too new.
	@set -e; for module in $(MODULES) tools; do echo "tidy $$module"; go -C $$module mod tidy; done

.PHONY: clean
clean: ## Remove build and test output.
	rm -f token-broker caddy coverage.out tests/bench/bench tests/load/load .cache/test.json .cache/test.log
