#!/bin/bash
# pictures.sh [PROGRAM]: makes docs/top*.svg anew, from a real run of the daemon and of `scnpm top`: on the running kernel, in
# namespaces of its own, of cgroups too, so that neither this machine's firewall nor its units are touched. PROGRAM is a scnpm
# with the feature top; without it one is built. Needs Linux 6.12 or later: before that `socket cgroupv2` looks at the levels
# of the machine from within a cgroup namespace.
#
# Uses sudo unless root.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin"

case ${1:-} in
--inside-namespaces) ;;
--inside-cgroup)
    # A process whose cgroup is the root of a namespace of cgroups.
    echo 0 >"$2/cgroup.procs"
    exec unshare --cgroup --mount --propagation private "$0" --inside-namespaces "${@:3}"
    ;;
*)
    "$top/tests/setup.sh" ca-certificates gcc iproute2 libc6-dev libsystemd-dev make nftables pkg-config python3 python3-pyte
    program=${1:-$top/target/release/scnpm}
    [ -n "${1:-}" ] || (cd "$top" && cargo build --quiet --release --locked --features top)
    root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    work=$(mktemp -d /tmp/scnpm-pictures.XXXXXX)
    # All processes end with their PID namespace.
    "${root[@]}" unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private bash -euc '
        mount -t cgroup2 none /sys/fs/cgroup
        cgroup=/sys/fs/cgroup/scnpm-pictures
        mkdir -p "$cgroup"
        status=0
        "$0" --inside-cgroup "$cgroup" "$@" || status=$?
        # Those that are left end with the namespace, but their cgroups would stay.
        echo 1 >"$cgroup/cgroup.kill"
        sleep 0.5
        find "$cgroup" -depth -type d -exec rmdir {} + || true
        exit "$status"
    ' "$0" "$program" "$work" "$top" || status=$?
    cp "$work"/*.svg "$top/docs" || true
    "${root[@]}" rm -rf --one-file-system "$work"
    exit "${status:-0}"
    ;;
esac

# From here on in namespaces of our own.
scnpm=$2 work=$3 top=$4
umount /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
chmod 755 "$work"
conf=$work/nftables.conf

# The world is another network namespace.
ip link set lo up
unshare --net sleep infinity &
far=$!
until [ "$(readlink /proc/$far/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link add uplink type veth peer name far-end netns "$far"
ip link set uplink up
ip address add 10.0.0.2/24 dev uplink
ip -6 address add 2001:db8::2/64 dev uplink nodad
ip route add default via 10.0.0.1
ip -6 route add default via 2001:db8::1
in_world() { nsenter --net="/proc/$far/ns/net" "$@"; }
in_world ip link set lo up
in_world ip link set far-end up
in_world ip address add 10.0.0.1/24 dev far-end
in_world ip -6 address add 2001:db8::1/64 dev far-end nodad
for address in 192.0.2.25 192.0.2.53 198.51.100.7 203.0.113.9; do
    in_world ip address add "$address/32" dev lo
done
in_world ip -6 address add 2001:db8:443::7/128 dev lo nodad

cat >"$conf" <<'END'
# scnpm: count
table inet filter {
    chain allowed {
    }
    chain refused {
    }
    # scnpm: record refusals in inet filter refused
    chain output {
        type filter hook output priority filter; policy accept;
        oifname lo accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        jump allowed
        jump refused
        reject with icmpx admin-prohibited
    }
}

# scnpm: allow(W003)
# system:postfix.service :: add rule inet filter allowed socket cgroupv2 unit tcp dport 25 accept
# scnpm: allow(W003)
# system:unbound.service :: add rule inet filter allowed socket cgroupv2 unit udp dport 53 accept
# scnpm: allow(W003)
# system:backup.service :: add rule inet filter allowed socket cgroupv2 unit ip daddr 198.51.100.7 tcp dport 22 accept
# scnpm: allow(W003)
# system:certbot.service :: add rule inet filter allowed socket cgroupv2 unit tcp dport 443 accept
# user:app:org.mozilla.firefox :: add rule inet filter allowed socket cgroupv2 unit tcp dport 443 accept
# user:app:steam :: add rule inet filter allowed socket cgroupv2 unit tcp dport 443 accept
END
mount --bind "$conf" /etc/nftables.conf
conf=/etc/nftables.conf
nft -f "$conf"

/usr/bin/python3 "$top/docs/pictures.py" world "$far" &
apps=user.slice/user-1000.slice/user@1000.service/app.slice
for unit in system.slice/{postfix,unbound,backup}.service "$apps"/app-{org.mozilla.firefox-2307,org.gnome.Weather-2954}.scope; do
    mkdir -p "/sys/fs/cgroup/$unit"
done

"$scnpm" --sources cgroup --control "$work/control" "$conf" 2>"$work/log" &
for _ in $(seq 100); do
    [ ! -S "$work/control" ] || break
    sleep 0.1
done
unit() {
    sh -c 'echo 0 >"/sys/fs/cgroup/$1/cgroup.procs" && shift && exec "$@"' - "$1" /usr/bin/python3 "$top/docs/pictures.py" unit "${@:2}" &
}
# What each sends, in bytes, how often in a second, and where to.
unit system.slice/postfix.service 700 20 tcp 192.0.2.25 25
unit system.slice/unbound.service 60 45 udp 192.0.2.53 53
unit system.slice/backup.service 1300 400 tcp 198.51.100.7 22
unit "$apps/app-org.mozilla.firefox-2307.scope" 1200 90 tcp 2001:db8:443::7 443
unit "$apps/app-org.mozilla.firefox-2307.scope" 100 3 tcp 203.0.113.9 443
unit "$apps/app-org.mozilla.firefox-2307.scope" 40 0.3 udp 203.0.113.9 443
unit "$apps/app-org.gnome.Weather-2954.scope" 200 0.5 tcp 203.0.113.9 443
unit system.slice/backup.service 40 0.2 tcp 192.0.2.25 25
unit system.slice/postfix.service 40 0.1 tcp 198.51.100.7 587
sleep 4
/usr/bin/python3 "$top/docs/pictures.py" pictures "$scnpm" "$work" || {
    cat "$work/log"
    exit 1
}
