"""`#SBATCH` lines taken apart into options, as sbatch's own reading of a script and getopt_long(3) do it."""

import re
from typing import NamedTuple

from gpuctl.errors import UsageError

# Long options of sbatch(1): those that need a value, may have one, have none; and the letters for some.
_OPTIONS = {
    "need": """
    account acctg-freq array batch bb bbf begin chdir cluster cluster-constraint clusters comment constraint container
    container-id core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency
    distribution error exclude export export-file extra extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node
    gpus-per-socket gpus-per-task gres gres-flags hint input job-name kill-on-invalid-dep licenses mail-type mail-user
    mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nodefile nodelist nodes ntasks ntasks-per-core
    ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output partition power prefer priority profile
    qos reservation segment signal sockets-per-node switches tasks-per-node thread-spec threads-per-core time time-min
    tmp tres-bind tres-per-task uid wait-all-nodes wckey workdir wrap container-image container-mounts
    container-workdir container-name image""",
    "may": "exclusive get-user-env nice no-kill oom-kill-step parsable propagate",
    "none": """
    contiguous hold ignore-pbs no-requeue oversubscribe overcommit quiet reboot requeue resv-ports share spread-job
    stepmgr test-only use-min-nodes verbose wait help usage version""",
}
_LETTERS = """
    A=account a=array b=begin D=chdir M=clusters C=constraint S=core-spec c=cpus-per-task d=dependency m=distribution
    e=error x=exclude B=extra-node-info G=gpus H=hold h=help i=input J=job-name L=licenses k=no-kill F=nodefile
    w=nodelist N=nodes n=ntasks O=overcommit o=output s=oversubscribe p=partition q=qos Q=quiet t=time V=version
    v=verbose W=wait"""
_KINDS = {word: kind for kind, words in _OPTIONS.items() for word in words.split()}
_SHORT = dict(pair.split("=") for pair in _LETTERS.split())
_SAME = {"cluster": "clusters", "tasks-per-node": "ntasks-per-node", "workdir": "chdir", "share": "oversubscribe"}
_DIRECTIVE = re.compile(r"#(SBATCH|GPUCTL)(?=[\s-]|$)(.*)")
_ANY = re.compile(r"\s*#(SBATCH|GPUCTL)\s+-")
_HERE = re.compile(r"(?<!<)<<-?\s*(?P<plain>['\"\\\\]?)(?P<end>[\w.!-]+)['\"]?(?!<)")


class Directive(NamedTuple):
    """A line of a script that says how to submit it: where it stands, `SBATCH` or `GPUCTL`, and its words."""

    line: int
    kind: str
    words: list[str]


class Option(NamedTuple):
    """An option of an `#SBATCH` line. `name` is the long one's; `value` is None where none was said."""

    line: int
    name: str
    value: str | None


def directives(text: str) -> tuple[list[Directive], dict[int, str]]:
    """Return the directives of a script, and what is to be said of lines that look like one and are not read.

    They end where the script's first command begins. What is indented is a comment, as it is to sbatch; what stands in
    a here-document is of another script.
    """
    found: list[Directive] = []
    late: dict[int, str] = {}
    begun = False
    lines = lines_of(text)
    elsewhere = here_documents(lines)
    for number, line in enumerate(lines, 1):
        if number in elsewhere:
            continue
        match = _DIRECTIVE.match(line)
        if match is not None and not begun:
            found.append(Directive(number, match[1], words(match[2])))
        elif match is not None or _ANY.match(line):
            why = "it stands behind the first command" if begun else "it does not begin at the start of its line"
            late[number] = f"{line.strip()[:60]!r} is not read: {why}"
        elif not (line.isspace() or not line or line.lstrip().startswith("#")):
            begun = True
    notes = dict(list(late.items())[:1])
    if len(late) > 1:
        notes = {number: f"{note}; the same goes for {len(late) - 1} more" for number, note in notes.items()}
    return found, notes


def lines_of(text: str) -> list[str]:
    """Return the lines of a script, as its shell counts them: str.splitlines ends more."""
    return text.replace("\r\n", "\n").split("\n")


