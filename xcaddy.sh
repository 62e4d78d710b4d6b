#!/usr/bin/env bash
# Builds Caddy with the token broker from this tree, with the xcaddy that tools/go.mod
# pins, and the version of Caddy that go.mod has.
#
#   ./xcaddy.sh [output]     default: ./caddy
#
# xcaddy's own variables work: XCADDY_GO_BUILD_FLAGS, GOOS, GOARCH, CGO_ENABLED, ...
set -euo pipefail

case ${1-} in
-*)
	echo "usage: $0 [output]" >&2
	exit 2
	;;
esac
output=${1:-caddy}
[[ $output == /* ]] || output=$PWD/$output
cd "$(dirname -- "${BASH_SOURCE[0]}")"

# xcaddy runs go in a module of its own, where flags such as -mod=vendor or -modfile, or a
# workspace around this tree, are wrong. An empty GOFLAGS would let `go env -w GOFLAGS=...` in.
export GOFLAGS=-buildvcs=false GOWORK=off

module=$(go list -m)
caddy=$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)

# Where GOOS or GOARCH is set it is for Caddy: xcaddy itself runs here.
xcaddy=$(GOOS=$(go env GOHOSTOS) GOARCH=$(go env GOHOSTARCH) go tool -modfile=tools/go.mod -n xcaddy)

# Any version will do for a module that is replaced by a folder, but without one xcaddy
# asks the module proxy for the latest, and fails for what is not published.
exec "$xcaddy" build "$caddy" --with "$module@v0.0.0=$PWD" --output "$output"
