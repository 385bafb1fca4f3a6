# gpuctl for bash; made by `gpuctl completion bash`: change the commands, not this file
_gpuctl_verb() { # sets options, valued, words, takes, first of a command
    options='' valued='' words='' takes='' first=''
    case $1 in
    '') options='--version -H --host --json --socket --color --no-pager -h --help'; valued='-H --host --socket --color'; words='submit run claim kernel exec attach status list show why logs wait group watch progress events notify usage stats cancel hold release requeue priority update signal gpus nodes drain undrain policy tenant reserve pause resume daemon doctor demo simulate relay config help man completion ls queue ps log tail top kill rm' ;;
    'submit') options='-g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --share --mig --cpus --memory --not-gpu --not-node --node-label --pool --pack --spread -p --priority -n --name -t --time-limit --estimate --checkpoint-signal --checkpoint-interval --retries --retry-on --after --tenant --preemptible --no-preemptible --array --begin --hold --group --key --notify --label -e --env --env-file -C --workdir -o --output --error --grace --json --socket -f --file --dry-run -h --help'; valued='-g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --mig --cpus --memory --not-gpu --not-node --node-label --pool -p --priority -n --name -t --time-limit --estimate --checkpoint-signal --checkpoint-interval --retries --retry-on --after --tenant --array --begin --group --key --notify --label -e --env --env-file -C --workdir -o --output --error --grace --socket -f --file'; takes=command ;;
    'run') options='-g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --share --mig --cpus --memory --not-gpu --not-node --node-label --pool --pack --spread -p --priority -n --name -t --time-limit --estimate --checkpoint-signal --checkpoint-interval --retries --retry-on --after --tenant --preemptible --no-preemptible --array --begin --hold --group --key --notify --label -e --env --env-file -C --workdir -o --output --error --grace --json --socket --pty --unattended --immediate --pass-signals -h --help'; valued='-g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --mig --cpus --memory --not-gpu --not-node --node-label --pool -p --priority -n --name -t --time-limit --estimate --checkpoint-signal --checkpoint-interval --retries --retry-on --after --tenant --array --begin --group --key --notify --label -e --env --env-file -C --workdir -o --output --error --grace --socket --unattended --immediate'; takes=command ;;
    'claim') options='--for --idle --release -g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --share --mig --cpus --memory --not-gpu --not-node --node-label --pool --pack --spread -p --priority -n --name --after --tenant --preemptible --no-preemptible --begin --hold --group --notify --label --json --socket -h --help'; valued='--for --idle -g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --mig --cpus --memory --not-gpu --not-node --node-label --pool -p --priority -n --name --after --tenant --begin --group --notify --label --socket'; takes=claims ;;
    'kernel') options='-h --help'; valued=''; words='install' ;;
    'kernel install') options='--name --display-name --python --remove --json --socket -h --help'; valued='--name --display-name --python --socket' ;;
    'exec') options='-T -t --pty --no-pty --json --socket -h --help'; valued='--socket'; takes=command; first=running ;;
    'attach') options='--json --socket -h --help'; valued='--socket'; takes=live ;;
    'status') options='--json --socket --color --no-pager -h --help'; valued='--socket --color' ;;
    'list') options='-a --all -m --mine -u --user -s --state -n --name --group --label --since --limit --csv --results --columns --format --sort --json --socket --color --no-pager -h --help'; valued='-u --user -s --state -n --name --group --label --since --limit --columns --format --sort --socket --color'; takes=ids ;;
    'show') options='--csv --json --socket --color --no-pager -h --help'; valued='--socket --color'; takes=ids ;;
    'why') options='--json --socket --color --no-pager -h --help'; valued='--socket --color'; takes=ids ;;
    'logs') options='-f --follow -n --lines --attempt --json --socket -h --help'; valued='-n --lines --attempt --socket'; takes=ids ;;
    'wait') options='--group --json --socket -h --help'; valued='--group --socket'; takes=live ;;
    'group') options='--json --socket --color --no-pager -h --help'; valued='--socket --color'; takes=groups ;;
    'watch') options='--json --socket -h --help'; valued='--socket' ;;
    'progress') options='-m --message -h --help'; valued='-m --message' ;;
    'events') options='-f --follow -n --limit --json --socket --color --no-pager -h --help'; valued='-n --limit --socket --color'; takes=ids ;;
    'notify') options='-h --help'; valued=''; words='log test' ;;
    'notify log') options='--limit --json --socket -h --help'; valued='--limit --socket'; takes=ids ;;
    'notify test') options='--json --socket -h --help'; valued='--socket' ;;
    'usage') options='--by --since --csv --json --socket --color --no-pager -h --help'; valued='--by --since --socket --color' ;;
    'stats') options='--json --socket --color --no-pager -h --help'; valued='--socket --color' ;;
    'cancel') options='-m --mine -u --user -s --state --group --json --socket --force --waiting -h --help'; valued='-u --user -s --state --group --socket'; takes=live ;;
    'hold') options='-m --mine -u --user -s --state --group --json --socket -h --help'; valued='-u --user -s --state --group --socket'; takes=waiting ;;
    'release') options='-m --mine -u --user -s --state --group --json --socket -h --help'; valued='-u --user -s --state --group --socket'; takes=waiting ;;
    'requeue') options='-m --mine -u --user -s --state --group --json --socket -h --help'; valued='-u --user -s --state --group --socket'; takes=ids ;;
    'priority') options='-m --mine -u --user -s --state --group --json --socket -h --help'; valued='-u --user -s --state --group --socket'; takes=live ;;
    'update') options='-m --mine -u --user -s --state --group --json --socket -g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --share --mig --cpus --memory --not-gpu --not-node --node-label --pool --pack --spread -p --priority -n --name -t --time-limit --estimate --retries --checkpoint-signal --checkpoint-interval --notify --retry-on --preemptible --no-preemptible --begin --after --array --key --label -e --env --env-file -C --workdir -o --output --error --grace --to-group -h --help'; valued='-u --user -s --state --group --socket -g --gpus --nodes --gpus-per-node --gpu-ids --gpu-memory --gpu-type --mig --cpus --memory --not-gpu --not-node --node-label --pool -p --priority -n --name -t --time-limit --estimate --retries --checkpoint-signal --checkpoint-interval --notify --retry-on --begin --after --array --key --label -e --env --env-file -C --workdir -o --output --error --grace --to-group'; takes=live ;;
    'signal') options='-m --mine -u --user -s --state --group --json --socket -h --help'; valued='-u --user -s --state --group --socket'; words='USR1 USR2 INT TERM HUP QUIT STOP CONT'; takes=running ;;
    'gpus') options='--topology --health --columns --format --sort --json --socket --color --no-pager -h --help'; valued='--columns --format --sort --socket --color' ;;
    'nodes') options='--columns --format --sort --json --socket --color --no-pager -h --help'; valued='--columns --format --sort --socket --color' ;;
    'drain') options='--reason --json --socket -h --help'; valued='--reason --socket'; takes=gpus ;;
    'undrain') options='--json --socket -h --help'; valued='--socket'; takes=gpus ;;
    'policy') options='--set --reset --json --socket --color --no-pager -h --help'; valued='--set --socket --color'; takes=policies ;;
    'tenant') options='-h --help'; valued=''; words='create delete list set show' ;;
    'tenant create') options='--user --group --guaranteed --max-gpus --max-running --max-queued --gpu-type --gpu-hours --window --share --boost --gpus --borrow --no-borrow --json --socket -h --help'; valued='--user --group --guaranteed --max-gpus --max-running --max-queued --gpu-type --gpu-hours --window --share --boost --gpus --socket' ;;
    'tenant delete') options='--json --socket -h --help'; valued='--socket'; takes=tenants ;;
    'tenant list') options='--json --socket -h --help'; valued='--socket' ;;
    'tenant set') options='--user --group --guaranteed --max-gpus --max-running --max-queued --gpu-type --gpu-hours --window --share --boost --gpus --borrow --no-borrow --remove-user --remove-group --json --socket -h --help'; valued='--user --group --guaranteed --max-gpus --max-running --max-queued --gpu-type --gpu-hours --window --share --boost --gpus --remove-user --remove-group --socket'; takes=tenants ;;
    'tenant show') options='--json --socket -h --help'; valued='--socket'; takes=tenants ;;
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
    'relay') options='--again --json --socket -h --help'; valued='--socket' ;;
    'config') options='-a --all --json --socket --color --no-pager -h --help'; valued='--socket --color'; takes=settings ;;
    'help') options='--json --socket --color --no-pager -h --help'; valued='--socket --color'; words='submit run claim kernel exec attach status list show why logs wait group watch progress events notify usage stats cancel hold release requeue priority update signal gpus nodes drain undrain policy tenant reserve pause resume daemon doctor demo simulate relay config help man completion ls queue ps log tail top kill rm states reasons sizes durations ids variables exit policies files scripts' ;;
    'man') options='--json --socket -h --help'; valued='--socket' ;;
    'completion') options='--uninstall --json --socket -h --help'; valued='--socket'; words='bash zsh fish' ;;
    'ls') options='-a --all -m --mine -u --user -s --state -n --name --group --label --since --limit --csv --results --columns --format --sort --json --socket --color --no-pager -h --help'; valued='-u --user -s --state -n --name --group --label --since --limit --columns --format --sort --socket --color'; takes=ids ;;
    'queue') options='-a --all -m --mine -u --user -s --state -n --name --group --label --since --limit --csv --results --columns --format --sort --json --socket --color --no-pager -h --help'; valued='-u --user -s --state -n --name --group --label --since --limit --columns --format --sort --socket --color'; takes=ids ;;
    'ps') options='-a --all -m --mine -u --user -s --state -n --name --group --label --since --limit --csv --results --columns --format --sort --json --socket --color --no-pager -h --help'; valued='-u --user -s --state -n --name --group --label --since --limit --columns --format --sort --socket --color'; takes=ids ;;
    'log') options='-f --follow -n --lines --attempt --json --socket -h --help'; valued='-n --lines --attempt --socket'; takes=ids ;;
    'tail') options='-f --follow -n --lines --attempt --json --socket -h --help'; valued='-n --lines --attempt --socket'; takes=ids ;;
    'top') options='--json --socket -h --help'; valued='--socket' ;;
    'kill') options='-m --mine -u --user -s --state --group --json --socket --force --waiting -h --help'; valued='-u --user -s --state --group --socket'; takes=live ;;
    'rm') options='-m --mine -u --user -s --state --group --json --socket --force --waiting -h --help'; valued='-u --user -s --state --group --socket'; takes=waiting ;;
    *) return 1 ;;
    esac
}

