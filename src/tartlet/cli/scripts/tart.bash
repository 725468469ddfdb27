# bash completion for tart. Load it with: eval "$(tart --generate-completion-script bash)"
_tart_complete() {
    local kind rest current="${COMP_WORDS[COMP_CWORD]}"
    if [[ $current == [:=] ]]; then # bash made a word of the separator itself
        current=""
    fi
    COMPREPLY=()
    while IFS=' ' read -r kind rest; do
        case $kind in
            plain) COMPREPLY+=("$(printf '%q' "$rest")") ;;
            file)
                compopt -o filenames 2>/dev/null
                while IFS= read -r rest; do COMPREPLY+=("$rest"); done < <(compgen -f -- "$current")
                ;;
            dir)
                compopt -o filenames 2>/dev/null
                while IFS= read -r rest; do COMPREPLY+=("$rest"); done < <(compgen -d -- "$current")
                ;;
        esac
    done < <(
        _TART_COMPLETE=bash COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" TART_WORDBREAKS="$COMP_WORDBREAKS" \
            "$1" 2>/dev/null
    )
}
complete -F _tart_complete tart
