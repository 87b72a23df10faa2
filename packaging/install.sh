#!/bin/bash
# install.sh ROOT PROGRAM: installs PROGRAM and all that belongs to it below ROOT, which may be empty: the file system itself.
# For packages that have no list of files of their own, and for an installation without a package.
set -euo pipefail

[ $# = 2 ] || {
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
}
root=$1 program=$(realpath "$2")
cd "$(dirname "$0")/.."

files() {
    local mode=$1 directory=$root$2
    shift 2
    install -d "$directory"
    install -m "$mode" -t "$directory" "$@"
}

install -D -m 755 "$program" "$root/usr/bin/scnpm"
files 644 /usr/lib/systemd/system packaging/scnpm*.service packaging/scnpm*.socket packaging/scnpm*.timer
files 644 /usr/lib/systemd/user packaging/user/*.service
files 755 /usr/lib/systemd/system-generators packaging/scnpm-generator
files 755 /usr/lib/systemd/user-generators packaging/scnpm-generator
files 755 /usr/lib/scnpm packaging/restart
install -D -m 644 packaging/scnpm.sysusers "$root/usr/lib/sysusers.d/scnpm.conf"
files 644 /usr/share/polkit-1/actions packaging/io.scnpm.policy
files 644 /etc/apparmor.d packaging/apparmor/scnpm
files 644 /usr/share/scnpm/apparmor packaging/apparmor/scnpm-commands
files 644 /usr/share/man/man8 packaging/scnpm*.8
install -D -m 644 packaging/scnpm.bash "$root/usr/share/bash-completion/completions/scnpm"
files 644 /usr/share/zsh/vendor-completions packaging/_scnpm
files 644 /usr/share/fish/vendor_completions.d packaging/scnpm.fish
files 644 /usr/share/doc/scnpm README.md CHANGELOG.md
files 644 /usr/share/doc/scnpm/docs docs/*.{md,svg,png}
files 644 /usr/share/doc/scnpm/examples examples/*.conf examples/git-pre-commit examples/vscode-tasks.json
cp -r --no-preserve=mode,ownership -t "$root/usr/share/doc/scnpm/examples" examples/systemd examples/vpn
