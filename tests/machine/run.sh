#!/bin/bash
# run.sh [--shell] [PART...] PACKAGE: the life of a whole machine with scnpm, in qemu: installation of the package, boot,
# login, upgrade, a cut of its power, VPN, removal (PART of drive.py's LIFE). Run as root.
#
# PACKAGE is a .deb (packaging/build.sh makes one). With --shell the machine boots to a shell on this terminal, and runs nothing.
#
# The machine is emulated, so that it needs no /dev/kvm. It has no network but what it makes for itself.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
[ $# != 0 ] || {
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
}
package=$(realpath "${*: -1}")
parts=("${@:1:$#-1}")

"$top/tests/setup.sh" qemu-system-x86 e2fsprogs mmdebstrap gcc libc6-dev dpkg python3 >&2
machine=$("$here/image.sh")
work=$(mktemp -d /tmp/scnpm-machine.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
tests=$work/tests
mkdir -p "$tests/packages"

cp "$package" "$tests/packages/old.deb"
# The next version of it.
dpkg-deb --raw-extract "$package" "$work/next"
sed -i 's/^Version: .*/&+next/' "$work/next/DEBIAN/control"
dpkg-deb --root-owner-group -Zgzip -z1 --build "$work/next" "$tests/packages/new.deb" >/dev/null

gcc -O2 -static -Wall -Wextra -o "$tests/connect" "$top/tests/bench/connect.c"
gcc -O2 -static -Wall -Wextra -o "$tests/client" "$here/client.c"
install -m 644 -t "$tests" "$here"/*.py "$here"/nftset.txt "$top"/tests/{booted,recipes}/*.py "$top/tests/docs/page.py" "$top"/docs/*.md
install -m 755 -t "$tests" "$here/network.sh"
install -D -m 644 -t "$tests/examples" "$top"/examples/*.conf
cp -r --no-preserve=mode,ownership -t "$tests/examples" "$top"/examples/{systemd,vpn}
tar --owner=root --group=root -C "$tests" -cf "$work/tests.tar" .
python3 -u "$here/drive.py" "$machine" "$work/tests.tar" "$work" "${parts[@]}"
