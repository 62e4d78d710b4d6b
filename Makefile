# Needs Go, gcc (for the race detector) and make, and Node.js for the tests with the official
# SDK; everything else is built from pinned source.

.DEFAULT_GOAL := help

# The modules with packages in them. tools and tests/vaultserver only pin programs.
MODULES := . tests
# As xcaddy builds, so that the two share Go's build cache.
BUILD_FLAGS := -trimpath -tags nobadger,nomysql,nopgx -ldflags '-s -w'
TOOL := go tool -modfile=$(CURDIR)/tools/go.mod

TEST_TIMEOUT ?= 10m
# Random runs of the refresh engine, beyond those with the race detector: a seed each.
SEEDS ?= 3000
FIRST_SEED ?= 1000
E2E_TIMEOUT ?= 20m
export TEST_TIMEOUT SEEDS FIRST_SEED E2E_TIMEOUT
FUZZTIME ?= 20s
BENCH ?= .

.PHONY: help
help: ## List these targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build ./token-broker: Caddy with this module.
	CGO_ENABLED=0 go build $(BUILD_FLAGS) -o token-broker ./cmd/token-broker

.PHONY: run
run: build ## Build it, and run Caddyfile.example.
	./token-broker run --config Caddyfile.example

.PHONY: test
test: gcc vaultserver sdk previous ## Run all tests with the race detector. The first run builds Vault, in some minutes.
	@status=0; tools/test.sh || status=$$?; $(HAVE_NODE) || echo '$(NO_NODE)' >&2; exit $$status

# Before the tests, so that the time it takes is no part of their timeouts.
.PHONY: vaultserver
vaultserver:
	@echo 'Vault for the tests, built once:'
	@tests/vaultserver/build.sh

# Where Node.js is missing those tests are skipped, which go test does not say: it is said
# before and after them. In CI they fail.
HAVE_NODE := command -v node >/dev/null && command -v npm >/dev/null
NO_NODE := WARNING: node or npm is missing. The tests that run the official SDK against the broker are SKIPPED.

.PHONY: sdk
sdk:
	@if $(HAVE_NODE); then echo 'SDK for the tests, fetched once:'; tests/sdk/install.sh; else echo '$(NO_NODE)' >&2; fi

# Without the history the tests that need it are skipped; in CI they fail.
.PHONY: previous
previous:
	@echo 'An earlier token-broker for the tests, built once:'
	@tests/previous/build.sh || test $$? = 3

.PHONY: gcc
gcc:
	@cc=$$(go env CC); command -v "$${cc%% *}" >/dev/null || { \
		echo "$$cc not found. Go's race detector needs a C compiler: install gcc, or set CC." >&2; exit 1; }

.PHONY: lint
lint: ## Run golangci-lint over every module. The first run builds it, in some minutes.
	@set -e; for module in $(MODULES); do echo "lint $$module"; (cd $$module && $(TOOL) golangci-lint run ./...); done

.PHONY: fmt
fmt: ## Format the Go code and Caddyfile.example.
	@set -e; for module in $(MODULES); do (cd $$module && $(TOOL) golangci-lint fmt ./...); done
	@$(MAKE) --no-print-directory build
	./token-broker fmt --overwrite Caddyfile.example

.PHONY: bench
bench: build ## Compare what a request costs with plain reverse_proxy, in some three minutes.
	cd tests && go build -o bench/bench ./bench && ./bench/bench -binary ../token-broker $(BENCHFLAGS)

.PHONY: gobench
gobench: ## Run the Go benchmarks that match BENCH, by default all.
	go test -run '^$$' -bench '$(BENCH)' -benchmem -timeout $(TEST_TIMEOUT) ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME, by default 20s.
	@tools/fuzz.sh $(FUZZTIME)

.PHONY: vuln
vuln: ## Look for known vulnerabilities. Asks https://vuln.go.dev.
	@set -e; for module in $(MODULES); do echo "vuln $$module"; (cd $$module && $(TOOL) govulncheck ./...); done

.PHONY: tidy
tidy: ## Tidy every go.mod and go.sum, but for that of Vault, whose SDK would be raised too far.
	@set -e; for module in $(MODULES) tools; do echo "tidy $$module"; go -C $$module mod tidy; done

.PHONY: clean
clean: ## Remove what was built here.
	rm -f token-broker caddy coverage.out tests/bench/bench .cache/test.json .cache/test.log
