#!/bin/bash
# run.sh SUITE SCNPM [PAGE...]: runs the commands of the pages of docs as they are written there, or of those named (README,
# docs/check, ...), in a booted Debian of that suite, and compares what they print with the page. Run as root.
# With SCNPM=none nothing of scnpm is installed, and the files in the directory SCNPM_PACKAGES are in the working directory: for
# README, which begins with the package.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
suite=${1:?usage: run.sh SUITE SCNPM [PAGE...]}
scnpm=${2:?usage: run.sh SUITE SCNPM [PAGE...]}
shift 2
"$here/check.py" "$@"
[ "$scnpm" = none ] && tree=boot || tree=recipes
SCNPM_TREE=$tree "$here/../booted/run.sh" "$suite" "$scnpm" walk.py "$@"
