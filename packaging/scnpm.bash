# Completion of scnpm(8) for bash(1). What there is to complete, scnpm itself knows: `scnpm complete`.

_scnpm() {
    local answer start index rest
    COMPREPLY=()
    mapfile -t answer < <(command scnpm complete bash -- "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    case ${answer[0]-} in
    words)
        COMPREPLY=("${answer[@]:1}")
        ;;
    files)
        compopt -o default 2>/dev/null
        ;;
    command*)
        start=${answer[0]#command }
        if ! declare -F _command_offset >/dev/null; then
            if [[ ${COMP_LINE:start:COMP_POINT-start} == *[[:space:]]* ]]; then
                compopt -o default 2>/dev/null
            else
                mapfile -t COMPREPLY < <(compgen -c -- "$2")
            fi
            return
        fi
        # The word that is at this character.
        index=0 rest=$COMP_LINE
        while rest=${rest#*"${COMP_WORDS[index]}"} && ((${#COMP_LINE} - ${#rest} <= start)); do
            ((++index < ${#COMP_WORDS[@]})) || return
        done
        _command_offset "$index"
        ;;
    esac
}
complete -F _scnpm scnpm
