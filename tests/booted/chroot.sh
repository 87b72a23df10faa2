#!/bin/bash
# chroot.sh SUITE KIND DIRECTORY... -- COMMAND...: runs a command in a Debian tree of that suite and kind (see tree.sh)
# that is not booted, in a network of its own, with the directories at their own paths and the first one as its working
# directory. Run as root, with a program that runs in that suite. Exit status: the command's.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tree=$("$here/tree.sh" "$1" "$2")
work=${SCNPM_CACHE:-/var/cache/scnpm-tests}/mnt
shift 2
mkdir -p "$work"

# Namespaces of our own: the mounts go with them.
# shellcheck disable=SC2016
exec unshare --mount --net --propagation private bash -euo pipefail -c '
tree=$1 work=$2 directory=$3
shift 2
mount -t tmpfs tmpfs "$work"
mkdir "$work"/{upper,work,root}
root=$work/root
mount -t overlay -o "lowerdir=$tree,upperdir=$work/upper,workdir=$work/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount --bind /dev "$root/dev"
mount -t devpts -o ptmxmode=666,mode=620 devpts "$root/dev/pts"
# An installer makes these.
touch "$root"/etc/{hosts,resolv.conf}
until [ "$1" = -- ]; do
    mkdir -p "$root$1"
    mount --bind "$1" "$root$1"
    shift
done
shift
# In a chroot(2) the kernel allows no user namespaces.
cd "$root"
pivot_root . mnt
umount --lazy /mnt
cd "$directory"
exec "$@"
' - "$tree" "$work" "$@"
