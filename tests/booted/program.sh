#!/bin/bash
# program.sh SUITE SCNPM: prints the path of a scnpm that runs in that suite: SCNPM itself if it does, else
# one that is built there from the same sources, since a program built on a newer Debian may need a newer
# libc. Run as root, with CARGO_HOME (where the crates are) and SYSROOT (of rustc).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
suite=$1
scnpm=$(realpath "$2")
cache=${SCNPM_CACHE:-/var/cache/scnpm-tests}
tree=$("$here/tree.sh" "$suite")

# Namespaces of our own: the mounts go with them.
if unshare --mount --propagation private sh -c 'mount --bind "$2" "$1/mnt" && chroot "$1" /mnt/scnpm --version' \
    - "$tree" "$(dirname "$scnpm")" >/dev/null 2>&1; then
    echo "$scnpm"
    exit
fi

echo "Building for Debian $suite, where $scnpm does not run" >&2
tree=$("$here/tree.sh" "$suite" build)
target=$cache/target-$suite
mkdir -p "$target" "$cache/mnt"
unshare --mount --propagation private bash -euo pipefail -s "$tree" "$top" "$target" "$cache/mnt" >&2 <<'END'
tree=$1 top=$2 target=$3 work=$4
mount -t tmpfs tmpfs "$work"
mkdir "$work"/{upper,work,root}
root=$work/root
mount -t overlay -o "lowerdir=$tree,upperdir=$work/upper,workdir=$work/work" overlay "$root"
share() {
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
}
share "$top" /source
share "$target" /target
share "$SYSROOT" /rust
share "$CARGO_HOME/registry" /cargo/registry
share /dev /dev
mount -t proc proc "$root/proc"
chroot "$root" env -i PATH=/rust/bin:/usr/bin:/bin CARGO_HOME=/cargo CARGO_TARGET_DIR=/target RUSTC=/rust/bin/rustc \
    cargo build --quiet --release --locked --offline --manifest-path /source/Cargo.toml
END
echo "$target/release/scnpm"
