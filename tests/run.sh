#!/bin/bash
# run.sh [STEP...]: all tests of the project, or the steps named. Needs a Debian 12 or 13 with sudo (or
# root) and a Rust toolchain; installs what else it needs. The last line counts the steps.
#
# Steps: format lint unit kernel check-13 build booted-12 booted-13 starts faults soak examples demo
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
export PATH="$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin"
# A test that finds a new snapshot fails instead of keeping it.
export INSTA_UPDATE=no
scnpm=$PWD/target/release/scnpm
chosen=("$@")
passed=0
failed=()

root=()
[ "$(id -u)" = 0 ] || root=(sudo)
as_root() {
    "${root[@]}" env PATH="$PATH" SCNPM_CACHE="${SCNPM_CACHE:-/var/cache/scnpm-tests}" INSTA_UPDATE=no "$@"
}

# step NAME TITLE COMMAND...
step() {
    local name=$1 title=$2 began=$SECONDS
    if [ ${#chosen[@]} != 0 ] && [[ " ${chosen[*]} " != *" $name "* ]]; then
        return
    fi
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

# The arguments that choose integration tests: `kernel` those named kernel_*, which need root and
# namespaces, `unit` the others.
integration_tests() {
    local file name kind
    for file in tests/*.rs; do
        [ -e "$file" ] || continue
        name=$(basename "$file" .rs)
        [[ $name == kernel_* ]] && kind=kernel || kind=unit
        [ "$kind" = "$1" ] && printf '%s\n' --test "$name"
    done
}

unit_tests() {
    local arguments
    mapfile -t arguments < <(integration_tests unit)
    cargo test --locked --quiet --lib --bins "${arguments[@]}" && cargo test --locked --quiet --doc
}

# The executables of the integration tests that these arguments choose; builds them.
executables_of() {
    cargo test --locked --no-run --message-format=json "$@" >target/kernel-tests.json &&
        sed -n 's|.*"executable":"\([^"]*/kernel_[^"]*\)".*|\1|p' target/kernel-tests.json
}

# Built as the user, run as root.
kernel_tests() {
    local arguments executables executable status=0
    mapfile -t arguments < <(integration_tests kernel)
    if [ ${#arguments[@]} = 0 ]; then
        echo "There are no kernel tests"
        return 1
    fi
    mapfile -t executables < <(executables_of "${arguments[@]}")
    if [ $((${#executables[@]} * 2)) != ${#arguments[@]} ]; then
        echo "Not all kernel tests were built"
        return 1
    fi
    for executable in "${executables[@]}"; do
        as_root CARGO_MANIFEST_DIR="$PWD" "$executable" --quiet || status=1
    done
    return "$status"
}

# What `scnpm check` says with the nftables of that suite. The tree has no git, whose hook has been tested already.
check_tests() {
    local executable
    executable=$(executables_of --test kernel_check) &&
        as_root tests/booted/chroot.sh "$1" "$PWD" -- "$executable" --quiet --skip the_git_hook
}

# In a booted Debian of that suite, with a program that runs there.
booted() {
    local suite=$1 program
    shift
    program=$(as_root CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}" \
        SYSROOT="$(rustc --print sysroot)" tests/booted/program.sh "$suite" "$scnpm") &&
        as_root tests/booted/run.sh "$suite" "$program" "$@"
}

# Each as it is loaded at boot, before any unit runs, and its annotations.
examples() {
    local file status=0
    for file in examples/*.conf; do
        echo "$file"
        as_root unshare --net nft -f "$file" || status=1
        "$scnpm" check "$file" >/dev/null || status=1
    done
    return "$status"
}

tests/setup.sh ca-certificates gcc git iproute2 libc6-dev libsystemd-dev make mmdebstrap nftables pkg-config \
    systemd-container || exit 1
for component in clippy rustfmt; do
    cargo "${component/rust/}" --version >/dev/null 2>&1 || rustup component add "$component" || exit 1
done

step format "cargo fmt" cargo fmt --check
step lint "cargo clippy" cargo clippy --quiet --all-targets --locked -- -D warnings
step unit "unit, golden and property tests" unit_tests
step kernel "tests on the running kernel, in namespaces" kernel_tests
step check-13 "scnpm check with the nftables of Debian 13" check_tests trixie
step build "release build" cargo build --quiet --release --locked
step booted-12 "systemd of Debian 12 in a container" booted bookworm inside.py
step booted-13 "systemd of Debian 13 in a container" booted trixie inside.py
step starts "first connections of 300 starts, idle and under load" booted bookworm measure.py starts 300
step faults "system calls that fail" booted trixie faults.py
step soak "a minute of faults and traffic (tests/soak.sh)" tests/soak.sh 1
step examples "example configurations" examples
step demo "examples/demo.sh" examples/demo.sh

echo
for name in "${failed[@]}"; do
    echo "failed: $name"
done
echo "$passed passed, ${#failed[@]} failed"
[ ${#failed[@]} = 0 ] && [ "$passed" != 0 ]
