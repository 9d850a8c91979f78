# What zsh_tab.zsh has its other zsh read.
PROMPT= PS2= RPROMPT=
unset zle_bracketed_paste
setopt no_beep
fpath=($folder $fpath)
autoload -Uz compinit
compinit -u -d $folder/dump
bindkey '^I' complete-word
note-the-end() { BUFFER=; print DONE >>$folder/offered; }
zle -N note-the-end
bindkey '^X' note-the-end
compadd() {
    # A call that fills arrays offers nothing.
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
        builtin compadd "$@"
        return $?
    fi
    local -a matches
    builtin compadd -A matches "$@"
    (( $#matches )) && print -l -- $matches >>$folder/offered
    builtin compadd "$@"
}
print READY >>$folder/offered
