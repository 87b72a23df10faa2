# Completion of scnpm(8) for fish(1). What there is to complete, scnpm itself knows: `scnpm complete`.

function __scnpm_complete
    set -l words (commandline -opc)
    set -l word (string unescape -- (commandline -ct); or commandline -ct)
    set -l answer (command scnpm complete fish -- $words "$word" 2>/dev/null)
    switch "$answer[1]"
        case words
            printf '%s\n' $answer[2..-1]
        case files
            set -l option (string match -r -- '^--[^=]*=' "$word")
            __fish_complete_path (string replace -- "$option" '' "$word") | string replace -r '^' -- "$option"
        case 'command *'
            set -l first (math 1 + (string replace 'command ' '' -- $answer[1]))
            complete -C (string join ' ' -- (string escape -- $words[$first..-1]) "$word")
    end
end

complete -c scnpm -f -a '(__scnpm_complete)'
