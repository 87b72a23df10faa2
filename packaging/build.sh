#!/bin/bash
# build.sh FORMAT... [--program PROGRAM] [--version VERSION]: builds packages and prints their paths, in target/packages.
#
# FORMAT is deb (Debian 12 and 13, Ubuntu), rpm or arch. PROGRAM is scnpm as `cargo build --release --features top` builds it;
# without it, it is built here so that it runs with the C library of Debian 12. VERSION takes the place of Cargo.toml's.
# Says what it does on standard error; installs the Debian packages that it needs (with sudo unless root), and compiles
# cargo-deb or cargo-generate-rpm if they are not in $SCNPM_CACHE/tools (/var/cache/scnpm-tests/tools) yet.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
out=$top/target/packages
# What a program may ask of its C library: that of Debian 12.
newest_libc=2.36

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

say() {
    echo "build.sh: $*" >&2
}

formats=() program='' version=''
while [ $# != 0 ]; do
    case $1 in
    deb | rpm | arch) formats+=("$1") ;;
    --program | --version)
        [ $# -ge 2 ] || usage
        declare "${1#--}=$2"
        shift
        ;;
    *) usage ;;
    esac
    shift
done
[ ${#formats[@]} != 0 ] || usage

manifest() {
    sed -n "s/^$1 = \"\(.*\)\"/\1/p" Cargo.toml | head -n 1
}
: "${version:=$(manifest version)}"

# The Debian packages, where there is a Debian.
packages() {
    ! command -v dpkg-query >/dev/null || tests/setup.sh "$@" >&2
}

# tool NAME VERSION: a subcommand of cargo, kept once it is compiled.
tool() {
    local tools=${SCNPM_CACHE:-/var/cache/scnpm-tests}/tools
    mkdir -p "$tools" 2>/dev/null && [ -w "$tools" ] || tools=$top/target/tools
    PATH=$tools/bin:$PATH
    grep -qs "^\"$1 $2 " "$tools/.crates.toml" && return
    say "Compiling $1 $2 into $tools"
    packages gcc libc6-dev
    CARGO_TARGET_DIR=$tools/target CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug --no-default-features --locked --root "$tools" \
        --version "$2" "$1" >&2
    rm -rf "$tools/target"
}

packages binutils xz-utils
if [ -z "$program" ]; then
    say "Building scnpm"
    packages ca-certificates gcc libc6-dev libsystemd-dev mmdebstrap pkg-config util-linux
    program=$(tests/cargo.sh bookworm build --release --features top)
fi
[ -x "$program" ] || {
    say "$program: no program that can be run"
    exit 1
}
libc=$(objdump --dynamic-syms "$program" | sed -n 's/.*(GLIBC_\([0-9.]*\)).*/\1/p' | sort --version-sort | tail -n 1)
if [ "$(printf '%s\n' "$libc" "$newest_libc" | sort --version-sort | tail -n 1)" != "$newest_libc" ]; then
    say "$program needs glibc $libc, and Debian 12 has $newest_libc: build it with tests/cargo.sh bookworm"
    exit 1
fi

# Where the tools look for it.
export CARGO_TARGET_DIR=$out/cargo
install -D -m 755 "$program" "$CARGO_TARGET_DIR/release/scnpm"
# The time of what is in the packages.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat --format=%Y Cargo.toml)}
export SOURCE_DATE_EPOCH

deb() {
    packages dpkg-dev
    tool cargo-deb 3.8.0
    local package
    package=$out/scnpm_$version-1_$(dpkg --print-architecture).deb
    say "Building $package"
    cargo deb --quiet --no-build --no-strip --offline --deb-version "$version-1" --output "$package" >/dev/null
    echo "$package"
}

rpm() {
    tool cargo-generate-rpm 0.21.1
    local package arch
    arch=$(uname -m)
    package=$out/scnpm-$version-1.$arch.rpm
    say "Building $package"
    rm -rf "$out/man"
    install -D -m 644 -t "$out/man" packaging/scnpm*.8
    gzip --best --no-name "$out"/man/*.8
    cargo generate-rpm --arch "$arch" --auto-req disabled --payload-compress gzip --target-dir "$CARGO_TARGET_DIR" \
        --set-metadata "version = \"$version\"" --output "$package" >&2
    echo "$package"
}

for format in "${formats[@]}"; do
    "$format"
done
