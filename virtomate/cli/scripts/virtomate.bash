# Completes virtomate's command lines in bash 4.4 and later.
# Load it with:  source <(virtomate completion bash)

_virtomate() {
    local kind word description
    COMPREPLY=()
    while IFS=$'\t' read -r kind word description; do
        case $kind in
            plain) COMPREPLY+=("$word") ;;
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
        esac
    done < <(_VIRTOMATE_COMPLETE=bash_complete "$1" "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null </dev/null)
}

complete -o nosort -F _virtomate virtomate
