# $1: 0 at a removal. Units that wait for their rules (scnpm-generator) would not start without the program.
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    systemctl kill --kill-whom=main --signal=HUP 'user@*.service' >/dev/null 2>&1 || :
    rm -rf /run/scnpm
fi
