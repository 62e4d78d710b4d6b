#!/usr/bin/env bash
# Builds Caddy with the token broker from this tree. tools/go.mod pins the version of
# xcaddy, and go.mod the version of Caddy.
#
#   ./xcaddy.sh [output]     default: ./caddy
#
# You can set the variables of xcaddy and Go: XCADDY_GO_BUILD_FLAGS, GOOS, GOARCH,
# CGO_ENABLED, ...
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

# xcaddy runs go in a temporary module, where flags such as -mod=vendor or -modfile, or a
# workspace around this tree, break the build. GOFLAGS must not be empty: go would then use
# the value that `go env -w` has stored.
export GOFLAGS=-buildvcs=false GOWORK=off

module=$(go list -m)
caddy=$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)

# GOOS and GOARCH are meant for Caddy. xcaddy itself runs on this machine.
xcaddy=$(GOOS=$(go env GOHOSTOS) GOARCH=$(go env GOHOSTARCH) go tool -modfile=tools/go.mod -n xcaddy)

# The version is ignored because a folder replaces the module. Without one, xcaddy would ask
# the module proxy for the latest version, and fail if there is none.
exec "$xcaddy" build "$caddy" --with "$module@v0.0.0=$PWD" --output "$output"
