#!/bin/bash
# tree.sh SUITE [KIND]: prints the directory of a Debian tree of that suite and makes it if need be. KIND is build, tools,
# desktop, recipes, gnome or terminals. Run as root.
# With `build`, one that programs can be compiled in; with `tools`, one that has what checks packages and makes the book; with
# `desktop`, one to boot that has a virtual display and a notification daemon; with `recipes`, one to boot that has the programs
# of the recipes in docs; with `gnome`, one to boot that has GNOME Shell; with `terminals`, one to boot that has terminals and
# launchers of several desktops.
#
# Trees are kept in $SCNPM_CACHE (/var/cache/scnpm-tests) and never written to after they are made. One that is
# older than a week is made anew, since suites change, or used once more if that fails.
set -euo pipefail

suite=$1
kind=${2:-boot}
cache=${SCNPM_CACHE:-/var/cache/scnpm-tests}

case $kind in
boot | desktop | recipes | gnome | terminals)
    packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,nftables,libnftables1,iproute2
    packages+=,python3,procps,util-linux,passwd,libcap2-bin,strace,git,netbase,polkitd
    # Of systemd 260 and later, and a package of its own.
    [ "$suite" != sid ] || packages+=,systemd-report
    case $kind in
    gnome) packages+=,gnome-shell,gjs,libgl1-mesa-dri,libglib2.0-bin ;;
    terminals)
        packages+=,sway,i3-wm,foot,tmux,kitty,konsole,kde-cli-tools,xfce4-terminal,exo-utils,gnome-console
        packages+=,xvfb,fonts-dejavu-core,libgl1-mesa-dri
        ;;
    desktop) packages+=,dunst,xvfb,xclip,fonts-dejavu-core ;;
    recipes)
        packages+=,wireguard-go,wireguard-tools,network-manager,dnsmasq-base,systemd-resolved,libnss-resolve
        packages+=,podman,crun,uidmap,fuse-overlayfs,passt,slirp4netns,systemd-container,busybox-static,bubblewrap
        packages+=,dex,libglib2.0-bin,dbus-broker
        ;;
    esac
    ;;
tools)
    packages=lintian,rpm,rpmlint,makepkg,pacman-package-manager,nix-bin,apparmor,binutils,fakeroot,libarchive-tools
    packages+=,mdbook,python3-minimal
    ;;
build) packages=gcc,libc6-dev,libsystemd-dev,pkg-config ;;
*)
    echo "tree.sh: unknown kind of tree: $kind" >&2
    exit 2
    ;;
esac

key=$(printf '%s\n' "$suite" "$packages" | sha256sum | cut -c1-12)
tree=$cache/$suite-$kind-$key
mkdir -p "$cache"
exec 9>"$cache/$suite-$kind.lock"
flock 9

make_tree() {
    echo "Making a Debian $suite tree in $tree" >&2
    rm -rf "$new/tree"
    # apt's own download user may not be able to reach the directory. A mirror that is behind is as good as another.
    mmdebstrap --quiet --mode=root --variant=minbase --format=directory --include="$packages" \
        --aptopt='APT::Sandbox::User "root"' --aptopt='Acquire::Retries "3"' \
        --aptopt='Acquire::Check-Valid-Until "false"' "$suite" "$new/tree" >&2 || return 1
    touch "$new/tree"
    # Tests that run now may still use the old one.
    rm -rf "$tree.old"
    [ ! -d "$tree" ] || mv "$tree" "$tree.old"
    mv "$new/tree" "$tree"
}

if [ -z "$(find "$tree" -maxdepth 0 -mtime -7 2>/dev/null)" ]; then
    new=$(mktemp -d "$cache/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    # A mirror may fail once.
    if ! make_tree && ! make_tree; then
        [ -d "$tree" ] || exit 1
        echo "The Debian $suite tree is of $(date --reference="$tree" +%F): no newer one can be made" >&2
    fi
fi
echo "$tree"
