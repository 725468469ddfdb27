#compdef tart
# zsh completion for tart. Save it as _tart in a folder of $fpath, or load it after compinit with:
#   eval "$(tart --generate-completion-script zsh)"
_tart() {
    local -a lines candidates
    local line
    lines=("${(@f)$(
        _TART_COMPLETE=zsh COMP_WORDS="${(F)${(@Q)words[1,CURRENT-1]}}" COMP_CWORD="${(Q)words[CURRENT]}" \
            ${words[1]} 2>/dev/null
    )}")
    for line in $lines; do
        case $line in
            plain\ *) candidates+=("${line#plain }") ;;
            file) compset -P '--*='; _files ;;
            dir) compset -P '--*='; _files -/ ;;
        esac
    done
    (( $#candidates )) && _describe -V tart candidates
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _tart "$@"
else
    compdef _tart tart
fi
