#!/usr/bin/env bash
# Runs all tests of both modules, and does not stop at a failure. Prints a line for each
# package when it finishes, the output of each failed test, and at the end the names of the
# failed tests. The output of every test goes to .cache/test.log, and as JSON events to
# .cache/test.json.
#
# The Makefile sets TEST_TIMEOUT, E2E_TIMEOUT, SEEDS and FIRST_SEED, and builds what the tests
# need before it runs this.
set -uo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

# The three parts do not run at the same time: the first two keep every core busy, and the
# end-to-end tests have deadlines.
events() {
	local status=0
	go test -json -race -timeout "${TEST_TIMEOUT:-10m}" ./... || status=1
	go test -json -timeout "${TEST_TIMEOUT:-10m}" -run TestRandomInterleavings ./broker \
		-first-seed "${FIRST_SEED:-1000}" -seeds "${SEEDS:-3000}" || status=1
	go -C tests test -json -race -timeout "${E2E_TIMEOUT:-20m}" ./... || status=1
	return "$status"
}

case ${1-} in
'') ;;
events) # run by gotestsum, below
	events
	exit
	;;
*)
	echo "usage: $0" >&2
	exit 2
	;;
esac

gotestsum=$(go tool -modfile=tools/go.mod -n gotestsum) || exit
log=.cache/test.log json=.cache/test.json
mkdir -p .cache
rm -f "$log" "$json"

status=0
"$gotestsum" --format pkgname-and-test-fails --format-icons text --hide-summary output \
	--jsonfile "$json" --raw-command -- tools/test.sh events || status=$?
"$gotestsum" --format standard-verbose --no-color --hide-summary all --raw-command -- cat "$json" >"$log" 2>&1
echo "The output of all tests: $log"
exit "$status"
