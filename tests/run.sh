#!/bin/bash
# run.sh [STEP...]: all tests of the project, or the steps named. Needs a Debian 12 or 13 with sudo (or
# root) and a Rust toolchain; installs what else it needs. The last line counts the steps.
#
# Steps: format lint unit trees build bookworm trixie sid starts faults deaths recipes-bookworm recipes-trixie notifications
# soak examples demo
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
export PATH="$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin"
# A test that finds a new snapshot fails instead of keeping it.
export INSTA_UPDATE=no
suites=(bookworm trixie sid)
chosen=("$@")
passed=0
failed=()
declare -A started

chosen() {
    [ ${#chosen[@]} = 0 ] || [[ " ${chosen[*]} " == *" $1 "* ]]
}

# step NAME TITLE COMMAND...
step() {
    local name=$1 title=$2 began=$SECONDS
    chosen "$name" || return
    echo
    echo "=== $name: $title"
    if "${@:3}"; then
        passed=$((passed + 1))
        echo "=== $name: ok ($((SECONDS - began)) s)"
    else
        failed+=("$name")
        echo "=== $name: FAILED ($((SECONDS - began)) s)"
    fi
}

# start NAME COMMAND...: begins the work of a step that others need not wait for, in a process group of its own.
start() {
    chosen "$1" || return
    mkdir -p target
    set -m
    "${@:2}" >"target/step-$1.log" 2>&1 &
    started[$1]=$!
    set +m
}

stop() {
    local pid
    for pid in "${started[@]}"; do
        kill -- "-$pid" 2>/dev/null
    done
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Waits for the work of a started step and shows what it said.
finished() {
    local status=0
    wait "${started[$1]}" || status=$?
    unset "started[$1]"
    cat "target/step-$1.log"
    return "$status"
}

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
    local suite
    for suite in "${suites[@]}"; do
        tests/as-root.sh tests/booted/tree.sh "$suite" || return
    done
    for suite in bookworm trixie; do
        tests/as-root.sh tests/booted/tree.sh "$suite" recipes || return
    done
    tests/as-root.sh tests/booted/tree.sh trixie desktop
}

# In a booted Debian of that suite.
booted() {
    local program
    program=$(tests/cargo.sh "$1" build --release --features top) && tests/as-root.sh tests/booted/run.sh "$1" "$program" "${@:2}"
}

# On a virtual display, with a notification daemon.
notifications() {
    local program
    program=$(tests/cargo.sh "$1" build --release --features top) &&
        tests/as-root.sh SCNPM_TREE=desktop tests/booted/run.sh "$1" "$program" notify.py
}

# What docs say that one can do, with the programs that it takes.
recipes() {
    local program
    program=$(tests/cargo.sh "$1" build --release --features top) &&
        tests/as-root.sh tests/recipes/run.sh "$1" "$program"
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

tests/setup.sh ca-certificates fish gcc git iproute2 libc6-dev libsystemd-dev make mmdebstrap nftables pkg-config \
    systemd-container zsh || exit 1
for component in clippy rustfmt; do
    cargo "${component/rust/}" --version >/dev/null 2>&1 || rustup component add "$component" || exit 1
done

start trees trees
start build cargo build --quiet --release --locked --features top
step format "cargo fmt" cargo fmt --check
step lint "cargo clippy" clippy
step unit "unit, golden and property tests" unit_tests
step trees "trees of ${suites[*]}" finished trees
step build "release build" finished build
for suite in "${suites[@]}"; do
    start "$suite" tests/suite.sh "$suite"
done
for suite in "${suites[@]}"; do
    step "$suite" "scnpm check, tests on the kernel and booted tests with Debian $suite" finished "$suite"
done
step starts "first connections of 300 starts, idle and under load" booted bookworm measure.py starts 300
step faults "system calls that fail" booted trixie faults.py
step deaths "sources that die" booted trixie deaths.py
for suite in bookworm trixie; do
    start "recipes-$suite" recipes "$suite"
done
for suite in bookworm trixie; do
    step "recipes-$suite" "recipes of docs with Debian $suite" finished "recipes-$suite"
done
start notifications notifications trixie
start soak tests/soak.sh 1
step notifications "notifications on a virtual display" finished notifications
step soak "a minute of faults and traffic (tests/soak.sh)" finished soak
step examples "example configurations" examples
step demo "examples/demo.sh" examples/demo.sh

echo
for name in "${failed[@]}"; do
    echo "failed: $name"
done
echo "$passed passed, ${#failed[@]} failed"
[ ${#failed[@]} = 0 ] && [ "$passed" != 0 ]
