#!/bin/bash
# run.sh [-2] SECONDS [TARGET...]: runs the fuzz targets, each for so long, and prints what became of each. All of them
# without a name; one after the other, or with -2 two at once.
#
# What a target learns is kept in $SCNPM_FUZZ_CORPUS/TARGET, from which the next run goes on, and what it prints in
# $SCNPM_FUZZ_CORPUS/TARGET.log; target/fuzz if that is not set. The exit code is 1 if anything was found.
set -euo pipefail

at_once=1
if [ "${1:-}" = -2 ]; then
    at_once=2
    shift
fi
seconds=${1:?usage: run.sh [-2] SECONDS [TARGET...]}
shift
cd "$(dirname "$0")/../.."
learnt=${SCNPM_FUZZ_CORPUS:-target/fuzz}
# A stable toolchain does.
export RUSTC_BOOTSTRAP=1

command -v cargo-fuzz > /dev/null || cargo install cargo-fuzz --locked
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(cargo fuzz list --fuzz-dir tests/fuzz)
for target in "${targets[@]}"; do
    cargo fuzz build --fuzz-dir tests/fuzz "$target"
done

# fuzz TARGET
fuzz() {
    local corpus=$learnt/$1 log=$learnt/$1.log findings=0 options=()
    mkdir -p "$corpus"
    [ ! -e "tests/fuzz/$1.dict" ] || options=(-dict="tests/fuzz/$1.dict")
    cargo fuzz run --fuzz-dir tests/fuzz "$1" "$corpus" "tests/corpus/$1" -- "${options[@]}" \
        -timeout=20 -max_len=8192 -print_final_stats=1 -max_total_time="$seconds" > "$log" 2>&1 || findings=1
    printf '%-10s %10s executions, %5s edges, %5s s, %s findings\n' "$1" \
        "$(figure 's/^stat::number_of_executed_units: *//p')" \
        "$(figure 's/^#.* cov: \([0-9]*\) .*/\1/p')" \
        "$(figure 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p')" "$findings"
    [ "$findings" = 0 ] || grep -aE 'panicked at|SUMMARY|Test unit written' -A 2 "$log" | cut -c 1-500 || true
}

# figure SED: the last line of the log that this prints.
figure() {
    sed -n "$1" "$log" | tail -n 1
}

for target in "${targets[@]}"; do
    [ "$(jobs -rp | wc -l)" -lt "$at_once" ] || wait -n || true
    fuzz "$target" &
done
wait
for target in "${targets[@]}"; do
    grep -aq '^Done ' "$learnt/$target.log" || exit 1
done
