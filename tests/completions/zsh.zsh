# zsh.zsh LINE: what zsh(1), as somebody types in it, makes of the line's last word with the key Tab.
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1= RPS1= PROMPT_EOL_MARK=; unsetopt beep; fpath=($PACKAGING $fpath); autoload -U compinit; compinit -u -D
show() { zle -I; print -r -- "<${(Q)${(z)BUFFER}[-1]}>" }; zle -N show; bindkey "^X" show; print -r rea""dy'
zpty -r shell answer '*ready*'
zpty -w -n shell "$1"$'\t\C-X'
zpty -r shell answer $'*<*>*'
answer=${answer##*<}
print -r -- "${answer%%>*}"
zpty -d shell
