#!/bin/bash
# run.sh [STEP...]: all tests of the project, or the steps named. Needs a Debian 12 or 13 with sudo (or
# root) and a Rust toolchain; installs what else it needs. The last line counts the steps.
#
# Steps: build trees format lint unit recipes-SUITE booted-SUITE-PART booted-sid kernel-SUITE packages pages picture soak
# notifications examples size demo faults release book machine starts. SUITE: bookworm, trixie (kernel: and sid); PART: 1, 2, 3.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
export PATH="$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin"
# A test that finds a new snapshot fails instead of keeping it.
export INSTA_UPDATE=no
suites=(bookworm trixie sid)
chosen=("$@")
passed=0
failed=()
planned=()
table=
# What `time` says of a step: its seconds of CPU time and its children's.
TIMEFORMAT=%U+%S
declare -A title=() work=() pid=() began=()

# plan NAME TITLE COMMAND...: has a step run by the next `run_planned`, if it is chosen.
plan() {
    [ ${#chosen[@]} = 0 ] || [[ " ${chosen[*]} " == *" $1 "* ]] || return 0
    planned+=("$1")
    title[$1]=$2
    work[$1]=${*:3}
}

# Each step in a process group of its own.
begin() {
    local name=$1
    echo "--- $name begins: ${title[$name]}"
    began[$name]=$SECONDS
    set -m
    # shellcheck disable=SC2086
    { time ${work[$name]} >"target/step-$name.log" 2>&1 </dev/null; } 2>"target/step-$name.times" &
    pid[$name]=$!
    set +m
}

# finish NAME STATUS: shows what the step said, and what it took.
finish() {
    local name=$1 result=ok took
    [ "$2" = 0 ] || result=FAILED
    echo
    echo "=== $name"
    cat "target/step-$name.log"
    took="$((SECONDS - began[$name])) s, $(awk -F+ 'END { printf "%d", $1 + $2 }' "target/step-$name.times") s of CPU time"
    echo "=== $name: $result ($took)"
    table+="$name: $result, $took"$'\n'
    if [ "$2" = 0 ]; then
        passed=$((passed + 1))
    else
        failed+=("$name")
    fi
    unset "pid[$name]"
}

# run_planned WIDTH: runs what is planned, so many steps at a time, in the order in which it was planned.
run_planned() {
    local ended name status
    while [ ${#planned[@]} != 0 ] || [ ${#pid[@]} != 0 ]; do
        while [ ${#planned[@]} != 0 ] && [ ${#pid[@]} -lt "$1" ]; do
            begin "${planned[0]}"
            planned=("${planned[@]:1}")
        done
        status=0
        wait -n -p ended "${pid[@]}" || status=$?
        for name in "${!pid[@]}"; do
            [ "${pid[$name]}" != "$ended" ] || finish "$name" "$status"
        done
    done
}

# Ends what still runs, also what runs as root. (A Debian may have no kill but the shell's.)
stop() {
    # shellcheck disable=SC2016
    [ ${#pid[@]} = 0 ] || tests/as-root.sh bash -c 'kill -- "$@"' - "${pid[@]/#/-}" 2>/dev/null
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# All that need no root: tests on the kernel are named kernel_*.
unit_tests() {
    local file name tests=()
    for file in tests/*.rs; do
        name=$(basename "$file" .rs)
        [[ $name == kernel_* ]] || tests+=(--test "$name")
    done
    cargo test --locked --quiet --features top --lib --bins "${tests[@]}" && cargo test --locked --quiet --features top --doc
}

# What is left out without features must not be missed.
clippy() {
    cargo clippy --quiet --all-targets --all-features --locked -- -D warnings &&
        cargo clippy --quiet --locked -- -D warnings
}

trees() {
    local tree status=0 trees=()
    for tree in "bookworm boot" "trixie boot" "sid boot" "bookworm recipes" "trixie recipes" "trixie desktop" \
        "trixie tools"; do
        # shellcheck disable=SC2086
        tests/as-root.sh tests/booted/tree.sh $tree &
        trees+=($!)
    done
    tests/as-root.sh tests/machine/image.sh &
    trees+=($!)
    for tree in "${trees[@]}"; do
        wait "$tree" || status=1
    done
    return "$status"
}

program() {
    tests/cargo.sh "$1" build --release --features top
}

# in_suite SCRIPT SUITE WORD...: a script that boots a Debian of that suite, with the program that runs there.
in_suite() {
    local program
    program=$(program "$2") && tests/as-root.sh "$1" "$2" "$program" "${@:3}"
}

# One after the other: inotify's limits, which both use up, are a user's in whatever container.
faults() {
    local status=0
    in_suite tests/booted/run.sh "$1" faults.py || status=1
    in_suite tests/booted/run.sh "$1" deaths.py || status=1
    return "$status"
}

# On a virtual display, with a notification daemon.
notifications() {
    local program
    program=$(program "$1") && tests/as-root.sh SCNPM_TREE=desktop tests/booted/run.sh "$1" "$program" notify.py
}

picture() {
    local program
    program=$(program "$1") && tests/as-root.sh docs/session.sh --check "$program"
}

# Made of the program that the oldest Debian can run.
packages() {
    local program
    program=$(program bookworm) && tests/packages/run.sh "$program"
}

# The life of a whole machine, in qemu.
machine() {
    local program package
    program=$(program bookworm) && package=$(packaging/build.sh deb --program "$program") &&
        tests/as-root.sh tests/machine/run.sh "$package"
}

# Each as it is loaded at boot, before any unit runs, and its annotations.
examples() {
    local file status=0
    for file in examples/*.conf; do
        echo "$file"
        tests/as-root.sh unshare --net nft -f "$file" || status=1
        target/release/scnpm check "$file" >/dev/null || status=1
    done
    return "$status"
}

tests/setup.sh binutils ca-certificates dpkg-dev e2fsprogs fish gcc git iproute2 libc6-dev libsystemd-dev mmdebstrap nftables \
    pkg-config python3 python3-pip python3-pyte qemu-system-x86 systemd-container util-linux xz-utils zsh || exit 1
for component in clippy rustfmt; do
    cargo "${component/rust/}" --version >/dev/null 2>&1 || rustup component add "$component" || exit 1
done

mkdir -p target

# What the others need.
plan build "release build" cargo build --quiet --release --locked --features top
plan trees "trees of ${suites[*]}, and a machine" trees
plan format "cargo fmt" cargo fmt --check
plan lint "cargo clippy" clippy
plan unit "unit, golden and property tests" unit_tests
run_planned 3

# Most of these wait for most of their time. The longest come first.
for suite in bookworm trixie; do
    plan "recipes-$suite" "recipes of docs with Debian $suite" in_suite tests/recipes/run.sh "$suite"
    for part in 1 2 3; do
        plan "booted-$suite-$part" "booted tests with Debian $suite, part $part of 3" tests/suite.sh "$suite" booted "$part/3"
    done
done
plan booted-sid "booted tests with Debian sid" tests/suite.sh sid booted
for suite in "${suites[@]}"; do
    plan "kernel-$suite" "scnpm check and tests on the kernel with Debian $suite" tests/suite.sh "$suite" kernel
done
plan packages "packages: built, checked, installed, upgraded, removed" packages
plan pages "commands of the pages of docs" in_suite tests/docs/run.sh trixie
plan picture "README's picture is what the program shows" picture trixie
plan soak "a minute of faults and traffic" tests/soak.sh 1
plan notifications "notifications on a virtual display" notifications trixie
plan examples "example configurations" examples
plan size "size of the program, and number of crates" tests/size.sh
plan demo "examples/demo.sh" examples/demo.sh
run_planned 6

# Faults use up what all containers share, such as instances of inotify: beside them runs what needs none.
plan faults "system calls that fail, and sources that die" faults trixie
plan release "crates, lowest versions, source and SBOM of a release" tests/release.sh
plan book "the book and its links" tests/as-root.sh tests/docs/book.sh
run_planned 2

# These load the machine by themselves.
plan machine "a virtual machine: installation, boots, login, upgrade, VPN, removal" machine
plan starts "first connections of 100 starts, idle and under load" in_suite tests/booted/run.sh bookworm measure.py starts 100
run_planned 1

echo
echo "$table$SECONDS s in all"
for name in "${failed[@]}"; do
    echo "failed: $name"
done
echo "$passed passed, ${#failed[@]} failed"
for name in "${chosen[@]}"; do
    [ -n "${title[$name]:-}" ] || echo "no such step: $name"
done
[ ${#failed[@]} = 0 ] && [ "$passed" != 0 ] || exit 1
# packaging/release.sh asks for it.
[ ${#chosen[@]} != 0 ] || git rev-parse HEAD >target/tested
