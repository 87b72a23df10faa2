#!/bin/bash
# soak.sh MINUTES [SUITE [SEED]]: units of several users come and go in a booted Debian (bookworm) while everything around scnpm
# fails at random, and traffic is checked all the while. Fails if anybody was let through or refused who should not have been.
# Needs what tests/run.sh installs.
set -euo pipefail

minutes=${1:?usage: soak.sh MINUTES [SUITE [SEED]]}
suite=${2:-bookworm}
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
program=$(tests/cargo.sh "$suite" build --release --features top)
tests/as-root.sh tests/booted/run.sh "$suite" "$program" soak.py "$minutes" ${3:+"$3"}
