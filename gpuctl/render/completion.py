"""The command tree as completion files: what Click knows of commands and options, in three shells' words."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import click

from gpuctl.topics import TOPICS

_FILES = frozenset({"FILE", "PATH"})
# What gpud is asked for on TAB: jobs (all, unfinished ones, those that run, one's claims), GPUs, nodes, other names.
ASKED = {
    "ids": "job",
    "live": "job",
    "running": "job",
    "claims": "claim",
    "gpus": "GPU or node",
    "nodes": "node",
    "types": "GPU type",
    "groups": "group",
    "tenants": "tenant",
    "users": "user",
    "policies": "policy",
    "settings": "setting",
}
_ON_LIVE = frozenset({"cancel", "hold", "release", "priority", "wait", "update", "attach"})
_ON_OTHERS = {"exec": "running", "signal": "running", "claim": "claims"}
_OF_ARGUMENTS = {"jobs": "ids", "job": "ids", "targets": "gpus", "command": "command"}
_OF_NAMES = {"group": "groups", "policy": "policies", "show": "tenants", "set": "tenants", "delete": "tenants"}
_OF_OPTIONS = {
    "--group": "groups",
    "--tenant": "tenants",
    "--user": "users",
    "--gpu-type": "types",
    "--not-node": "nodes",
    "--not-gpu": "gpus",
    "--gpu-ids": "gpus",
    "--after": "ids",
}
_OF_THE_SYSTEM = frozenset({"create", "set"})  # a tenant's users and groups are the machine's
_MADE_BY = "made by `gpuctl completion {}`: change the commands, not this file"


@dataclass(frozen=True, slots=True)
class Flag:
    """An option: its spellings, its help, and what its value is ("" for none): `files`, `dirs`, words, or a name.

    `lists`: several of the words may stand there, apart by commas.
    """

    names: tuple[str, ...]
    help: str
    value: str = ""
    words: tuple[str, ...] = ()
    repeats: bool = False
    asks: str = ""  # of `ASKED`
    lists: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """A command. `takes` is what follows the options: of `ASKED`, `command` (another program's line), or nothing.

    `first` of `ASKED` is one word before another program's line.
    """

    name: str
    help: str
    flags: tuple[Flag, ...]
    takes: str = ""
    first: str = ""
    words: tuple[str, ...] = ()
    verbs: tuple["Verb", ...] = ()

    @property
    def valued(self) -> list[str]:
        """Return the spellings of the options that want a value."""
        return [name for flag in self.flags if flag.value for name in flag.names]


def tree(command: click.Command) -> Verb:
    """Return what is to be completed under gpuctl's own command; an alias takes what its command does."""
    root = _verb("gpuctl", command, click.Context(command, info_name="gpuctl", **command.context_settings))
    by_name = {verb.name: verb for verb in root.verbs}
    more = [
        replace(by_name[words[0]], name=alias, help=f"As gpuctl {' '.join(words)}")
        for alias, words in getattr(command, "aliases", {}).items()
    ]
    names = tuple(verb.name for verb in (*root.verbs, *more))
    explained = (*names, *(topic for topic in TOPICS if topic not in names))
    verbs = (replace(verb, words=explained) if verb.name == "help" else verb for verb in (*root.verbs, *more))
    return replace(root, verbs=tuple(verbs), words=names)


def _verb(name: str, command: click.Command, context: click.Context) -> Verb:
    verbs: list[Verb] = []
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found is not None:
                verbs.append(_verb(each, found, click.Context(found, info_name=each, parent=context)))
    takes, first, words = "", "", tuple(verb.name for verb in verbs)
    for parameter in command.params:
        if not isinstance(parameter, click.Argument):
            continue
        if isinstance(parameter.type, click.Choice):
            words = tuple(str(word) for word in parameter.type.choices)
        of = _OF_NAMES.get(name, "") if parameter.name == "name" else _OF_ARGUMENTS.get(parameter.name or "", "")
        if name == "config":
            of = "settings"
        if of == "ids":
            of = "live" if name in _ON_LIVE else _ON_OTHERS.get(name, of)
        if of == "command":
            first = takes
        takes = of or takes
    flags = tuple(_flag(each, name) for each in command.get_params(context) if isinstance(each, click.Option))
    return Verb(name, command.get_short_help_str(100), flags, takes, first, words, tuple(verbs))


def _flag(option: click.Option, verb: str) -> Flag:
    spelled = [*option.opts, *option.secondary_opts]  # --spread and --pack
    names = tuple(sorted(spelled, key=lambda name: (len(name), name)))  # Click's own order depends on its version
    text = (option.help or "").rstrip(".")
    if option.is_flag:
        return Flag(names, text)
    words = tuple(str(word) for word in getattr(option.type, "choices", ()))
    metavar = option.metavar or option.type.name.upper()
    value = "files" if metavar in _FILES else "dirs" if metavar == "DIR" else metavar
    asks = "" if verb in _OF_THE_SYSTEM else next((_OF_OPTIONS[name] for name in names if name in _OF_OPTIONS), "")
    return Flag(names, text, value, words, option.multiple, asks, getattr(option.type, "lists", False))


def bash(root: Verb) -> str:
    """Return the completion for bash."""
    cases = []
    for path, verb in _paths(root):
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
    for path, verb in _paths(root):
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
    ids | live | running) before=${current%%"${current##*[,:]}"} ;;
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
        elif [[ " $words " == *" $word "* ]] && _gpuctl_verb "${path:+$path }$word"; then
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
    functions = [_zsh_function(path, verb) for path, verb in _paths(root)]
    return _ZSH % {"made": _MADE_BY.format("zsh"), "functions": "\n".join(functions)}


_ZSH = r"""#compdef gpuctl
# gpuctl for zsh; %(made)s
_gpuctl_asked() {
    local -a words
    case $1 in # 1,2: lists of these are one word
    ids | live | running) compset -P '*[,:]' ;;
    gpus | nodes) compset -P '*,' ;;
    esac
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
        specs.append(f"'*:{ASKED[verb.takes]}: _gpuctl_asked {verb.takes}'")
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


_FISH = r"""function _gpuctl_listed # words apart by commas are one word
    set -l before (string match -r '^.*,|^' -- (string replace -r '^--[^=]*=' '' -- (commandline -ct)))[1]
    printf '%s\n' $before$argv
end

function _gpuctl_asked # 1,2: lists of jobs and GPUs are one word
    set -l before ''
    contains $argv[1] ids live running; and set before (string match -r '^.*[,:]|^' -- (commandline -ct))[1]
    contains $argv[1] gpus nodes; and set before (string match -r '^.*,|^' -- (commandline -ct))[1]
    for line in (gpuctl completion $argv[1] 2>/dev/null)
        echo -- "$before$line"
    end
end
"""


def fish(root: Verb) -> str:
    """Return the completion for fish."""
    lines = [f"# gpuctl for fish; {_MADE_BY.format('fish')}", *_FISH.splitlines(), "complete -c gpuctl -f"]
    for path, verb in _paths(root):
        seen = [f"__fish_seen_subcommand_from {word}" for word in path.split()]
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
        elif verb.words and not verb.verbs:
            lines.append(f"complete -c gpuctl -n '{when}' -a '{' '.join(verb.words)}'")
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


def _paths(verb: Verb, path: str = "") -> Iterator[tuple[str, Verb]]:
    """Yield every command with its words: "", "submit", "daemon start"."""
    yield path, verb
    for each in verb.verbs:
        yield from _paths(each, f"{path} {each.name}".strip())
