#!/bin/bash
# session.sh [--check] PROGRAM: makes docs/session.svg anew, the picture in README.md, from a terminal in a booted Debian 13 in a
# container, in which the commands and files of README.md are tried with PROGRAM, a scnpm that runs there (tests/cargo.sh). With
# --check nothing is written: exit status 1 if the text of the picture is not what the terminal shows today, or if the pictures of
# `scnpm top`, which docs/pictures.sh makes, have other columns than the screens in tests/top.
#
# Uses sudo unless root.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
words=()
if [ "${1:-}" = --check ]; then
    words=(--check)
    shift
fi
[ $# = 1 ] || {
    echo "usage: session.sh [--check] PROGRAM" >&2
    exit 2
}

"$top/tests/setup.sh" gcc libc6-dev mmdebstrap python3 python3-pyte systemd-container
[ ${#words[@]} = 0 ] || /usr/bin/python3 "$top/docs/pictures.py" tops "$top/docs" "$top/tests/top"
wanted=$(/usr/bin/python3 "$top/docs/pictures.py" wanted "$top/README.md")
said=$("$top/tests/as-root.sh" "$top/tests/booted/run.sh" trixie "$1" session.py "$wanted" | tail -n 1)
/usr/bin/python3 "$top/docs/pictures.py" session "$wanted" "$said" "$top/docs/session.svg" "${words[@]}"
