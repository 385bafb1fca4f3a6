# gpuctl for bash; made by `gpuctl completion bash`: change the commands, not this file
_gpuctl_verb() { # sets options, valued, words, takes of a command
    options='' valued='' words='' takes=''
    case $1 in
    '') options='--version --json --socket --color --no-pager -h --help'; valued='--socket --color'; words='submit run status list show why logs wait group watch events notify usage stats cancel hold release requeue priority update signal gpus nodes drain undrain policy tenant reserve pause resume daemon doctor demo simulate completion' ;;
    'submit') options='-g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --share --mig --cpus --memory --not-gpu --not-node --node-label --pool --pack --spread -p --priority -n --name -t --time-limit --estimate --retries --retry-on --after --tenant --preemptible --no-preemptible --array --begin --hold --group --key --notify --label -e --env --env-file -C --workdir -o --output --error --grace --json --socket -f --file --dry-run -h --help'; valued='-g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --mig --cpus --memory --not-gpu --not-node --node-label --pool -p --priority -n --name -t --time-limit --estimate --retries --retry-on --after --tenant --array --begin --group --key --notify --label -e --env --env-file -C --workdir -o --output --error --grace --socket -f --file'; takes=command ;;
    'run') options='-g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --share --mig --cpus --memory --not-gpu --not-node --node-label --pool --pack --spread -p --priority -n --name -t --time-limit --estimate --retries --retry-on --after --tenant --preemptible --no-preemptible --array --begin --hold --group --key --notify --label -e --env --env-file -C --workdir -o --output --error --grace --json --socket -h --help'; valued='-g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --mig --cpus --memory --not-gpu --not-node --node-label --pool -p --priority -n --name -t --time-limit --estimate --retries --retry-on --after --tenant --array --begin --group --key --notify --label -e --env --env-file -C --workdir -o --output --error --grace --socket'; takes=command ;;
    'status') options='--json --socket --color --no-pager -h --help'; valued='--socket --color' ;;
    'list') options='-a --all -m --mine -u --user -s --state -n --name --group --label --since --limit --columns --format --sort --json --socket --color --no-pager -h --help'; valued='-u --user -s --state -n --name --group --label --since --limit --columns --format --sort --socket --color'; takes=ids ;;
    'show') options='--csv --json --socket --color --no-pager -h --help'; valued='--socket --color'; takes=ids ;;
    'why') options='--json --socket --color --no-pager -h --help'; valued='--socket --color'; takes=ids ;;
    'logs') options='-f --follow -n --lines --attempt --json --socket -h --help'; valued='-n --lines --attempt --socket'; takes=ids ;;
    'wait') options='--group --json --socket -h --help'; valued='--group --socket'; takes=live ;;
    'group') options='--json --socket --color --no-pager -h --help'; valued='--socket --color' ;;
    'watch') options='--json --socket -h --help'; valued='--socket' ;;
    'events') options='-f --follow -n --limit --json --socket --color --no-pager -h --help'; valued='-n --limit --socket --color'; takes=ids ;;
    'notify') options='-h --help'; valued=''; words='log test' ;;
    'notify log') options='--limit --json --socket -h --help'; valued='--limit --socket'; takes=ids ;;
    'notify test') options='--json --socket -h --help'; valued='--socket' ;;
    'usage') options='--by --since --csv --json --socket --color --no-pager -h --help'; valued='--by --since --socket --color' ;;
    'stats') options='--json --socket --color --no-pager -h --help'; valued='--socket --color' ;;
    'cancel') options='-m --mine -u --user -s --state --group --json --socket --force -h --help'; valued='-u --user -s --state --group --socket'; takes=live ;;
    'hold') options='-m --mine -u --user -s --state --group --json --socket -h --help'; valued='-u --user -s --state --group --socket'; takes=live ;;
    'release') options='-m --mine -u --user -s --state --group --json --socket -h --help'; valued='-u --user -s --state --group --socket'; takes=live ;;
    'requeue') options='-m --mine -u --user -s --state --group --json --socket -h --help'; valued='-u --user -s --state --group --socket'; takes=ids ;;
    'priority') options='-m --mine -u --user -s --state --group --json --socket -h --help'; valued='-u --user -s --state --group --socket'; takes=live ;;
    'update') options='-m --mine -u --user -s --state --group --json --socket -g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --share --mig --cpus --memory --not-gpu --not-node --node-label --pool --pack --spread -p --priority -n --name -t --time-limit --estimate --retries --retry-on --preemptible --no-preemptible --begin --label -e --env --env-file -C --workdir -o --output --error --grace -h --help'; valued='-u --user -s --state --group --socket -g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --mig --cpus --memory --not-gpu --not-node --node-label --pool -p --priority -n --name -t --time-limit --estimate --retries --retry-on --begin --label -e --env --env-file -C --workdir -o --output --error --grace'; takes=ids ;;
    'signal') options='-m --mine -u --user -s --state --group --json --socket -h --help'; valued='-u --user -s --state --group --socket'; takes=ids ;;
    'gpus') options='--topology --health --columns --format --sort --json --socket --color --no-pager -h --help'; valued='--columns --format --sort --socket --color' ;;
    'nodes') options='--columns --format --sort --json --socket --color --no-pager -h --help'; valued='--columns --format --sort --socket --color' ;;
    'drain') options='--reason --json --socket -h --help'; valued='--reason --socket'; takes=gpus ;;
    'undrain') options='--json --socket -h --help'; valued='--socket'; takes=gpus ;;
    'policy') options='--set --reset --json --socket --color --no-pager -h --help'; valued='--set --socket --color' ;;
    'tenant') options='-h --help'; valued=''; words='create delete list set show' ;;
    'tenant create') options='--user --group --guaranteed --max-gpus --max-running --max-queued --gpu-type --gpu-hours --window --share --boost --gpus --borrow --no-borrow --json --socket -h --help'; valued='--user --group --guaranteed --max-gpus --max-running --max-queued --gpu-type --gpu-hours --window --share --boost --gpus --socket' ;;
    'tenant delete') options='--json --socket -h --help'; valued='--socket' ;;
    'tenant list') options='--json --socket -h --help'; valued='--socket' ;;
    'tenant set') options='--user --group --guaranteed --max-gpus --max-running --max-queued --gpu-type --gpu-hours --window --share --boost --gpus --borrow --no-borrow --remove-user --remove-group --json --socket -h --help'; valued='--user --group --guaranteed --max-gpus --max-running --max-queued --gpu-type --gpu-hours --window --share --boost --gpus --remove-user --remove-group --socket' ;;
    'tenant show') options='--json --socket -h --help'; valued='--socket' ;;
    'reserve') options='-h --help'; valued=''; words='create delete list' ;;
    'reserve create') options='--from --to --for --reason --json --socket -h --help'; valued='--from --to --for --reason --socket'; takes=gpus ;;
    'reserve delete') options='--json --socket -h --help'; valued='--socket' ;;
    'reserve list') options='--json --socket -h --help'; valued='--socket' ;;
    'pause') options='--reason --json --socket -h --help'; valued='--reason --socket' ;;
    'resume') options='--json --socket -h --help'; valued='--socket' ;;
    'daemon') options='-h --help'; valued=''; words='backup install logs reload restart start status stop uninstall' ;;
    'daemon backup') options='--json --socket -h --help'; valued='--socket' ;;
    'daemon install') options='--user --system --dry-run --json --socket -h --help'; valued='--socket' ;;
    'daemon logs') options='-f --follow -n --lines --json --socket -h --help'; valued='-n --lines --socket' ;;
    'daemon reload') options='--json --socket -h --help'; valued='--socket' ;;
    'daemon restart') options='--json --socket -h --help'; valued='--socket' ;;
    'daemon start') options='--json --socket -h --help'; valued='--socket' ;;
    'daemon status') options='--json --socket -h --help'; valued='--socket' ;;
    'daemon stop') options='--json --socket -h --help'; valued='--socket' ;;
    'daemon uninstall') options='--user --system --dry-run --json --socket -h --help'; valued='--socket' ;;
    'doctor') options='--json --socket -h --help'; valued='--socket' ;;
    'demo') options='-h --help'; valued='' ;;
    'simulate') options='--cluster --policy --history --since --until --set --share --rules --saturate --seeds --placement --metric --plot --json --socket -h --help'; valued='--cluster --policy --since --until --set --share --rules --saturate --seeds --placement --metric --plot --socket' ;;
    'completion') options='-h --help'; valued=''; words='bash zsh fish' ;;
    *) return 1 ;;
    esac
}

