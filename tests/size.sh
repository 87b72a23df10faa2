#!/bin/bash
# size.sh [PROGRAM [BYTES]]: the size of the program (target/release/scnpm), stripped, and how many other crates it is built of.
# Fails if one of them is over its limit. BYTES is the limit of the size, for a program that is not the release's.
set -euo pipefail

cd "$(dirname "$0")/.."
program=${1:-target/release/scnpm}
# 4 MiB, with the feature `top`.
most_bytes=${2:-4194304}
most_crates=120

# Name and version of each crate that is linked in, or that runs during the build.
crates() {
    cargo tree --locked --edges normal,build --prefix none --format '{p}' "$@" | awk '$1 != "scnpm" { print $1, $2 }' |
        LC_ALL=C sort --unique
}

# Those of which there are two that Cargo does not take for compatible: 1.2 and 2.0, 0.1 and 0.2.
duplicates() {
    sed -E 's/ v(0\.0\.[0-9]+|0\.[1-9][0-9]*|[1-9][0-9]*).*/ \1/' | LC_ALL=C sort --unique |
        awk '{ versions[$1] = versions[$1] " " $2; count[$1]++ }
             END { for (name in count) if (count[name] > 1) print name versions[name] }'
}

failed=0
# within WHAT NUMBER LIMIT
within() {
    echo "$1: $2, at most $3"
    [ "$2" -le "$3" ] || failed=1
}

stripped=$(mktemp)
trap 'rm -f "$stripped"' EXIT
strip -o "$stripped" "$program"
within "bytes of the program" "$(stat --format %s "$stripped")" "$most_bytes"

default=$(crates)
top=$(crates --features top)
within "other crates in the default build" "$(wc -l <<<"$default")" "$most_crates"
within "of which in two incompatible versions" "$(duplicates <<<"$default" | wc -l)" 0
duplicates <<<"$default"
echo "other crates with the feature top: $(wc -l <<<"$top"); in two incompatible versions: $(duplicates <<<"$top" | paste -sd,)"
exit "$failed"
