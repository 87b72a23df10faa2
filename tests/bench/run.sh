#!/bin/bash
# run.sh SCNPM [SUITE]: measures that program: how soon and at what cost its rules follow cgroups, on the
# running kernel, in namespaces; then in a booted Debian of that suite (bookworm) first tries and what the
# idle daemon needs. Run as root. Times are printed beside their targets; only counts decide the exit
# status.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" != --inside-namespaces ]; then
    scnpm=$(realpath "$1")
    suite=${2:-bookworm}
    work=$(mktemp -d /tmp/scnpm-bench.XXXXXX)
    name=scnpm-bench-$$
    child=
    clean_up() {
        [ -z "$child" ] || kill -KILL "$child" 2>/dev/null || true
        mkdir -p "$work/cgroup"
        mount -t cgroup2 none "$work/cgroup"
        # What was in the namespaces is still ending.
        for _ in $(seq 50); do
            [ -n "$(find "$work/cgroup" -maxdepth 1 -name "$name*" -print -quit)" ] || break
            find "$work/cgroup" -mindepth 1 -depth -path "$work/cgroup/$name*" -type d -exec rmdir {} + 2>/dev/null ||
                sleep 0.1
        done
        # Of the user's tree only what the section on selected units has said that it makes.
        for _ in $(seq 50); do
            [ -s "$work/made" ] || break
            while read -r made; do
                find "$work/cgroup" -mindepth 1 -depth -path "$work/cgroup/$made" -type d -exec rmdir {} + 2>/dev/null ||
                    true
            done < <(tac "$work/made")
            left=$(while read -r made; do
                find "$work/cgroup" -mindepth 1 -path "$work/cgroup/$made" -type d -print -quit 2>/dev/null || true
            done <"$work/made")
            [ -n "$left" ] || break
            sleep 0.1
        done
        umount "$work/cgroup"
        rm -rf --one-file-system "$work"
    }
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    gcc -O2 -Wall -Wextra -o "$work/elements" "$here/elements.c"
    gcc -O2 -Wall -Wextra -o "$work/packets" "$here/packets.c"

    status=0
    unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
        "$0" --inside-namespaces "$work" "$name" "$scnpm" &
    child=$!
    wait "$child" || status=1
    child=
    if [ "$suite" != none ]; then
        echo
        echo "In a booted Debian $suite:"
        "$here/../booted/run.sh" "$suite" "$scnpm" measure.py starts 600 || status=1
        echo "With --sources journal:"
        "$here/../booted/run.sh" "$suite" "$scnpm" measure.py journal 60 || status=1
        "$here/../booted/run.sh" "$suite" "$scnpm" measure.py idle 60 || status=1
        "$here/../booted/run.sh" "$suite" "$scnpm" measure.py floods 300 || status=1
    fi
    exit "$status"
fi

# From here on in namespaces of our own.
work=$2 name=$3 scnpm=$4
cgroups=/sys/fs/cgroup
[ "$(stat --file-system --format=%T "$cgroups")" = cgroup2fs ] || mount -t cgroup2 none "$cgroups"
status=0

# A policy: `base FILE` begins one, `annotate FILE CGROUP` adds a rule for a unit.
base() {
    cat >"$1" <<'END'
table inet filter {
    chain allowed { }
    chain output {
        type filter hook output priority filter; policy accept;
        udp dport 7001 jump allowed
    }
}
END
}
annotate() {
    echo "# ${2##*/} :: add rule inet filter allowed socket cgroupv2 level 2 \"$2\" accept" >>"$1"
}

# `daemon FILE` starts scnpm for a policy in a network namespace of its own and sets $daemon to its PID.
daemon() {
    unshare --net sh -c 'ip link set lo up && nft -f "$2" && exec "$1" --sources cgroup --control "$2.socket" "$2"' \
        - "$scnpm" "$1" \
        >"$1.log" 2>&1 &
    daemon=$!
    for _ in $(seq 300); do
        if in_net "$daemon" nft -t list chain inet filter allowed 2>/dev/null | grep -q scnpm; then
            return
        fi
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    echo "scnpm did not load $1:" >&2
    cat "$1.log" >&2
    exit 1
}
in_net() {
    nsenter --net="/proc/$1/ns/net" "${@:2}"
}
ratio() {
    awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'
}
# The value at that percentage of the way through a file of numbers.
percentile() {
    sort -n "$2" | awk -v at="$1" '{ value[NR] = $1 } END { print value[int((NR - 1) * at / 100) + 1] }'
}

