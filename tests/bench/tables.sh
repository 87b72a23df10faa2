#!/bin/bash
# tables.sh SCNPM [SUITE]: runs the benchmark (run.sh) and writes what it prints into docs/performance.md, between the comments
# `tables begin` and `tables end`, with the day and the machine. Run as root, on a machine that does nothing else.
# tables.sh --from FILE SCNPM: the same with what run.sh has printed into that file before.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
page=${SCNPM_PAGE:-$here/../../docs/performance.md}
usage="usage: tables.sh [--from FILE] SCNPM [SUITE]"
figures=
if [ "${1:-}" = --from ]; then
    figures=${2:?$usage}
    shift 2
fi
scnpm=${1:?$usage}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
if [ -z "$figures" ]; then
    figures=$work/figures
    "$here/run.sh" "$@" | tee "$figures" || status=1
fi
grep -q '^From a cgroup' "$figures" || {
    echo "$figures has no tables of the benchmark: the page stays as it is" >&2
    exit 1
}

processor=$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)
{
    echo "Made by \`tests/bench/tables.sh\` on $(date -r "$figures" +%Y-%m-%d): $("$scnpm" --version), Linux $(uname -r), $(nft --version |
        cut -d' ' -f1,2), $(nproc) cores of ${processor:-$(uname -m)}."
    echo
    echo '```text'
    cat "$figures"
    echo '```'
} >"$work/tables"
awk -v tables="$work/tables" '
    /^<!-- tables begin/ { print; while ((getline line < tables) > 0) print line; inside = 1; found++ }
    /^<!-- tables end/ { inside = 0; found++ }
    !inside { if (!/^<!-- tables begin/) print }
    END { exit found != 2 }' "$page" >"$work/page" || {
    echo "$page has not one place for the tables" >&2
    exit 1
}
cat "$work/page" >"$page"
exit "$status"
