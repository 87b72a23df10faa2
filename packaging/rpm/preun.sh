# $1: 0 at a removal. There is no purge: the rules go out of the kernel as long as the program is there.
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl --quiet disable --now scnpm.service scnpm-names.socket scnpm-answers.socket scnpm-report.socket \
        scnpm-textfile.timer 2>/dev/null || :
    systemctl stop scnpm-names.service scnpm-answers.service || :
    scnpm --clean || :
fi
