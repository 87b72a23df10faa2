# bash.sh LINE WORD: what bash(1) makes of each reply to the line, whose last word is WORD.
source "$PACKAGING/scnpm.bash"
read -ra COMP_WORDS <<<"$1"
COMP_LINE=$1 COMP_POINT=${#1} COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_scnpm scnpm "$2" "${COMP_WORDS[COMP_CWORD - 1]}"
for reply in "${COMPREPLY[@]}"; do
    eval "printf '%s\n' $reply"
done