_gpuctl_files() { # of any name, spaces and all
    local IFS=$'\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen "$@" -- "$current"))
}

_gpuctl() {
    local current=${COMP_WORDS[COMP_CWORD]} path='' options valued words takes at=1 word
    COMPREPLY=()
    _gpuctl_verb ''
    while ((at < COMP_CWORD)); do
        word=${COMP_WORDS[at]}
        if [[ $word == -- && $takes == command ]]; then
            ((at++))
            break
        elif [[ $word == -* ]]; then
            [[ " $valued " == *" $word "* ]] && ((at++))
        elif [[ $takes == command ]]; then
            break
        elif [[ " $words " == *" $word "* ]] && _gpuctl_verb "${path:+$path }$word"; then
            path=${path:+$path }$word
        fi
        ((at++))
    done
    if ((at > COMP_CWORD)); then # the value of an option
        case ${COMP_WORDS[COMP_CWORD - 1]} in
        --by) COMPREPLY=($(compgen -W 'user tenant gpu group' -- "$current")) ;;
        --color) COMPREPLY=($(compgen -W 'auto always never' -- "$current")) ;;
        --env-file) _gpuctl_files -f ;;
        --error) _gpuctl_files -f ;;
        --file) _gpuctl_files -f ;;
        --output) _gpuctl_files -f ;;
        --plot) _gpuctl_files -f ;;
        --rules) COMPREPLY=($(compgen -W 'physical muri' -- "$current")) ;;
        --socket) _gpuctl_files -f ;;
        --state) COMPREPLY=($(compgen -W 'held queued starting running stopping completed failed cancelled timed_out lost' -- "$current")) ;;
        --workdir) _gpuctl_files -d ;;
        -C) _gpuctl_files -d ;;
        -f) _gpuctl_files -f ;;
        -o) _gpuctl_files -f ;;
        -s) COMPREPLY=($(compgen -W 'held queued starting running stopping completed failed cancelled timed_out lost' -- "$current")) ;;
        esac
    elif [[ $takes == command && ( $at -lt $COMP_CWORD || $current != -* ) ]]; then
        if declare -F _command_offset >/dev/null; then
            _command_offset $at
        elif ((at == COMP_CWORD)); then
            _gpuctl_files -c -f
        else
            _gpuctl_files -f
        fi
    elif [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    elif [[ $takes == ids || $takes == live || $takes == gpus ]]; then
        COMPREPLY=($(compgen -W "$(gpuctl completion $takes 2>/dev/null | cut -f1)" -- "$current"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    fi
}
complete -F _gpuctl gpuctl
