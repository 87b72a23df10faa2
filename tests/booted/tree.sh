#!/bin/bash
# tree.sh SUITE [build]: prints the directory of a Debian tree of that suite and makes it if need be.
# With `build`, one that programs can be compiled in. Run as root.
#
# Trees are kept in $SCNPM_CACHE (/var/cache/scnpm-tests) and never written to after they are made.
set -euo pipefail

suite=$1
kind=${2:-boot}
cache=${SCNPM_CACHE:-/var/cache/scnpm-tests}

case $kind in
boot)
    packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,nftables,libnftables1,iproute2
    packages+=,python3,procps,util-linux,passwd,libcap2-bin,strace
    ;;
build) packages=gcc,libc6-dev,libsystemd-dev,make,pkg-config ;;
*)
    echo "tree.sh: unknown kind of tree: $kind" >&2
    exit 2
    ;;
esac

key=$(printf '%s\n' "$suite" "$packages" | sha256sum | cut -c1-12)
tree=$cache/$suite-$kind-$key
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9

if [ ! -d "$tree" ]; then
    echo "Making a Debian $suite tree in $tree" >&2
    new=$(mktemp -d "$cache/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    # apt's own download user may not be able to reach the directory.
    mmdebstrap --quiet --mode=root --variant=minbase --format=directory --include="$packages" \
        --aptopt='APT::Sandbox::User "root"' --aptopt='Acquire::Retries "3"' \
        "$suite" "$new/tree" >&2
    mv "$new/tree" "$tree"
fi
echo "$tree"
