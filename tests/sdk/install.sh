#!/bin/sh
# Prints a directory whose node_modules contains the packages of package-lock.json, as
# published: npm checks their hashes and runs none of their scripts. They are downloaded once,
# which takes some seconds, and kept in the user's cache directory.
set -eu

cd "$(dirname "$0")"
hash=$(cat package.json package-lock.json | cksum | tr ' ' -)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/caddy-token-broker
dir=$cache/sdk-$hash
if [ -d "$dir" ]; then
	echo "$dir"
	exit
fi

# The directory appears complete, under its name, or not at all. If two are made at the same
# time, one is kept.
mkdir -p "$cache"
new=$(mktemp -d "$cache/sdk.XXXXXX")
trap 'rm -rf "$new"' EXIT
cp package.json package-lock.json "$new"
if ! (cd "$new" && npm ci --ignore-scripts --no-audit --no-fund --fetch-retries=2 --fetch-timeout=60000 >npm.log 2>&1); then
	echo "npm ci failed:" >&2
	cat "$new/npm.log" >&2
	exit 1
fi
[ -d "$dir" ] || mv "$new" "$dir"
echo "$dir"
