#!/bin/bash
# run.sh SUITE SCNPM [PAGE...]: runs the commands of the pages of docs as they are written there, or of those named (README,
# docs/check, ...), in a booted Debian of that suite, and compares what they print with the page. Run as root.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
suite=${1:?usage: run.sh SUITE SCNPM [PAGE...]}
scnpm=${2:?usage: run.sh SUITE SCNPM [PAGE...]}
shift 2
"$here/check.py" "$@"
SCNPM_TREE=recipes "$here/../booted/run.sh" "$suite" "$scnpm" walk.py "$@"
