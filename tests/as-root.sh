#!/bin/bash
# as-root.sh COMMAND...: runs a command as root, with sudo if need be, and with what the tests set in the environment.
set -euo pipefail

root=()
[ "$(id -u)" = 0 ] || root=(sudo)
exec "${root[@]}" env PATH="$PATH:/usr/sbin:/sbin" SCNPM_CACHE="${SCNPM_CACHE:-/var/cache/scnpm-tests}" \
    INSTA_UPDATE=no "$@"
