#!/bin/bash
# tarball.sh [--tar] FOLDER: puts the source of the last commit into FOLDER and prints the files' paths: scnpm-VERSION.tar.xz,
# which is what git has, and scnpm-VERSION-vendored.tar.xz, which has the crates too and builds without a network
# (cargo build --frozen). With --tar they are not compressed.
#
# One commit gives the same bytes at any time, in any folder and for any user, with the same cargo, tar and xz. Times are the
# commit's, or SOURCE_DATE_EPOCH.
set -euo pipefail

if [ "${1:-}" = --tar ]; then
    suffix=tar
    compress=(cat)
    shift
else
    suffix=tar.xz
    # More threads would give other bytes.
    compress=(xz --threads=1 -6)
fi
mkdir -p "${1:?usage: tarball.sh [--tar] FOLDER}"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
export LC_ALL=C
version=$(git show HEAD:Cargo.toml | sed -n 's/^version = "\(.*\)"/\1/p')
name=scnpm-$version
time=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# pack FILE: what is in the work folder.
pack() {
    tar --create --directory "$work" --format=gnu --sort=name --mtime="@$time" --owner=0 --group=0 --numeric-owner \
        --mode=u=rwX,go=rX "$name" | "${compress[@]}" >"$out/$1.part"
    mv "$out/$1.part" "$out/$1"
    echo "$out/$1"
}

# Names and versions of the crates that are used on Linux, those of tests included, as their folders are named.
used() {
    cargo tree --locked --all-features --edges normal,build,dev --prefix none --format '{p}' \
        --target x86_64-unknown-linux-gnu --target aarch64-unknown-linux-gnu --target armv7-unknown-linux-gnueabihf \
        --target i686-unknown-linux-gnu --target riscv64gc-unknown-linux-gnu --target s390x-unknown-linux-gnu \
        --target powerpc64le-unknown-linux-gnu | sed 's/^\([^ ]*\) v\([^ ]*\).*/\1-\2/' | sort --unique
}

# Cargo wants to find each crate of Cargo.lock. Of those for other systems, among them 100 MB of libraries for Windows, an
# empty one is enough.
empty() {
    local sum
    sum=$(sed -n 's/.*"package":"\([0-9a-f]*\)".*/\1/p' "$1/.cargo-checksum.json")
    find "$1" -mindepth 1 -maxdepth 1 ! -name Cargo.toml -exec rm -r {} +
    mkdir "$1/src"
    : >"$1/src/lib.rs"
    printf '{"files":{},"package":"%s"}\n' "$sum" >"$1/.cargo-checksum.json"
}

git -c core.autocrlf=false archive --prefix="$name/" HEAD | tar --extract --directory "$work"
pack "$name.$suffix"

cd "$work/$name"
cargo vendor --quiet --locked --versioned-dirs vendor >/dev/null
comm -13 <(used) <(find vendor -mindepth 1 -maxdepth 1 -printf '%f\n' | sort) | while read -r crate; do
    empty "vendor/$crate"
done
mkdir .cargo
cat >.cargo/config.toml <<'END'
[source.crates-io]
replace-with = "vendor"

[source.vendor]
directory = "vendor"
END
pack "$name-vendored.$suffix"