# From mkdir to commit. Three daemons, each with its own directory and network; they take turns.
echo "From a cgroup's mkdir to its element committed (microseconds, 600 samples each):"
declare -A pid
for case in empty others same; do
    policy=$work/$case.nft
    base "$policy"
    case $case in
    others)
        {
            echo 'table inet other {'
            echo 'set numbers { type ipv4_addr;'
            echo "elements = { $(seq 0 99999 | awk '{ printf "10.%d.%d.%d, ", $1 / 65536, $1 / 256 % 256, $1 % 256 }') }"
            echo '}'
            echo 'chain output { type filter hook output priority 10;'
            seq 1000 | sed 's/.*/tcp dport & counter/'
            printf '}\n}\n'
        } >>"$policy"
        ;;
    same)
        {
            printf 'table inet filter {\nchain many {\n'
            seq 1000 | sed 's/.*/tcp dport & counter/'
            printf '}\n}\n'
            echo 'add rule inet filter output tcp dport 1-1000 jump many'
        } >>"$policy"
        ;;
    esac
    mkdir "$cgroups/$name-$case"
    annotate "$policy" "$name-$case/bench.service"
    daemon "$policy"
    pid[$case]=$daemon
done
for _ in $(seq 12); do
    for case in empty others same; do
        in_net "${pid[$case]}" "$work/elements" latency "$cgroups/$name-$case" bench.service 50 >>"$work/$case.us"
    done
done
declare -A median late
for case in empty others same; do
    median[$case]=$(percentile 50 "$work/$case.us")
    late[$case]=$(percentile 99 "$work/$case.us")
    kill "${pid[$case]}"
done
row='  %-46s %9s %9s %7s  %s\n'
printf "$row" "" median p99 ratio target
printf "$row" "empty ruleset" "${median[empty]}" "${late[empty]}" "" ""
printf "$row" "100,000 elements, 1,000 rules in other tables" "${median[others]}" "${late[others]}" \
    "$(ratio "${median[others]}" "${median[empty]}")" "at most 1.2"
printf "$row" "1,000 reachable rules in the same table" "${median[same]}" "${late[same]}" \
    "$(ratio "${median[same]}" "${median[empty]}")" "at most 2.3"

# The same with watchers of the status. Two daemons, which take turns.
for case in unwatched watched; do
    mkdir "$cgroups/$name-$case"
    base "$work/$case.nft"
    annotate "$work/$case.nft" "$name-$case/bench.service"
    daemon "$work/$case.nft"
    pid[$case]=$daemon
done
coproc watchers { exec python3 "$here/watchers.py" "$work/watched.nft.socket" 100 10; }
watchers_pid=$watchers_PID
read -r <&"${watchers[0]}"
for _ in $(seq 60); do
    for case in unwatched watched; do
        in_net "${pid[$case]}" "$work/elements" latency "$cgroups/$name-$case" bench.service 50 >>"$work/$case.us"
    done
done
for case in unwatched watched; do
    median[$case]=$(percentile 50 "$work/$case.us")
    late[$case]=$(percentile 99 "$work/$case.us")
done
kill -0 "$watchers_pid" || status=1
exec {watchers[1]}>&-
wait "$watchers_pid" || status=1
kill "${pid[unwatched]}" "${pid[watched]}"
printf "$row" "nobody watches the status" "${median[unwatched]}" "${late[unwatched]}" "" ""
printf "$row" "100 watchers, 10 of whom read nothing" "${median[watched]}" "${late[watched]}" \
    "$(ratio "${median[watched]}" "${median[unwatched]}")" "at most 1.1"

# Packets. One sender in the cgroup of the last unit.
mkdir "$cgroups/$name-packets"
base "$work/none.nft"
base "$work/one.nft"
base "$work/counted.nft"
base "$work/thousand.nft"
base "$work/plain.nft"
for number in $(seq 1000); do
    cgroup=$name-packets/unit$number.service
    mkdir "$cgroups/$cgroup"
    annotate "$work/thousand.nft" "$cgroup"
    echo "add rule inet filter allowed socket cgroupv2 level 2 \"$cgroup\" accept" >>"$work/plain.nft"
