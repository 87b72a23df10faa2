#!/bin/bash
# image.sh: prints the directory of a Debian machine for qemu and makes it if need be: a disk with an ext4 file system, Debian's
# kernel for clouds, and an initramfs of ours. Run as root.
#
# It is kept in $SCNPM_CACHE (/var/cache/scnpm-tests) and never written to after it is made. One that is older than a week is
# made anew, since suites change, or used once more if that fails.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${SCNPM_CACHE:-/var/cache/scnpm-tests}
suite=trixie
packages=linux-image-cloud-amd64,systemd,systemd-sysv,udev,dbus,dbus-user-session,libpam-systemd,polkitd,apparmor
packages+=,nftables,libnftables1,iproute2,wireguard-tools,openssh-server,openssh-client,python3,procps,passwd,netbase,kmod,less

# What it is made of.
key=$({ echo "$suite $packages" && cat "$here"/{image.sh,init.c,initramfs.py,agent.service}; } | sha256sum | cut -c1-12)
machine=$cache/machine-$key
mkdir -p "$cache"
exec 9>"$cache/lock-machine"
flock 9

make_machine() {
    local new=$1 tree=$1/tree
    echo "Making a machine with Debian $suite in $machine" >&2
    # The initramfs of the kernel's package is not used, and takes a while to make.
    INITRD=No mmdebstrap --quiet --mode=root --variant=minbase --format=directory --include="$packages" \
        --aptopt='APT::Sandbox::User "root"' --aptopt='Acquire::Retries "3"' \
        --aptopt='Acquire::Check-Valid-Until "false"' "$suite" "$tree" >&2 || return 1
    # An installer makes these.
    echo machine >"$tree/etc/hostname"
    echo "127.0.0.1 localhost" >"$tree/etc/hosts"
    echo 5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e >"$tree/etc/machine-id"
    install -m 644 "$here/agent.service" "$tree/etc/systemd/system"
    systemctl --root="$tree" --quiet enable agent.service || return 1
    # Not needed.
    systemctl --root="$tree" --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
        e2scrub_reap.service fstrim.timer systemd-tmpfiles-clean.timer systemd-timesyncd.service getty@tty1.service || return 1
    # Nor are the profiles of other programs, which apparmor.service would compile for more than a minute.
    find "$tree/etc/apparmor.d" -maxdepth 1 -type f -delete
    # A shell for whoever looks (run.sh --shell).
    install -D -m 644 /dev/stdin "$tree/etc/systemd/system/serial-getty@ttyS0.service.d/root.conf" <<'END'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - $TERM
END
    # All that is logged is kept.
    install -D -m 644 /dev/stdin "$tree/etc/systemd/journald.conf.d/tests.conf" <<'END'
[Journal]
RateLimitIntervalSec=0
Storage=persistent
END
    # Nothing is to be brought up to date at the first boot, such as the database of hardware.
    touch "$tree"/{etc,var}/.updated
    gcc -O2 -static -Wall -Wextra -o "$new/init" "$here/init.c" || return 1
    python3 "$here/initramfs.py" "$tree" "$new/init" "$new/initramfs" || return 1
    cp "$tree"/boot/vmlinuz-* "$new/vmlinuz" || return 1
    rm -rf "$tree"/boot/* "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
    mke2fs -q -t ext4 -d "$tree" "$new/disk" 1536M >&2 || return 1
    rm -rf "$tree"
    touch "$new"
    # Tests that run now may still use the old one.
    rm -rf "$machine.old"
    [ ! -d "$machine" ] || mv "$machine" "$machine.old"
    mv "$new" "$machine"
    chmod 755 "$machine"
}

if [ -z "$(find "$machine" -maxdepth 0 -mtime -7 2>/dev/null)" ]; then
    new=$(mktemp -d "$cache/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    # A mirror may fail once.
    if ! make_machine "$new" && ! { rm -rf "$new/tree" && make_machine "$new"; }; then
        [ -d "$machine" ] || exit 1
        echo "The machine is of $(date --reference="$machine" +%F): no newer one can be made" >&2
    fi
fi
echo "$machine"
