#!/bin/bash
# soak.sh MINUTES [SUITE [SEED]]: units of several users come and go in a booted Debian (bookworm) while everything around scnpm
# fails at random, and traffic is checked all the while. Fails if anybody was let through or refused who should not have been.
# Needs what tests/run.sh installs, and a release build.
set -euo pipefail

minutes=${1:?usage: soak.sh MINUTES [SUITE [SEED]]}
suite=${2:-bookworm}
top=$(cd "$(dirname "$0")/.." && pwd)
root=()
[ "$(id -u)" = 0 ] || root=(sudo)
as_root() {
    "${root[@]}" env PATH="$PATH:/usr/sbin:/sbin" SCNPM_CACHE="${SCNPM_CACHE:-/var/cache/scnpm-tests}" \
        CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}" SYSROOT="$(rustc --print sysroot)" "$@"
}
program=$(as_root "$top/tests/booted/program.sh" "$suite" "$top/target/release/scnpm")
as_root "$top/tests/booted/run.sh" "$suite" "$program" soak.py "$minutes" ${3:+"$3"}
