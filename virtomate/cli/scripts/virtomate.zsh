#compdef virtomate
# Completes virtomate's command lines in zsh.
# Load it, after compinit, with:  source <(virtomate completion zsh)

_virtomate() {
    local line
    local -a fields before plain described
    before=(${(Q)words[2,CURRENT-1]})
    for line in "${(@f)$(_VIRTOMATE_COMPLETE=zsh_complete "${(Q)words[1]}" $before "${(Q)PREFIX}" 2>/dev/null </dev/null)}"; do
        fields=("${(@ps:\t:)line}")
        case $fields[1] in
            plain)
                if [[ -n $fields[3] ]]; then
                    described+=("${fields[2]//:/\\:}:$fields[3]")
                else
                    plain+=("$fields[2]")
                fi
                ;;
            file) _files && return ;;
            dir) _files -/ && return ;;
        esac
    done
    local found=1
    (( $#described )) && _describe -V -t virtomate virtomate described && found=0
    (( $#plain )) && compadd -V virtomate -a plain && found=0
    return found
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _virtomate "$@"
else
    compdef _virtomate virtomate
fi