def here_documents(lines: list[str]) -> dict[int, bool]:
    """Return which lines stand in here-documents, by number: True where the shell takes them as they stand.

    One that nothing ends is none: `1 << n` of another language looks like it.
    """
    last = {line.lstrip("\t"): number for number, line in enumerate(lines, 1)}
    found: dict[int, bool] = {}
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        for begin in () if line.lstrip().startswith("#") else _HERE.finditer(line):
            inside = last.get(begin["end"], 0) > number
            while inside:
                inside = lines[number].lstrip("\t") != begin["end"]
                number += 1
                found[number] = bool(begin["plain"])
    return found


def words(text: str) -> list[str]:
    """Return the words of a line: quotes and backslashes as in a shell, no variables; an open `#` ends it."""
    found: list[str] = []
    word: list[str] | None = None
    quote = ""
    letters = iter(text)
    for letter in letters:
        if letter == "\\" and quote != "'":
            word = [*(word or []), next(letters, "")]
        elif quote:
            if letter == quote:
                quote = ""
            else:
                word = [*(word or []), letter]
        elif letter in "'\"":
            quote, word = letter, word or []
        elif letter == "#":
            break
        elif letter.isspace():
            found += [] if word is None else ["".join(word)]
            word = None
        else:
            word = [*(word or []), letter]
    return found if word is None else [*found, "".join(word)]


def options(lines: list[Directive]) -> tuple[list[Option], dict[int, list[str]]]:
    """Return the options of `#SBATCH` lines, and what is to be said of words that are none. Raises UsageError."""
    found: list[Option] = []
    notes: dict[int, list[str]] = {}
    for line in lines:
        rest = list(line.words)
        if rest[:1] in (["hetjob"], ["packjob"]):
            said = "a job of several parts: gpud queues the first, and does not read what follows"
            notes.setdefault(line.line, []).append(said)
            break
        while rest and rest[0] != "--":
            option = option_of(line.line, rest)
            if isinstance(option, str):
                notes.setdefault(line.line, []).append(option)
            else:
                found.append(option)
    return found, notes


def option_of(line: int, rest: list[str]) -> Option | str:
    """Take an option and its value off the words; return it, or what is to be said of words that are none."""
    word = rest.pop(0)
    if word.startswith("--"):
        option = _long(line, word[2:], rest)
    elif word.startswith("-") and len(word) > 1:
        option = _short(line, word[1:], rest)
    elif word[0] in "\u2010\u2011\u2012\u2013\u2014\u2212":  # as word processors make of --
        return f"{word!r} begins with another dash than -; left out"
    else:
        return f"{word!r} belongs to no option; left out"
    return f"{option}: gpud knows no such option of sbatch; left out" if isinstance(option, str) else option


def _long(line: int, word: str, rest: list[str]) -> Option | str:
    """Return an option by its name or the beginning of it; its words where there is none."""
    given, equals, value = word.partition("=")
    name = given.replace("_", "-")
    near = [name] if name in _KINDS else [each for each in _KINDS if each.startswith(name)]
    if len(near) != 1:
        follows = [rest.pop(0)] if not equals and rest and not rest[0].startswith("-") else []
        return " ".join([f"--{word}", *follows])
    name, kind = near[0], _KINDS[near[0]]
    if kind == "need" and not value and not (equals and rest[:1] and rest[0].startswith("-")):
        value = rest.pop(0) if rest else "" if equals else _next(line, f"--{given}", rest)
    said = value if equals or kind == "need" else None
    return Option(line, _SAME.get(name, name), None if kind == "none" else said)


def _short(line: int, word: str, rest: list[str]) -> Option | str:
    name = _SHORT.get(word[0])
    if (given := word.partition("=")[0]) in _KINDS:
        raise UsageError(f"line {line}: -{word} is not what it looks like: write --{given}")
    if name is None:
        follows = [rest.pop(0)] if len(word) == 1 and rest and not rest[0].startswith("-") else []
        return " ".join([f"-{word}", *follows])
    if _KINDS[name] == "need":
        value = word[1:].removeprefix("=") or _next(line, f"-{word[0]}", rest)
        return Option(line, name, value)
    if len(word) > 1:
        rest.insert(0, f"-{word[1:]}")
    return Option(line, name, None)


def _next(line: int, option: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        raise UsageError(f"line {line}: {option} needs a value")
    return rest.pop(0)
