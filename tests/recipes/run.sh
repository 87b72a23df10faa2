#!/bin/bash
# run.sh SUITE SCNPM [RECIPE...]: runs the recipes of docs as they are written there, or those named, each in a booted Debian of
# that suite of its own, with the real programs; and prints their figures side by side at the end. Run as root. RECIPE is the
# name of a Python file beside this one.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
suite=${1:?usage: run.sh SUITE SCNPM [RECIPE...]}
scnpm=${2:?usage: run.sh SUITE SCNPM [RECIPE...]}
shift 2
recipes=("$@")
[ ${#recipes[@]} != 0 ] || mapfile -t recipes < <(cd "$here" && ls -- *.py | grep -v '^recipe\.py$' | sed 's/\.py$//')

figures=$(mktemp)
trap 'rm -f "$figures"' EXIT
status=0
for recipe in "${recipes[@]}"; do
    echo "--- $suite: $recipe"
    SCNPM_TREE=recipes "$here/../booted/run.sh" "$suite" "$scnpm" "$recipe.py" | tee >(grep '^figure: ' >>"$figures")
    [ "${PIPESTATUS[0]}" = 0 ] || status=1
done
# Of tee's last process.
sleep 0.2
if [ -s "$figures" ]; then
    echo "--- $suite: figures"
    sed 's/^figure: //' "$figures" | column -t -s '|'
fi
exit "$status"