done
annotate "$work/one.nft" "$cgroup"
echo "# scnpm: count" >>"$work/counted.nft"
annotate "$work/counted.nft" "$cgroup"
places=()
for policy in none plain; do
    unshare --net sh -c 'ip link set lo up && nft -f "$1" && exec sleep infinity' - "$work/$policy.nft" &
    places+=($!)
    until in_net $! nft list chain inet filter output >/dev/null 2>&1; do sleep 0.1; done
done
for policy in one counted thousand; do
    daemon "$work/$policy.nft"
    places+=("$daemon")
done
for place in "${places[@]}"; do
    namespaces+=("/proc/$place/ns/net")
done
read -r none plain one counted thousand < <(
    echo $BASHPID >"$cgroups/$cgroup/cgroup.procs"
    "$work/packets" 61 20000 "${namespaces[@]}"
)
kill "${places[@]}"
echo
echo "A packet through the output chain (nanoseconds, median of 61 interleaved rounds of 20,000):"
row='  %-46s %9s %7s  %s\n'
printf "$row" "" median ratio target
printf "$row" "no rule" "$none" "$(ratio "$none" "$one")" ""
printf "$row" "1 unit" "$one" "" ""
printf "$row" "1 unit, counted" "$counted" "$(ratio "$counted" "$one")" "at most 1.05"
printf "$row" "1,000 units" "$thousand" "$(ratio "$thousand" "$one")" "at most 1.1"
printf "$row" "1,000 plain rules without scnpm" "$plain" "$(ratio "$plain" "$one")" ""

# Packets that are refused, and packets that are not, without and with a chain that records refusals.
recording() {
    printf 'table inet filter {\n%s\nchain allowed { }\nchain refused { }\n' "${2:+# scnpm: record refusals in inet filter refused}"
    printf 'chain output {\ntype filter hook output priority filter; policy accept;\nudp dport 7001 jump allowed\n'
    printf '%s\nudp dport 7001 reject\n}\n}\n' "${2:+udp dport 7001 jump refused}"
    echo "# other.service :: add rule inet filter allowed socket cgroupv2 level 2 \"$name-packets/other.service\" accept"
    [ "$1" = refused ] || echo "# ${cgroup##*/} :: add rule inet filter allowed socket cgroupv2 level 2 \"$cgroup\" accept"
}
namespaces=() places=()
for policy in refused accepted; do
    for recorded in "" yes; do
        recording "$policy" "$recorded" >"$work/$policy$recorded.nft"
        daemon "$work/$policy$recorded.nft"
        places+=("$daemon")
        namespaces+=("/proc/$daemon/ns/net")
    done
done
read -r refused recorded accepted beside < <(
    echo $BASHPID >"$cgroups/$cgroup/cgroup.procs"
    "$work/packets" 61 20000 "${namespaces[@]}"
)
kill "${places[@]}"
printf "$row" "refused" "$refused" "" ""
printf "$row" "refused and recorded" "$recorded" "$(ratio "$recorded" "$refused")" "at most 1.5"
printf "$row" "accepted" "$accepted" "" ""
printf "$row" "accepted where refusals are recorded" "$beside" "$(ratio "$beside" "$accepted")" "at most 1.05"

