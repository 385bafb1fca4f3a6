"""The command tree as completion files, in three shells' words."""

from collections.abc import Iterator

from gpuctl.render.verbs import ASKED, Flag, Verb, paths

_MADE_BY = "made by `gpuctl completion {}`: change the commands, not this file"


def bash(root: Verb) -> str:
    """Return the completion for bash."""
    cases = []
    for path, verb in paths(root):
        options = " ".join(name for flag in verb.flags for name in flag.names)
        lines = [f"options='{options}'", f"valued='{' '.join(verb.valued)}'"]
        if verb.words:
            lines.append(f"words='{' '.join(verb.words)}'")
        if verb.takes:
            lines.append(f"takes={verb.takes}")
        if verb.first:
            lines.append(f"first={verb.first}")
        cases.append(f"    '{path}') {'; '.join(lines)} ;;")
    values: dict[str, list[str]] = {}
    for path, verb in paths(root):
        for flag in verb.flags:
            if flag.lists:
                answer = f"_gpuctl_listed '{' '.join(flag.words)}'"
            elif flag.words:
                answer = f"COMPREPLY=($(compgen -W '{' '.join(flag.words)}' -- \"$current\"))"
            elif flag.value in {"files", "dirs"}:
                answer = f"_gpuctl_files -{flag.value[0]}"
            elif flag.asks:
                answer = f"_gpuctl_asked {flag.asks}"
            else:
                continue
            values.setdefault(answer, []).extend(f"'{path} {name}'" for name in flag.names)
    answers = "\n".join(f"        {' | '.join(where)}) {answer} ;;" for answer, where in sorted(values.items()))
    return _BASH % {"made": _MADE_BY.format("bash"), "cases": "\n".join(cases), "answers": answers}


_BASH = r"""# gpuctl for bash; %(made)s
_gpuctl_verb() { # sets options, valued, words, takes, first of a command
    options='' valued='' words='' takes='' first=''
    case $1 in
%(cases)s
    *) return 1 ;;
    esac
}

_gpuctl_files() { # of any name, spaces and all
    local IFS=$'\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen "$@" -- "$current"))
}

_gpuctl_listed() { # words apart by commas are one word
    COMPREPLY=($(compgen -P "${current%%"${current##*,}"}" -W "$1" -- "${current##*,}"))
}

_gpuctl_asked() { # what gpud knows now; others gave these names: no compgen -W, which would run $(what is in them)
    local each quoted before=''
    case $1 in # 1,2: lists of these are one word
    ids | live | running | waiting) before=${current%%"${current##*[,:]}"} ;;
    gpus | nodes) before=${current%%"${current##*,}"} ;;
    esac
    while IFS=$'\t' read -r each _; do
        printf -v quoted %%q "$each"
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
        option=${current%%%%=*} current=${current#*=}
        ((at++))
    fi
    if ((at >= ${#line[@]})); then # the value of an option
        case "$path $option" in
%(answers)s
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
    COMPREPLY=("${COMPREPLY[@]#"${current%%"$raw"}"}") # bash replaces the last part alone
}
complete -F _gpuctl gpuctl
"""


def zsh(root: Verb) -> str:
    """Return the completion for zsh."""
    functions = [_zsh_function(path, verb) for path, verb in paths(root)]
    return _ZSH % {"made": _MADE_BY.format("zsh"), "functions": "\n".join(functions)}


_ZSH = r"""#compdef gpuctl
# gpuctl for zsh; %(made)s
_gpuctl_asked() {
    local -a words
    case $1 in # 1,2: lists of these are one word
    ids | live | running | waiting) compset -P '*[,:]' ;;
    gpus | nodes) compset -P '*,' ;;
    esac
    [[ -n $PREFIX ]] && compadd -- $@[2,-1]
    words=(${(f)"$(gpuctl completion $1 2>/dev/null)"})
    words=(${words//:/\\:})
    words=(${words//$'\t'/:})
    _describe -t $1 $1 words
}

_gpuctl_command() { # a program, or a script that lies here; then what that takes
    local found=1
    [[ $words[1] == -- ]] && ((CURRENT > 1)) && { shift words; ((CURRENT--)) }
    ((CURRENT == 1)) && _files && found=0
    _normal && found=0
    return found
}

%(functions)s
_gpuctl "$@"
"""


def _zsh_function(path: str, verb: Verb) -> str:
    name = "_gpuctl" + ("_" + path.replace(" ", "_") if path else "")
    specs = [spec for flag in verb.flags for spec in _zsh_specs(flag)]
    if verb.verbs:
        specs += ["'1: :->verb'", "'*:: :->rest'"]
    elif verb.takes == "command":
        specs += [f"'1:{ASKED[verb.first]}: _gpuctl_asked {verb.first}'"] if verb.first else []
        specs.append("'*:::command: _gpuctl_command'")
    elif verb.takes in ASKED:
        specs.append(f"'*:{ASKED[verb.takes]}: _gpuctl_asked {' '.join((verb.takes, *verb.words))}'")
    elif verb.words:
        specs.append(f"'1: :({' '.join(verb.words)})'")
    lines = [f"{name}() {{", "    local state line", "    local -a verbs", "    typeset -A opt_args"]
    lines += [f"    _arguments -C{'' if verb.verbs else ' -S' if verb.takes != 'command' else ''} \\"]
    lines += [f"        {spec} \\" for spec in specs[:-1]] + [f"        {spec}" for spec in specs[-1:]]
    if verb.verbs:
        described = " ".join(_zsh_quoted(f"{each.name}:{each.help}") for each in verb.verbs)
        lines += ["    case $state in", f"    verb) verbs=({described}); _describe command verbs ;;"]
        lines += ["    rest)", "        case $words[1] in"]
        lines += [f"        {each.name}) {name}_{each.name} ;;" for each in verb.verbs]
        lines += ["        esac ;;", "    esac"]
    return "\n".join([*lines, "}", ""])