_gpuctl_files() { # of any name, spaces and all
    local IFS=$'\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen "$@" -- "$current"))
}

_gpuctl_listed() { # words apart by commas are one word
    COMPREPLY=($(compgen -P "${current%"${current##*,}"}" -W "$1" -- "${current##*,}"))
}

_gpuctl_asked() { # what gpud knows now; others gave these names: no compgen -W, which would run $(what is in them)
    local each quoted before=''
    case $1 in # 1,2: lists of these are one word
    ids | live | running | waiting) before=${current%"${current##*[,:]}"} ;;
    gpus | nodes) before=${current%"${current##*,}"} ;;
    esac
    while IFS=$'\t' read -r each _; do
        printf -v quoted %q "$each"
        [[ $before$each == "$current"* || $before$quoted == "$current"* ]] && COMPREPLY+=("$before$quoted")
    done < <(gpuctl completion "$1" 2>/dev/null)
}

_gpuctl() { # bash takes --group=a and NODE:0 apart: `line` has them whole, `from` where each begins
    local current path='' options valued words takes first at=1 word raw option='' whole line=() from=()
    for ((raw = 0; raw <= COMP_CWORD; raw++)); do
        word=${COMP_WORDS[raw]} whole=${line[*]: -1}
        if [[ ${#line[@]} -gt 1 && ( $word == [=:]* || $whole == *[=:] ) ]]; then
            line[${#line[@]} - 1]+=$word
        else
            line+=("$word") from+=($raw)
        fi
    done
    current=${line[*]: -1}
    COMPREPLY=()
    _gpuctl_verb ''
    while ((at < ${#line[@]} - 1)); do
        word=${line[at]}
        if [[ $word == -- && $takes == command ]]; then
            ((at++))
            break
        elif [[ $word == -* ]]; then
            [[ " $valued " == *" $word "* ]] && option=$word && ((at++))
        elif [[ -n $first ]]; then
            first=''
        elif [[ $takes == command ]]; then
            break
        elif [[ -z $takes && " $words " == *" $word "* ]] && _gpuctl_verb "${path:+$path }$word"; then
            path=${path:+$path }$word
        fi
        ((at++))
    done
    if [[ $at -eq $((${#line[@]} - 1)) && $current == --*=* ]]; then
        option=${current%%=*} current=${current#*=}
        ((at++))
    fi
    if ((at >= ${#line[@]})); then # the value of an option
        case "$path $option" in
        ' --color' | 'status --color' | 'list --color' | 'show --color' | 'why --color' | 'group --color' | 'events --color' | 'usage --color' | 'stats --color' | 'gpus --color' | 'nodes --color' | 'policy --color' | 'config --color' | 'help --color' | 'ls --color' | 'queue --color' | 'ps --color') COMPREPLY=($(compgen -W 'auto always never' -- "$current")) ;;
        'simulate --rules') COMPREPLY=($(compgen -W 'physical muri' -- "$current")) ;;
        'usage --by') COMPREPLY=($(compgen -W 'user tenant gpu group' -- "$current")) ;;
        'submit --gpu-ids' | 'submit --not-gpu' | 'run --gpu-ids' | 'run --not-gpu' | 'claim --gpu-ids' | 'claim --not-gpu' | 'update --gpu-ids' | 'update --not-gpu') _gpuctl_asked gpus ;;
        'submit --group' | 'run --group' | 'claim --group' | 'list --group' | 'wait --group' | 'cancel --group' | 'hold --group' | 'release --group' | 'requeue --group' | 'priority --group' | 'update --group' | 'signal --group' | 'ls --group' | 'queue --group' | 'ps --group' | 'kill --group' | 'rm --group') _gpuctl_asked groups ;;
        'submit --after' | 'run --after' | 'claim --after' | 'update --after') _gpuctl_asked ids ;;
        'submit --not-node' | 'run --not-node' | 'claim --not-node' | 'update --not-node') _gpuctl_asked nodes ;;
        'submit --tenant' | 'run --tenant' | 'claim --tenant') _gpuctl_asked tenants ;;
        'submit --gpu-type' | 'run --gpu-type' | 'claim --gpu-type' | 'update --gpu-type') _gpuctl_asked types ;;
        'list -u' | 'list --user' | 'cancel -u' | 'cancel --user' | 'hold -u' | 'hold --user' | 'release -u' | 'release --user' | 'requeue -u' | 'requeue --user' | 'priority -u' | 'priority --user' | 'update -u' | 'update --user' | 'signal -u' | 'signal --user' | 'ls -u' | 'ls --user' | 'queue -u' | 'queue --user' | 'ps -u' | 'ps --user' | 'kill -u' | 'kill --user' | 'rm -u' | 'rm --user') _gpuctl_asked users ;;
        'submit -C' | 'submit --workdir' | 'run -C' | 'run --workdir' | 'update -C' | 'update --workdir') _gpuctl_files -d ;;
        ' --socket' | 'submit --env-file' | 'submit -o' | 'submit --output' | 'submit --error' | 'submit --socket' | 'submit -f' | 'submit --file' | 'run --env-file' | 'run -o' | 'run --output' | 'run --error' | 'run --socket' | 'claim --socket' | 'kernel install --socket' | 'exec --socket' | 'attach --socket' | 'status --socket' | 'list --socket' | 'show --socket' | 'why --socket' | 'logs --socket' | 'wait --socket' | 'group --socket' | 'watch --socket' | 'events --socket' | 'notify log --socket' | 'notify test --socket' | 'usage --socket' | 'stats --socket' | 'cancel --socket' | 'hold --socket' | 'release --socket' | 'requeue --socket' | 'priority --socket' | 'update --socket' | 'update --env-file' | 'update -o' | 'update --output' | 'update --error' | 'signal --socket' | 'gpus --socket' | 'nodes --socket' | 'drain --socket' | 'undrain --socket' | 'policy --socket' | 'tenant create --socket' | 'tenant delete --socket' | 'tenant list --socket' | 'tenant set --socket' | 'tenant show --socket' | 'reserve create --socket' | 'reserve delete --socket' | 'reserve list --socket' | 'pause --socket' | 'resume --socket' | 'daemon backup --socket' | 'daemon install --socket' | 'daemon logs --socket' | 'daemon reload --socket' | 'daemon restart --socket' | 'daemon start --socket' | 'daemon status --socket' | 'daemon stop --socket' | 'daemon uninstall --socket' | 'doctor --socket' | 'simulate --plot' | 'simulate --socket' | 'relay --socket' | 'config --socket' | 'help --socket' | 'man --socket' | 'completion --socket' | 'ls --socket' | 'queue --socket' | 'ps --socket' | 'log --socket' | 'tail --socket' | 'top --socket' | 'kill --socket' | 'rm --socket') _gpuctl_files -f ;;
        'gpus --columns') _gpuctl_listed 'gpu index node uuid name state memory util temp power health jobs what mig nvlink numa bus' ;;
        'list -s' | 'list --state' | 'cancel -s' | 'cancel --state' | 'hold -s' | 'hold --state' | 'release -s' | 'release --state' | 'requeue -s' | 'requeue --state' | 'priority -s' | 'priority --state' | 'update -s' | 'update --state' | 'signal -s' | 'signal --state' | 'ls -s' | 'ls --state' | 'queue -s' | 'queue --state' | 'ps -s' | 'ps --state' | 'kill -s' | 'kill --state' | 'rm -s' | 'rm --state') _gpuctl_listed 'held queued starting running stopping completed failed cancelled timed_out lost' ;;
        'list --columns' | 'ls --columns' | 'queue --columns' | 'ps --columns') _gpuctl_listed 'id host state name user tenant group key gpus nodes gpu_memory gpu_type cpus memory priority time wait limit estimate submitted started ended expected position where why progress exit attempt labels after command workdir output' ;;
        'nodes --columns') _gpuctl_listed 'node state gpus free cpus memory driver labels why' ;;
        esac
    elif [[ -n $first && $current != -* ]]; then
        _gpuctl_asked "$first"
    elif [[ $takes == command && ( $at -lt $((${#line[@]} - 1)) || $current != -* ) ]]; then
        if ((at == ${#line[@]} - 1)); then
            _gpuctl_files -c -f # a program, or a script that lies here
        elif declare -F _command_offset >/dev/null; then
            _command_offset ${from[at]}
            return
        else
            _gpuctl_files -f
        fi
    elif [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    elif [[ -n $takes && $takes != command ]]; then
        _gpuctl_asked "$takes"
        [[ -n $current ]] && COMPREPLY+=($(compgen -W "$words" -- "$current"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    fi
    raw=${COMP_WORDS[COMP_CWORD]}
    [[ $raw == [=:]* ]] && raw=''
    COMPREPLY=("${COMPREPLY[@]#"${current%"$raw"}"}") # bash replaces the last part alone
}
complete -F _gpuctl gpuctl
