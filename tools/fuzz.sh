#!/usr/bin/env bash
# Runs every fuzz target of the repository, each for the given time (see -fuzztime in
# `go help testflag`). If a target fails, Go writes the input to the package's testdata/fuzz:
# commit that file with the fix.
set -euo pipefail

fuzztime=${1:?usage: $0 <time>, e.g. 20s}
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

found=
while IFS=: read -r file target; do
	found=yes
	dir=$(dirname -- "$file")
	echo "$dir $target"
	go -C "$dir" test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzztime" -timeout 10m .
done < <(grep -rEo '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' . | sed 's/func //' | sort)

if [[ -z $found ]]; then
	echo "no fuzz targets found" >&2
	exit 1
fi
