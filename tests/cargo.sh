#!/bin/bash
# cargo.sh SUITE ARGUMENT...: runs cargo so that what it builds runs in a Debian of that suite, and prints the
# executables: here, or in a tree of the suite if its C library is older than the one here.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
suite=$1
shift
cd "$top"
tree=$(tests/as-root.sh tests/booted/tree.sh "$suite")

# Of the machine, or of the tree named.
libc() {
    dpkg-query --admindir="${1:-}/var/lib/dpkg" --show --showformat='${Version}' libc-bin
}

executables() {
    sed -n 's|.*"executable":"\([^"]*\)".*|\1|p'
}

if dpkg --compare-versions "$(libc "$tree")" ge "$(libc)"; then
    cargo "$@" --quiet --locked --message-format=json-render-diagnostics | executables
    exit
fi

echo "Building in Debian $suite, whose C library is older than the one here" >&2
cargo fetch --quiet --locked --target "$(rustc -vV | sed -n 's/^host: //p')"
cargo_home=${CARGO_HOME:-$HOME/.cargo}
rust=$(rustc --print sysroot)
target=${SCNPM_CACHE:-/var/cache/scnpm-tests}/target-$suite
tests/as-root.sh mkdir -p "$target"
tests/as-root.sh tests/booted/chroot.sh "$suite" build "$top" "$target" "$rust" "$cargo_home/registry" -- \
    env -i PATH="$rust/bin:/usr/bin:/bin" CARGO_HOME="$cargo_home" CARGO_TARGET_DIR="$target" \
    cargo "$@" --quiet --locked --offline --message-format=json-render-diagnostics | executables
