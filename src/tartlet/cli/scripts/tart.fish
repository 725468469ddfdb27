# fish completion for tart. Save it as ~/.config/fish/completions/tart.fish, or load it with:
#   tart --generate-completion-script fish | source
function __tart_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -l lines (_TART_COMPLETE=fish COMP_WORDS=(string join \n -- $before | string collect) COMP_CWORD="$current" $before[1] 2>/dev/null)
    for line in $lines
        switch $line
            case 'plain *'
                string sub -s 7 -- $line
            case file
                __fish_complete_path (string replace -r '^--[^=]*=' '' -- $current)
            case dir
                __fish_complete_directories (string replace -r '^--[^=]*=' '' -- $current)
        end
    end
end
complete -c tart -f -a '(__tart_complete)'
