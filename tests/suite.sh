#!/bin/bash
# suite.sh SUITE [STEP...] [PART]: `scnpm check`, the tests on the kernel and the booted tests with the nftables, the systemd
# and the other packages of that suite of Debian (bookworm, trixie, forky, sid), or some of the steps. Needs what
# tests/run.sh installs.
#
# Steps: kernel booted. PART: a share of the booted tests, such as 1/3.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
suite=${1:?usage: suite.sh SUITE [STEP...]}
shift
steps=()
parts=()
for word in "$@"; do
    case $word in
    kernel | booted) steps+=("$word") ;;
    [1-9]/[1-9]) parts+=("$word") ;;
    *)
        echo "suite.sh: unknown step: $word" >&2
        exit 2
        ;;
    esac
done
[ ${#steps[@]} != 0 ] || steps=(kernel booted)

versions() {
    local tree
    tree=$(tests/as-root.sh tests/booted/tree.sh "$suite") || return 1
    # shellcheck disable=SC2016
    dpkg-query --admindir="$tree/var/lib/dpkg" --show --showformat="$suite has "'${Package} ${Version}\n' nftables systemd
}

# In a tree that is not booted. `scnpm check` is one of them. They run the program that is released. The kernel is the same
# everywhere, so those in which nft has no part run with the oldest suite only.
kernel() {
    local file executable program tests=() executables=() status=0
    for file in tests/kernel_*.rs; do
        file=$(basename "$file" .rs)
        case $suite:${file#kernel_} in
        bookworm:* | *:again | *:check | *:equivalence | *:explain | *:foreign | *:learn | *:load | *:nft) tests+=(--test "$file") ;;
        esac
    done
    mapfile -t executables < <(tests/cargo.sh "$suite" test --no-run --features top "${tests[@]}" | grep /kernel_)
    if [ $((${#executables[@]} * 2)) != ${#tests[@]} ]; then
        echo "Not all kernel tests were built"
        return 1
    fi
    program=$(tests/cargo.sh "$suite" build --release --features top) || return 1
    for executable in "${executables[@]}"; do
        tests/as-root.sh CARGO_MANIFEST_DIR="$PWD" SCNPM_TESTED="$program" tests/booted/chroot.sh "$suite" boot \
            "$PWD" "${executable%/deps/*}" "${program%/*}" -- "$executable" --quiet || status=1
    done
    return "$status"
}

# All of them where people are. Of sid, which stands for what is new elsewhere, those that a new systemd may break.
booted() {
    local program words=()
    [ "$suite" != sid ] || words=(boot report first_try restart reset nftables user_ applications each_kind explain learn)
    program=$(tests/cargo.sh "$suite" build --release --features top) &&
        tests/as-root.sh tests/booted/run.sh "$suite" "$program" inside.py "${words[@]}" "${parts[@]}"
}

versions || exit 1
status=0
for step in "${steps[@]}"; do
    began=$SECONDS
    if "$step"; then
        echo "--- $suite $step: ok ($((SECONDS - began)) s)"
    else
        echo "--- $suite $step: FAILED ($((SECONDS - began)) s)"
        status=1
    fi
done
exit "$status"
