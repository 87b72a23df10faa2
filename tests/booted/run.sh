#!/bin/bash
# run.sh SUITE SCNPM PROGRAM [ARGUMENT...]: boots a Debian of that suite with systemd as PID 1 in a
# container with a network of its own, with the program SCNPM and its unit installed, and runs PROGRAM (a
# Python file beside this one, in tests/recipes, in tests/docs or in tests/packages) in it. Run as root. Exit status: PROGRAM's.
# With SCNPM_TREE=desktop the Debian has a virtual display and a notification daemon, with SCNPM_TREE=recipes the programs of
# the recipes (tree.sh). With SCNPM=none nothing of scnpm is installed, and the files in the directory SCNPM_PACKAGES are in
# /opt/tests/packages. A PROGRAM that ends with status 75 is run again after a reboot.
#
# All that it starts lives in a PID, a mount and a network namespace and in one cgroup, and goes with them.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)

if [ "${1:-}" != --inside-namespaces ]; then
    suite=$1
    scnpm=$2
    [ "$scnpm" = none ] || scnpm=$(realpath "$scnpm")
    shift 2
    tree=$("$here/tree.sh" "$suite" "${SCNPM_TREE:-boot}")
    work=$(mktemp -d /tmp/scnpm-booted.XXXXXX)
    name=scnpm-booted-$$

    clean_up() {
        # The cgroup is empty when the namespaces are gone, but for what the kernel is still taking down.
        if [ -d "$work/cgroup/$name" ]; then
            echo 1 2>/dev/null >"$work/cgroup/$name/cgroup.kill" || true
            for _ in $(seq 100); do
                find "$work/cgroup/$name" -depth -type d -exec rmdir {} + 2>/dev/null && break
                sleep 0.1
            done
        fi
        umount "$work/cgroup" 2>/dev/null || true
        rm -rf --one-file-system "$work"
    }
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM

    # Wherever the machine has it, and in a hybrid hierarchy too, this is the one cgroup2 hierarchy.
    mkdir "$work/cgroup"
    mount -t cgroup2 none "$work/cgroup"
    mkdir "$work/cgroup/$name"

    gcc -O2 -static -Wall -Wextra -o "$work/connect" "$top/tests/bench/connect.c"

    unshare --mount --pid --fork --kill-child --mount-proc --propagation private \
        "$0" --inside-namespaces "$work" "$name" "$tree" "$scnpm" "$@" &
    child=$!
    status=0
    wait "$child" || status=$?
    exit "$status"
fi

# From here on in namespaces of our own.
work=$2 name=$3 tree=$4 scnpm=$5 program=$6
shift 6
echo $$ >"$work/cgroup/$name/cgroup.procs"
mkdir "$work/run"
mount -t tmpfs -o mode=755 tmpfs "$work/run"
mkdir "$work/run"/{upper,work,root}
root=$work/run/root
log=$work/run/boot.log
mount -t overlay -o "lowerdir=$tree,upperdir=$work/run/upper,workdir=$work/run/work" overlay "$root"

# What a package would install, and the tests.
if [ "$scnpm" != none ]; then
    "$top/packaging/install.sh" "$root" "$scnpm"
else
    install -D -m 644 -t "$root/opt/tests/packages" "${SCNPM_PACKAGES:?}"/*
fi
install -D -m 755 "$work/connect" "$root/opt/tests/connect"
install -m 644 "$here"/*.py "$top"/tests/{recipes,docs}/*.py "$root/opt/tests/"
install -D -m 644 -t "$root/opt/tests/outputs" "$here"/outputs/*.txt
install -D -m 644 -t "$root/opt/tests/examples" "$top"/examples/*.conf
install -m 644 -t "$root/opt/tests" "$top"/docs/*.md
install -D -m 644 -t "$root/opt/tests/pages" "$top"/*.md
install -D -m 644 -t "$root/opt/tests/pages/docs" "$top"/docs/*.md
cp -r --no-preserve=mode,ownership -t "$root/opt/tests/examples" "$top"/examples/{systemd,vpn}
chroot "$root" python3 /opt/tests/prepare.py >"$log" 2>&1 </dev/null || {
    cat "$log" >&2
    exit 1
}

# Tunnels need the first, file systems of containers the second.
devices=()
if [ "${SCNPM_TREE:-}" = recipes ]; then
    for device in /dev/net/tun /dev/fuse; do
        [ ! -e "$device" ] || devices+=(--bind="$device")
    done
fi
# The container's PID 1: below nspawn, and number 1 in its own PID namespace.
leader() {
    local status
    for status in /proc/[0-9]*/status; do
        awk -v nspawn="$nspawn" '
            $1 == "PPid:" { below = $2 == nspawn }
            $1 == "NSpid:" { first = $NF == 1 }
            END { exit !(below && first) }' "$status" 2>/dev/null || continue
        status=${status#/proc/}
        echo "${status%/status}"
        return
    done
    return 1
}

inside() {
    nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup --root --wd=/ \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root \
        SYSTEMD_PAGER= SCNPM_BLESS="${SCNPM_BLESS:-}" "$@"
}

boot() {
    local state=
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit --directory="$root" \
        --machine="$name" "${devices[@]}" --private-network --link-journal=no --resolv-conf=off --timezone=off --boot \
        >"$log" 2>&1 </dev/null &
    nspawn=$!
    for _ in $(seq 600); do
        if ! kill -0 "$nspawn" 2>/dev/null; then
            break
        fi
        if pid=$(leader); then
            state=$(inside systemctl is-system-running 2>/dev/null || true)
            case $state in running | degraded) return ;; esac
        fi
        sleep 0.1
    done
    echo "The container did not boot (${state:-no state}):" >&2
    tail -n 50 "$log" >&2
    exit 1
}

# Runs the program in a cgroup inside the container's hierarchy, so that it can move processes there.
tested() {
    local cgroup
    cgroup=$(sed -n 's/^0:://p' "/proc/$pid/cgroup")
    cgroup=$work/cgroup${cgroup%/init.scope}/tests
    mkdir -p "$cgroup"
    (
        echo "$BASHPID" >"$cgroup/cgroup.procs"
        inside python3 -u "/opt/tests/$program" "$@"
    )
}

# Containers in the container mount a /proc of their own. The kernel lets only those do so who have a whole one, and nspawn covers
# parts of the container's (of nspawn 252 the machine's own is left below).
give_proc() {
    inside mkdir -p /run/proc
    inside mount -t proc -o nosuid,nodev,noexec proc /run/proc
}

while :; do
    boot
    [ "${SCNPM_TREE:-}" != recipes ] || give_proc
    status=0
    tested "$@" || status=$?
    [ "$status" = 75 ] || break
    # With its status nspawn asks whoever started it to do so again.
    inside systemctl reboot || true
    wait "$nspawn" || true
done
if [ -n "${SCNPM_BLESS:-}" ]; then
    install -m 644 -t "$here/outputs" "$root"/opt/tests/outputs/*.txt
    # The picture, if it was made.
    [ ! -f "$root/opt/tests/notification.png" ] || install -m 644 -t "$top/docs" "$root/opt/tests/notification.png"
fi
exit "$status"
