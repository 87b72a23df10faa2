#!/bin/bash
# book.sh: makes the book, in a Debian 13 that has mdbook, and checks all links, of the pages and of the book. Needs root.
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
if [ "${1:-}" = --inside ]; then
    docs/book.sh
    exec python3 tests/docs/links.py
fi
exec "$top/tests/booted/chroot.sh" trixie tools "$top" -- tests/docs/book.sh --inside
