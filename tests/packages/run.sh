#!/bin/bash
# run.sh PROGRAM [STEP...]: builds the packages of PROGRAM (scnpm as packaging/build.sh wants it) and checks them with the tools
# of the distributions, in a tree of Debian trixie; then installs, upgrades, removes and purges the Debian package in booted
# containers, and follows README's five minutes, which begin with it. Uses sudo unless root, but not to build: a user's Rust
# toolchain need not be root's.
#
# Steps: static bookworm trixie
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top"
program=$(realpath "${1:?usage: run.sh PROGRAM [STEP...]}")
shift
steps=("$@")
[ ${#steps[@]} != 0 ] || steps=(static bookworm trixie)
out=$top/target/packages

static() {
    packaging/build.sh rpm --program "$program"
    # makepkg does not run as root, and takes the program from where cargo puts it.
    install -D -m 755 "$program" "$out/program/scnpm"
    tests/as-root.sh tests/booted/chroot.sh trixie tools "$top" "$out" -- python3 tests/packages/check.py "$out"
}

# In a container that has nothing of scnpm.
installed() {
    tests/as-root.sh SCNPM_PACKAGES="$out/installed" tests/booted/run.sh "$1" none installed.py &&
        tests/as-root.sh SCNPM_PACKAGES="$out/readme" tests/docs/run.sh "$1" none README
}

rm -rf "$out"/{installed,readme}
mkdir -p "$out"/{installed,readme}
new=$(packaging/build.sh deb --program "$program" --version 0.1.1)
mv "$new" "$out/installed/new.deb"
old=$(packaging/build.sh deb --program "$program")
cp "$old" "$out/installed/old.deb"
cp -t "$out/readme" "$old"
status=0
for step in "${steps[@]}"; do
    echo "--- packages: $step"
    case $step in
    static) static || status=1 ;;
    bookworm | trixie) installed "$step" || status=1 ;;
    *)
        echo "run.sh: unknown step: $step" >&2
        exit 2
        ;;
    esac
done
exit "$status"
