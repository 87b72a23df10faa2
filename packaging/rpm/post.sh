# $1: 1 at an installation, 2 at an upgrade. What packaging/debian/postinst does.
SYSTEMD_LOG_LEVEL=warning systemd-sysusers scnpm.conf || :
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    systemctl kill --kill-whom=main --signal=HUP 'user@*.service' >/dev/null 2>&1 || :
    [ "$1" = 1 ] || /usr/lib/scnpm/restart || :
fi
if [ "$1" = 1 ]; then
    echo "Next: scnpm check /etc/nftables.conf"
    echo "Then: systemctl enable --now scnpm.service"
fi