def _zsh_specs(flag: Flag) -> Iterator[str]:
    action = {"files": "_files", "dirs": "_files -/"}.get(flag.value, f"({' '.join(flag.words)})" if flag.words else "")
    action = f" _gpuctl_asked {flag.asks}" if flag.asks else action
    action = f" _sequence compadd - {' '.join(flag.words)}" if flag.lists else action
    text = flag.help.replace("[", "(").replace("]", ")").replace(":", r"\:")
    value = f":{flag.value}:{action}" if flag.value else ""
    before = "*" if flag.repeats else f"({' '.join(flag.names)})"
    for name in flag.names:
        equals = "=" if flag.value and name.startswith("--") else ""
        yield _zsh_quoted(f"{before}{name}{equals}[{text}]{value}")


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_FISH = r"""function _gpuctl_is # the command; what stands behind it may be called the same: submit -- ls
    for word in (commandline -opc)
        contains -- $word %s; or continue
        contains -- $word $argv
        return
    end
    return 1
end

function _gpuctl_listed # words apart by commas are one word
    set -l before (string match -r '^.*,|^' -- (string replace -r '^--[^=]*=' '' -- (commandline -ct)))[1]
    printf '%%s\n' $before$argv
end

function _gpuctl_asked # 1,2: lists of jobs and GPUs are one word
    set -l before ''
    contains $argv[1] ids live running waiting; and set before (string match -r '^.*[,:]|^' -- (commandline -ct))[1]
    contains $argv[1] gpus nodes; and set before (string match -r '^.*,|^' -- (commandline -ct))[1]
    for line in (gpuctl completion $argv[1] 2>/dev/null)
        echo -- "$before$line"
    end
end
"""


def fish(root: Verb) -> str:
    """Return the completion for fish."""
    lines = [f"# gpuctl for fish; {_MADE_BY.format('fish')}", *(_FISH % " ".join(root.words)).splitlines()]
    lines.append("complete -c gpuctl -f")
    for path, verb in paths(root):
        first, *others = path.split() or [""]
        seen = [f"_gpuctl_is {first}"] if first else []
        seen += [f"__fish_seen_subcommand_from {word}" for word in others]
        if verb.verbs:
            unseen = f"not __fish_seen_subcommand_from {' '.join(verb.words)}"
            when = "; and ".join([*seen, unseen])
            lines += [
                f"complete -c gpuctl -n '{when}' -a {each.name} -d {_fish_quoted(each.help)}" for each in verb.verbs
            ]
        else:
            when = "; and ".join(seen)
        if verb.takes in ASKED:
            lines.append(f"complete -c gpuctl -n '{when}' -a '(_gpuctl_asked {verb.takes})'")
        elif verb.takes == "command":
            # The program's line begins behind two words, and behind options; a short one first ends its own options.
            valued = " ".join(sorted(verb.valued, key=lambda name: name.startswith("--")))
            if verb.first:
                at_first = f"{when}; and test (count (commandline -opc)) -eq 2"
                lines.append(f"complete -c gpuctl -n '{at_first}' -a '(_gpuctl_asked {verb.first})'")
            skip, beyond = (3, "; and test (count (commandline -opc)) -ge 3") if verb.first else (2, "")
            line = f"(__fish_complete_subcommand --fcs-skip={skip} {valued})"
            lines.append(f"complete -c gpuctl -n '{when}{beyond}' -F -a '{line}'")
        if verb.words and not verb.verbs:
            typed = "; and string length -q -- (commandline -ct)" if verb.takes else ""
            lines.append(f"complete -c gpuctl -n '{when}{typed}' -a '{' '.join(verb.words)}'")
        lines += [f"complete -c gpuctl -n '{when}' {_fish_flag(flag)}" for flag in verb.flags]
    return "\n".join(lines) + "\n"


def _fish_flag(flag: Flag) -> str:
    words = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names]
    if flag.lists:
        words.append(f"-x -a '(_gpuctl_listed {' '.join(flag.words)})'")
    elif flag.words:
        words.append(f"-x -a '{' '.join(flag.words)}'")
    elif flag.value == "dirs":
        words.append("-x -a '(__fish_complete_directories)'")
    elif flag.asks:
        words.append(f"-x -a '(_gpuctl_asked {flag.asks})'")
    elif flag.value:
        words.append("-r -F" if flag.value == "files" else "-x")
    return " ".join([*words, f"-d {_fish_quoted(flag.help)}"])


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
