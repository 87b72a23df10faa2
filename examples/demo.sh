#!/bin/bash
# demo.sh: scnpm at work, on the running kernel but in namespaces of its own: neither this machine's
# firewall nor its network is touched. Takes a few seconds, and a build the first time.
#
# Uses sudo unless root. Exit status 0 if everything went as it says.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin"

if [ "${1:-}" != --inside-namespaces ]; then
    "$top/tests/setup.sh" ca-certificates gcc iproute2 libc6-dev libsystemd-dev nftables perl-base pkg-config
    if command -v cargo >/dev/null; then
        echo "Building scnpm"
        (cd "$top" && cargo build --quiet --release --locked --features top)
    elif [ ! -x "$top/target/release/scnpm" ]; then
        echo "demo.sh: there is no cargo here, and no scnpm in target/release" >&2
        exit 1
    fi
    root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    colour=no
    if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then colour=yes; fi
    work=$(mktemp -d /tmp/scnpm-demo.XXXXXX)
    # All processes of the demonstration end with their PID namespace.
    clean_up() {
        "${root[@]}" rm -rf --one-file-system "$work"
    }
    trap clean_up EXIT
    "${root[@]}" unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
        "$0" --inside-namespaces "$top/target/release/scnpm" "$work" "$colour"
    exit
fi

# From here on in namespaces of our own.
scnpm=$2 work=$3 colour=$4
cgroups=/sys/fs/cgroup
slice='scnpm-demo.slice'
mail=$slice/mail.service
other=$slice/other.service
conf=$work/nftables.conf
server=192.0.2.25
bold='' green='' red='' dim='' plain=''
if [ "$colour" = yes ]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' dim=$'\e[2m' plain=$'\e[0m'
fi

say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
quote() { sed "s/^/    $dim/; s/\$/$plain/"; }
fail() {
    printf '\n%sNot as it should be: %s%s\n' "$red" "$*" "$plain" >&2
    [ ! -s "$work/scnpm.log" ] || cat "$work/scnpm.log" >&2
    exit 1
}

tidy() {
    [ -z "${daemon:-}" ] || kill "$daemon" 2>/dev/null || true
    rmdir "$cgroups/$mail" "$cgroups/$other" "$cgroups/$slice" 2>/dev/null || true
}
trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A machine with a VPN: the other end is a network namespace of its own with a mail server.
[ "$(stat --file-system --format=%T "$cgroups")" = cgroup2fs ] || mount -t cgroup2 none "$cgroups" ||
    fail "cgroup2 can't be mounted on $cgroups"
tidy
ip link set lo up
unshare --net sleep infinity &
far=$!
until [ "$(readlink /proc/$far/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link add my-vpn type veth peer name far-end netns "$far"
ip address add 192.0.2.1/24 dev my-vpn
ip link set my-vpn up
nsenter --net="/proc/$far/ns/net" ip address add "$server/24" dev far-end
nsenter --net="/proc/$far/ns/net" ip link set far-end up
nsenter --net="/proc/$far/ns/net" perl -MIO::Socket::INET -e '
    $listener = IO::Socket::INET->new(LocalAddr => $ARGV[0], LocalPort => 25, Listen => 8) or die "listen: $!";
    open($ready, ">", $ARGV[1]);
    while ($mail = $listener->accept) { print $mail "220 mail.example ready\r\n"; close $mail; }
    ' "$server" "$work/listening" &
for _ in $(seq 100); do
    [ -e "$work/listening" ] && break
    sleep 0.1
done

cat >"$conf" <<END
table inet filter {
    chain vpn.whitelist {
    }
    chain output {
        type filter hook output priority filter; policy accept;
        ct state established,related accept
        oifname my-vpn jump vpn.whitelist
        oifname my-vpn meta l4proto tcp reject with icmpx type admin-prohibited
    }
}

# mail.service :: add rule inet filter vpn.whitelist \\
#   socket cgroupv2 level 2 "$mail" tcp dport 25 accept
END

# What systemd does when it starts a service: make its cgroup, then run it there. The service connects at
# once, and says how that went.
start() {
    mkdir -p "$cgroups/$1"
    answer=$(sh -c 'echo 0 >"$1" && exec bash -c "exec 3<>/dev/tcp/$2/25 && read -r -t 5 -u 3 line && echo \"\$line\"" 2>/dev/null' \
        - "$cgroups/$1/cgroup.procs" "$server" || true)
    answer=${answer%$'\r'}
}
stop() {
    rmdir "$cgroups/$1"
}
is_accepted() {
    [ "$answer" = "220 mail.example ready" ] || fail "the connection is refused"
    printf '    %sconnected:%s the server says “%s”\n' "$green" "$plain" "$answer"
}
is_refused() {
    [ -z "$answer" ] || fail "the connection is accepted"
    printf '    %srefused%s\n' "$red" "$plain"
}
id() { stat --format=%i "$cgroups/$1"; }
# What nft lists of the map that scnpm keeps.
map() {
    nft list table inet filter | sed -n '/map scnpm\./,/^\t}/p' | sed 's/\t/    /g' | quote
}
elements() { nft list table inet filter | sed -n '/map scnpm\./,/^\t}/p' | grep -c "$mail" || true; }
elements_become() {
    for _ in $(seq 100); do
        [ "$(elements)" != "$1" ] || return 0
        sleep 0.1
    done
    fail "the map has $(elements) elements, not $1"
}

say "The firewall: nobody may use the VPN but those on a list, and a comment says who is on it."
sed -n '/^# mail/,$p' "$conf" | quote
nft -f "$conf" || fail "nft does not load the file"

say "1. Without scnpm: mail.service starts and connects to the mail server through the VPN."
start "$mail"
is_refused
stop "$mail"

say "2. scnpm starts. It has put one rule and one map in place; the service does not run, so the map is empty."
"$scnpm" --sources cgroup "$conf" >"$work/scnpm.log" 2>&1 &
daemon=$!
for _ in $(seq 100); do
    nft list chain inet filter vpn.whitelist | grep -q scnpm && break
    kill -0 "$daemon" 2>/dev/null || fail "scnpm ended"
    sleep 0.1
done
nft list table inet filter | sed -n '/chain vpn.whitelist/,/^\t}/p' | sed 's/\t/    /g' | quote
map
elements_become 0

say "3. mail.service starts: its cgroup appears, and the very first connection gets through."
start "$mail"
is_accepted
first=$(id "$mail")
elements_become 1
echo "    its cgroup is number $first; the map:"
map

say "4. Another service tries the same."
start "$other"
is_refused
stop "$other"

say "5. mail.service restarts. Its cgroup is a new one, which a plain nftables rule would not know."
stop "$mail"
start "$mail"
is_accepted
[ "$(id "$mail")" != "$first" ] || fail "the cgroup is the same"
elements_become 1
echo "    its cgroup is number $(id "$mail") now, no longer $first"

say "6. mail.service stops: its element is gone."
stop "$mail"
elements_become 0
map

kill "$daemon"
wait "$daemon" || fail "scnpm did not end well"
daemon=
say "scnpm has ended; the firewall stays as it is. That was all."
