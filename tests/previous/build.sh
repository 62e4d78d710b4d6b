#!/bin/sh
# Prints a directory that holds the token-broker of an earlier commit, and in source/ that
# commit's tree. Both are made once and kept in the user's cache directory. The exit status is 3
# if the history lacks the commit, as in a tarball or a shallow clone.
set -eu

# Today's token-broker accepts this commit's configurations and stored files, and this commit's
# token-broker reads what today's stores. With each release, put the full hash of the released
# commit here; nothing else names it. Never move it to make a failing test pass.
commit=00d308ebe4e9ff3c9f01911b0b6a9f4ebfe27f90

cd "$(dirname "$0")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/caddy-token-broker
dir=$cache/previous-$commit
if [ -d "$dir" ]; then
	echo "$dir"
	exit
fi
if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
	echo "commit $commit is not in the history here: git fetch --unshallow" >&2
	exit 3
fi

# The directory appears complete, under its name, or not at all. If two are made at the same
# time, one is kept.
mkdir -p "$cache"
new=$(mktemp -d "$cache/previous.XXXXXX")
trap 'rm -rf "$new"' EXIT
mkdir "$new/source"
git archive --output "$new/source.tar" "$commit"
tar -xf "$new/source.tar" -C "$new/source"
rm "$new/source.tar"
# As make build does, whose results Go then has in its cache.
if ! (cd "$new/source" && GOWORK=off GOFLAGS=-buildvcs=false CGO_ENABLED=0 go build -trimpath \
	-tags nobadger,nomysql,nopgx -ldflags '-s -w' -o ../token-broker ./cmd/token-broker >../build.log 2>&1); then
	echo "building the token-broker of $commit failed:" >&2
	cat "$new/build.log" >&2
	exit 1
fi
chmod 755 "$new"
[ -d "$dir" ] || mv "$new" "$dir"
echo "$dir"