# Units that are selected, of a user that nobody is: 10 and then 5,000 more, and 20,000 that nobody selects.
# What is made of the user's tree is noted, as patterns, for clean_up.
uid=65001
app=user.slice/user-$uid.slice/user@$uid.service/app.slice
path=
for part in ${app//\// }; do
    path=${path:+$path/}$part
    [ -d "$cgroups/$path" ] || { mkdir "$cgroups/$path" && echo "$path" >>"$work/made"; }
done
taken=$(find "$cgroups/$app" -mindepth 1 -maxdepth 1 \( -name 'app-bench-*' -o -name 'app-other*' \) -print -quit)
[ -z "$taken" ] || {
    echo "$taken exists already" >&2
    exit 1
}
printf '%s\n' "$app/app-bench-*" "$app/app-other*" >>"$work/made"
for policy in few many others; do
    base "$work/$policy.nft"
    echo "# $uid:app:bench :: add rule inet filter allowed socket cgroupv2 unit accept" >>"$work/$policy.nft"
done
# Makes that many scopes; prints how many came into the kernel.
start() {
    local found
    read -r found _ < <(in_net "$daemon" "$work/elements" burst "$1" "$2" "$3" .scope)
    echo "$found"
}
milliseconds() {
    local began
    began=$(date +%s%N)
    "$@" >"$work/output" || status=1
    echo $((($(date +%s%N) - began) / 1000000))
}
cost_of_one_more() {
    in_net "$daemon" "$work/elements" latency "$cgroups/$app" app-bench-new.scope 600 >"$work/one-more.us"
    percentile 50 "$work/one-more.us"
}
rss() { awk '$1 == "VmRSS:" { print $2 }' "/proc/$daemon/status"; }
switches() { cat /proc/"$daemon"/task/*/status | awk '/ctxt_switches/ { sum += $2 } END { print sum }'; }

daemon "$work/few.nft"
few_daemon=$daemon
few_started=$(start "$cgroups/$app" app-bench-1 10)
few=$(cost_of_one_more)
# The first daemon's ruleset stays at 10, so that packets through both can take turns.
kill -STOP "$few_daemon"
daemon "$work/many.nft"
many_started=$(start "$cgroups/$app" app-bench-2 5000)
many=$(cost_of_one_more)
for _ in $(seq 9); do
    milliseconds in_net "$daemon" "$scnpm" status --socket "$work/many.nft.socket" >>"$work/status.ms"
done
read -r few_packets many_packets < <(
    echo $BASHPID >"$cgroups/$app/app-bench-10.scope/cgroup.procs"
    "$work/packets" 21 20000 "/proc/$few_daemon/ns/net" "/proc/$daemon/ns/net"
)
kill "$few_daemon" "$daemon"
kill -CONT "$few_daemon"
find "$cgroups/$app" -mindepth 1 -maxdepth 1 -name 'app-bench-*' -type d -exec rmdir {} +

# A daemon of its own, whose memory has not been used for anything before.
daemon "$work/others.nft"
sleep 1
before=$(rss)
for number in $(seq 10); do
    mkdir "$cgroups/$app/app-other$number.slice"
    seq 2000 | sed "s|.*|$cgroups/$app/app-other$number.slice/app-other-&.scope|" | xargs mkdir
done
sleep 3
after=$(rss)
began=$(switches)
sleep 5
idle=$(($(switches) - began))
# It does watch them.
among=$(start "$cgroups/$app/app-other10.slice" app-bench- 1)
kill "$daemon"
find "$cgroups/$app" -mindepth 1 -depth -path "$cgroups/$app/app-other*" -type d -exec rmdir {} +
row='  %-46s %9s %9s %7s  %s\n'
echo
echo "Selected units, 10 and then 5,000 more: $few_started of 10 and $many_started of 5000 in the kernel"
printf "$row" "" "10" "5,010" ratio target
printf "$row" "one more, mkdir to commit (microseconds)" "$few" "$many" "$(ratio "$many" "$few")" "at most 2"
printf "$row" "a packet (nanoseconds)" "$few_packets" "$many_packets" "$(ratio "$many_packets" "$few_packets")" \
    "at most 1.1"
printf "$row" "scnpm status (milliseconds, median of 9)" "" "$(percentile 50 "$work/status.ms")" "" "under 150"
echo
echo "20,000 cgroups in 10 slices that nobody selects: $among of 1 selected among them in the kernel"
row='  %-46s %9s  %s\n'
printf "$row" "" "" target
printf "$row" "resident memory (MB)" "$(awk -v a="$after" -v b="$before" \
    'BEGIN { printf "%.1f->%.1f", b / 1024, a / 1024 }')" "under 20 MB more"
printf "$row" "context switches in 5 idle seconds" "$idle" none
[ "$few_started" = 10 ] && [ "$many_started" = 5000 ] && [ "$among" = 1 ] || status=1

# scnpm check beside nft: the same base file, with 1,000 annotations.
base "$work/check-base.nft"
{
    echo 'table inet other { set numbers { type ipv4_addr; flags interval;'
    echo "elements = { $(seq 0 99999 | awk '{ printf "10.%d.%d.%d/31, ", $1 * 2 / 65536, $1 * 2 / 256 % 256, $1 * 2 % 256 }') }"
    printf '}\n}\n'
} >>"$work/check-base.nft"
cp "$work/check-base.nft" "$work/check.nft"
for number in $(seq 1000); do
    annotate "$work/check.nft" "$name-check/unit$number.service"
done
for _ in $(seq 9); do
    milliseconds nft -c -f "$work/check-base.nft" >>"$work/nft.ms"
    milliseconds "$scnpm" check --format short "$work/check-base.nft" >>"$work/twice.ms"
    milliseconds "$scnpm" check --format short "$work/check.nft" >>"$work/check.ms"
done
nft_ms=$(percentile 50 "$work/nft.ms")
twice_ms=$(percentile 50 "$work/twice.ms")
check_ms=$(percentile 50 "$work/check.ms")
# As many annotations by selector as by path: what stands left of the `::`, and the match; `&` is a number.
forms=(
    'foo&.service :: level 2 "system.slice/foo&.service"'
    'system:foo&.service :: unit'
    'user:foo&.service :: unit'
    'user:app:foo& :: unit'
)
for form in "${!forms[@]}"; do
    file=$work/form-$form.nft
    base "$file"
    rule="${forms[form]/ :: / :: add rule inet filter allowed socket cgroupv2 } tcp dport 1 accept"
    seq 5000 | sed "s|.*|# $rule|" >>"$file"
    for _ in $(seq 5); do
        milliseconds "$scnpm" check --format short "$file" >>"$file.ms"
    done
done
row='  %-46s %9s %7s  %s\n'
echo
echo "A file with a set of 100,000 intervals (milliseconds, median of 9):"
printf "$row" "" median ratio target
printf "$row" "nft -c -f, without annotations" "$nft_ms" "" ""
# It loads the file twice, and what comes second costs 1.5 times as much at most.
printf "$row" "scnpm check, without annotations" "$twice_ms" "$(ratio "$twice_ms" "$nft_ms")" "at most 3"
printf "$row" "scnpm check, with 1,000 annotations" "$check_ms" "$(ratio "$check_ms" "$nft_ms")" "at most 4.5"
echo
echo "5,000 annotations (milliseconds, median of 5):"
printf "$row" "" median ratio target
paths_ms=$(percentile 50 "$work/form-0.nft.ms")
for form in "${!forms[@]}"; do
    form_ms=$(percentile 50 "$work/form-$form.nft.ms")
    selector=${forms[form]%% *}
    printf "$row" "scnpm check, ${selector//&/N}" "$form_ms" "$(ratio "$form_ms" "$paths_ms")" "at most 1.2"
done

# A burst.
mkdir "$cgroups/$name-burst"
base "$work/burst.nft"
for number in $(seq 0 1999); do
    annotate "$work/burst.nft" "$name-burst/unit$number.service"
done
daemon "$work/burst.nft"
read -r found commits made took < <(in_net "$daemon" "$work/elements" burst "$cgroups/$name-burst" unit 2000)
kill "$daemon"
echo
echo "2,000 cgroups made in a burst of $made ms: $found of 2000 in the kernel after $took ms, in $commits transactions"
[ "$found" = 2000 ] || status=1

# Many annotations.
echo
echo "Annotations: until they are in force, and resident memory then (median of 3)"
row='  %-46s %9s %9s %7s  %s\n'
printf "$row" "" "1,000" "10,000" ratio "target of 10,000"
for number in 1000 10000; do
    for _ in $(seq 3); do
        unshare --net python3 "$here/load.py" "$scnpm" "$work" "$number" >>"$work/load$number"
    done
    for at in 1 2 3 4 5; do
        awk -v at=$at '{ print $at }' "$work/load$number" >"$work/figures"
        figure[number + at]=$(percentile 50 "$work/figures")
    done
    [ "${figure[number + 5]}" = "$number" ] || status=1
done
at=0
while read -r target what; do
    at=$((at + 1))
    few=${figure[1000 + at]} many=${figure[10000 + at]}
    printf "$row" "$what" "$few" "$many" "$(ratio "$many" "$few")" "at most $target"
done <<'END'
1000 loaded (milliseconds)
1000 loaded again (milliseconds)
30720 resident (kB)
30720 resident after that (kB)
END

echo
echo "Flushed and loaded again with nft -f: from nft's commit until the policy is whole (milliseconds, 100 resets)"
printf "$row" "" median worst "" target
for number in 40 1000; do
    read -r median worst whole < <(unshare --net sh -c 'ip link set lo up && exec python3 "$@"' - \
        "$here/reset.py" "$scnpm" "$work" "$number" 100)
    printf "$row" "$number units" "$median" "$worst" "" "at most 50"
    [ "$whole" = "$number" ] || status=1
done
exit "$status"
