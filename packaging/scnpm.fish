# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_scnpm_global_optspecs
    string join \n f/flush u/reload-with-unit= a/reapply-with-unit= watch-config c/cooldown= d/debug sources= names= control= state-log= clean h/help V/version
end

function __fish_scnpm_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_scnpm_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_scnpm_using_subcommand
    set -l cmd (__fish_scnpm_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c scnpm -n "__fish_scnpm_needs_command" -s u -l reload-with-unit -d 'Read the files again and load them when a job of this unit is done; like SIGHUP (repeatable)' -r
complete -c scnpm -n "__fish_scnpm_needs_command" -s a -l reapply-with-unit -d 'Load the policy again, without reading the files, when a job of this unit is done (repeatable)' -r
complete -c scnpm -n "__fish_scnpm_needs_command" -s c -l cooldown -d 'Least time between two loads of the policy; new cgroups never wait for it' -r
complete -c scnpm -n "__fish_scnpm_needs_command" -l sources -d 'Where to learn of changes' -r -f -a "cgroup\t'cgroupfs, by inotify(7)'
dbus\t'systemd\'s signals on the system bus'
journal\t'the journal, by sd-journal(3)'"
complete -c scnpm -n "__fish_scnpm_needs_command" -l names -d 'Have names of hosts and users looked up by the service at this socket (scnpm-names.socket)' -r -F
complete -c scnpm -n "__fish_scnpm_needs_command" -l control -d 'Serve the control socket here; nowhere if this is empty' -r -F
complete -c scnpm -n "__fish_scnpm_needs_command" -l state-log -d 'Write all that happens and all that is decided to this file, for `scnpm replay`; FILE.1 is the one before' -r -F
complete -c scnpm -n "__fish_scnpm_needs_command" -s f -l flush -d 'Flush the chains named in annotations at start and at every reload'
complete -c scnpm -n "__fish_scnpm_needs_command" -l watch-config -d 'Load the files again when they change, unless they have errors'
complete -c scnpm -n "__fish_scnpm_needs_command" -s d -l debug -d 'Say what happens'
complete -c scnpm -n "__fish_scnpm_needs_command" -l clean -d 'Remove everything of scnpm\'s from the kernel and exit'
complete -c scnpm -n "__fish_scnpm_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c scnpm -n "__fish_scnpm_needs_command" -s V -l version -d 'Print version'
complete -c scnpm -n "__fish_scnpm_needs_command" -a "check" -d 'Load the files and their annotations where it touches nothing, and print every error and warning'
complete -c scnpm -n "__fish_scnpm_needs_command" -a "units" -d 'List the units that have cgroups on this machine, or print annotations for them'
complete -c scnpm -n "__fish_scnpm_needs_command" -a "status" -d 'Show whether everything that the policy asks for is in force'
complete -c scnpm -n "__fish_scnpm_needs_command" -a "explain" -d 'Say why packets of a process, a unit or a socket pass or not'
complete -c scnpm -n "__fish_scnpm_needs_command" -a "wait" -d 'Wait until the rules for a unit or cgroup are in the kernel'
complete -c scnpm -n "__fish_scnpm_needs_command" -a "run" -d 'Run a command in a scope of its own, once the rules for it are in the kernel'
complete -c scnpm -n "__fish_scnpm_needs_command" -a "reload" -d 'Have the daemon read its files again, and print what is wrong with them'
complete -c scnpm -n "__fish_scnpm_needs_command" -a "replay" -d 'Feed a state log to the engine again, and show each step and what is decided otherwise today'
complete -c scnpm -n "__fish_scnpm_needs_command" -a "serve-names" -d 'Look names up for whoever connects to the socket that is the standard input (scnpm-names.service)'
complete -c scnpm -n "__fish_scnpm_needs_command" -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c scnpm -n "__fish_scnpm_using_subcommand check" -l format -d 'How to print what is found' -r -f -a "full\t'With the lines of the files and a table of units'
short\t'One line for each error or warning'
json\t'One JSON object'"
complete -c scnpm -n "__fish_scnpm_using_subcommand check" -l deny -d 'Count warnings (`warnings`), or those with this code, as errors (repeatable)' -r
complete -c scnpm -n "__fish_scnpm_using_subcommand check" -l interface -d 'Take it that an interface of this name exists at boot (repeatable)' -r
complete -c scnpm -n "__fish_scnpm_using_subcommand check" -l root -d 'Look for unit files below this directory; what runs on this machine does not count then' -r -F
complete -c scnpm -n "__fish_scnpm_using_subcommand check" -l explain -d 'Explain a code and do nothing else' -r
complete -c scnpm -n "__fish_scnpm_using_subcommand check" -l json -d 'The same as --format json'
complete -c scnpm -n "__fish_scnpm_using_subcommand check" -l dispatch -d 'Print the nft script that the annotations are loaded as, and what is found to stderr'
complete -c scnpm -n "__fish_scnpm_using_subcommand check" -l no-dns -d 'Look no host names up'
complete -c scnpm -n "__fish_scnpm_using_subcommand check" -l fix -d 'Print what the fixes of all findings change, as a unified diff, in place of the findings'
complete -c scnpm -n "__fish_scnpm_using_subcommand check" -l write -d 'Change the files so; FILE~ is what a file was before'
complete -c scnpm -n "__fish_scnpm_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c scnpm -n "__fish_scnpm_using_subcommand units" -l file -d 'Files whose annotations are shown beside the units that they are about (repeatable) [default: /etc/nftables.conf]' -r -F
complete -c scnpm -n "__fish_scnpm_using_subcommand units" -l chain -d 'The chain that annotations are for, such as `inet filter services` [default: that of the first annotation]' -r
complete -c scnpm -n "__fish_scnpm_using_subcommand units" -l json -d 'Print one JSON object'
complete -c scnpm -n "__fish_scnpm_using_subcommand units" -l annotate -d 'Print an annotation that is ready to be copied for each unit, and one for each application of a user'
complete -c scnpm -n "__fish_scnpm_using_subcommand units" -l explicit -d 'Print for each unit the annotation with its level and path besides'
complete -c scnpm -n "__fish_scnpm_using_subcommand units" -s h -l help -d 'Print help'
complete -c scnpm -n "__fish_scnpm_using_subcommand status" -l socket -d 'The daemon\'s control socket' -r -F
complete -c scnpm -n "__fish_scnpm_using_subcommand status" -l json -d 'Print one JSON object; with --watch one in each line'
complete -c scnpm -n "__fish_scnpm_using_subcommand status" -s w -l watch -d 'Print it again whenever it changes'
complete -c scnpm -n "__fish_scnpm_using_subcommand status" -s h -l help -d 'Print help'
complete -c scnpm -n "__fish_scnpm_using_subcommand explain" -l to -d 'Say which rule decides about a packet to this host and port' -r
complete -c scnpm -n "__fish_scnpm_using_subcommand explain" -l proto -d 'The protocol of that packet: tcp, udp' -r
complete -c scnpm -n "__fish_scnpm_using_subcommand explain" -l file -d 'Files with annotations (repeatable) [default: those of the daemon, or /etc/nftables.conf]' -r -F
complete -c scnpm -n "__fish_scnpm_using_subcommand explain" -l socket -d 'The daemon\'s control socket' -r -F
complete -c scnpm -n "__fish_scnpm_using_subcommand explain" -l json -d 'Print one JSON object'
complete -c scnpm -n "__fish_scnpm_using_subcommand explain" -s h -l help -d 'Print help'
complete -c scnpm -n "__fish_scnpm_using_subcommand wait" -l cgroup -d 'A cgroup\'s path, as `socket cgroupv2` takes it or below /sys/fs/cgroup' -r
complete -c scnpm -n "__fish_scnpm_using_subcommand wait" -l timeout -d 'How long to wait at most' -r
complete -c scnpm -n "__fish_scnpm_using_subcommand wait" -l socket -d 'The daemon\'s control socket' -r -F
complete -c scnpm -n "__fish_scnpm_using_subcommand wait" -l self -d 'The cgroup of the process that asks'
complete -c scnpm -n "__fish_scnpm_using_subcommand wait" -l or-fail -d 'Fail if the daemon does not run (the default)'
complete -c scnpm -n "__fish_scnpm_using_subcommand wait" -l or-continue -d 'Go on if the daemon does not run: say so, with exit status 0'
complete -c scnpm -n "__fish_scnpm_using_subcommand wait" -l json -d 'Print one JSON object'
complete -c scnpm -n "__fish_scnpm_using_subcommand wait" -s h -l help -d 'Print help'
complete -c scnpm -n "__fish_scnpm_using_subcommand run" -l app -d 'The id of the application: the scope is named app-scnpm-ID-PID.scope [default: the command\'s name]' -r
complete -c scnpm -n "__fish_scnpm_using_subcommand run" -l unit -d 'The scope\'s or service\'s name, with or without its type' -r
complete -c scnpm -n "__fish_scnpm_using_subcommand run" -l slice -d 'The slice that it is in [default: app.slice; for root system.slice]' -r
complete -c scnpm -n "__fish_scnpm_using_subcommand run" -l socket -d 'The daemon\'s control socket' -r -F
complete -c scnpm -n "__fish_scnpm_using_subcommand run" -l service -d 'Have the manager run it as a service in place of a scope'
complete -c scnpm -n "__fish_scnpm_using_subcommand run" -l wait -d 'Fail if it is not certain that its rules are in the kernel; else that is a warning'
complete -c scnpm -n "__fish_scnpm_using_subcommand run" -l no-wait -d 'Do not wait for its rules'
complete -c scnpm -n "__fish_scnpm_using_subcommand run" -l inside -d 'What a service that `--service` made runs: the words of the command are escaped'
complete -c scnpm -n "__fish_scnpm_using_subcommand run" -s h -l help -d 'Print help'
complete -c scnpm -n "__fish_scnpm_using_subcommand reload" -l try -d 'Go back to the old policy after this time unless it is confirmed' -r
complete -c scnpm -n "__fish_scnpm_using_subcommand reload" -l format -d 'How to print what is found' -r -f -a "full\t'With the lines of the files and a table of units'
short\t'One line for each error or warning'
json\t'One JSON object'"
complete -c scnpm -n "__fish_scnpm_using_subcommand reload" -l socket -d 'The daemon\'s control socket' -r -F
complete -c scnpm -n "__fish_scnpm_using_subcommand reload" -l json -d 'The same as --format json'
complete -c scnpm -n "__fish_scnpm_using_subcommand reload" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c scnpm -n "__fish_scnpm_using_subcommand replay" -l differences -d 'Show only what is decided otherwise'
complete -c scnpm -n "__fish_scnpm_using_subcommand replay" -s h -l help -d 'Print help'
complete -c scnpm -n "__fish_scnpm_using_subcommand serve-names" -s h -l help -d 'Print help'
complete -c scnpm -n "__fish_scnpm_using_subcommand help; and not __fish_seen_subcommand_from check units status explain wait run reload replay serve-names help" -f -a "check" -d 'Load the files and their annotations where it touches nothing, and print every error and warning'
complete -c scnpm -n "__fish_scnpm_using_subcommand help; and not __fish_seen_subcommand_from check units status explain wait run reload replay serve-names help" -f -a "units" -d 'List the units that have cgroups on this machine, or print annotations for them'
complete -c scnpm -n "__fish_scnpm_using_subcommand help; and not __fish_seen_subcommand_from check units status explain wait run reload replay serve-names help" -f -a "status" -d 'Show whether everything that the policy asks for is in force'
complete -c scnpm -n "__fish_scnpm_using_subcommand help; and not __fish_seen_subcommand_from check units status explain wait run reload replay serve-names help" -f -a "explain" -d 'Say why packets of a process, a unit or a socket pass or not'
complete -c scnpm -n "__fish_scnpm_using_subcommand help; and not __fish_seen_subcommand_from check units status explain wait run reload replay serve-names help" -f -a "wait" -d 'Wait until the rules for a unit or cgroup are in the kernel'
complete -c scnpm -n "__fish_scnpm_using_subcommand help; and not __fish_seen_subcommand_from check units status explain wait run reload replay serve-names help" -f -a "run" -d 'Run a command in a scope of its own, once the rules for it are in the kernel'
complete -c scnpm -n "__fish_scnpm_using_subcommand help; and not __fish_seen_subcommand_from check units status explain wait run reload replay serve-names help" -f -a "reload" -d 'Have the daemon read its files again, and print what is wrong with them'
complete -c scnpm -n "__fish_scnpm_using_subcommand help; and not __fish_seen_subcommand_from check units status explain wait run reload replay serve-names help" -f -a "replay" -d 'Feed a state log to the engine again, and show each step and what is decided otherwise today'
complete -c scnpm -n "__fish_scnpm_using_subcommand help; and not __fish_seen_subcommand_from check units status explain wait run reload replay serve-names help" -f -a "serve-names" -d 'Look names up for whoever connects to the socket that is the standard input (scnpm-names.service)'
complete -c scnpm -n "__fish_scnpm_using_subcommand help; and not __fish_seen_subcommand_from check units status explain wait run reload replay serve-names help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
