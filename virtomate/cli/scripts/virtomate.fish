# Completes virtomate's command lines in fish.
# Load it with:  virtomate completion fish | source

function __virtomate_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in (_VIRTOMATE_COMPLETE=fish_complete $words[1] $words[2..-1] "$current" 2>/dev/null </dev/null)
        set -l fields (string split -- \t $line)
        switch $fields[1]
            case plain
                printf '%s\t%s\n' $fields[2] "$fields[3]"
            case file
                complete --do-complete "'' $current" # as fish does for a command that it does not know
            case dir
                __fish_complete_directories $current
        end
    end
end

complete --command virtomate --no-files --keep-order --arguments '(__virtomate_complete)'
