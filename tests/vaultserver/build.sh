#!/bin/sh
# Prints the path of a Vault binary: $VAULT_BIN if it is set, else the vault on PATH, else one
# built from the source that go.mod pins. The build takes some minutes and 4 GB of Go's build
# cache. It happens once: the binary stays in the user's cache directory.
set -eu

if [ -n "${VAULT_BIN:-}" ]; then
	echo "$VAULT_BIN"
	exit
fi
if command -v vault; then
	exit
fi

cd "$(dirname "$0")"
version=$(sed -n 's|^.*github.com/hashicorp/vault v\([^ ]*\).*$|\1|p' go.mod)
hash=$(cat go.mod go.sum | cksum | tr ' ' -)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/caddy-token-broker/vault-$version-$hash
mkdir -p "$dir"

# One build at a time. Without flock two may run at once, which is slow but harmless: a
# binary gets its final name only when it is complete.
if command -v flock >/dev/null; then
	exec 9>"$dir/lock"
	flock 9
fi
if [ -x "$dir/vault" ]; then
	echo "$dir/vault"
	exit
fi

new=$dir/vault.$$
trap 'rm -f "$new"' EXIT
if ! GOWORK=off GOFLAGS= go build -tags minimal -ldflags '-s -w' -o "$new" github.com/hashicorp/vault >"$dir/build.log" 2>&1 9>&-; then
	echo "building Vault failed:" >&2
	cat "$dir/build.log" >&2
	exit 1
fi
mv "$new" "$dir/vault"
echo "$dir/vault"
