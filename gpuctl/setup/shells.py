"""Where each shell looks for completions, and what one's own must be told so that it does.

fish looks by itself; so does bash where the package bash-completion is there. Else a block of lines is added to the
shell's own file, between marks, and taken out again by them. Nothing is written that is there already.
"""

import os

from gpuctl.errors import GpuctlError, UsageError
from gpud.model.units import plural

_BEGIN, _END = "# >>> gpuctl completion >>>", "# <<< gpuctl completion <<<"
_LOADERS = ("/usr/share/bash-completion/bash_completion", "/etc/profile.d/bash_completion.sh")
SHELLS = ("bash", "zsh", "fish")


def here() -> str:
    """Return the shell that gpuctl was called from, else the login shell. Raises UsageError for one unknown."""
    pid, names = os.getppid(), []
    for _ in range(3):  # a wrapper may stand between
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(")")
            pid = int(rest.split()[1])
        except (OSError, ValueError, IndexError):
            break
        names.append(name.lstrip("-"))
    for name in [*names, os.path.basename(os.environ.get("SHELL", ""))]:
        if name in SHELLS:
            return name
    raise UsageError("which shell this is cannot be told", hint="name it: gpuctl completion install bash|zsh|fish")


def install(shell: str, script: str) -> list[str]:
    """Put a shell's completion where it looks; return what was done, nothing where all was so already."""
    path, done = _file(shell), []
    if _content(path) != script:
        _write(path, script)
        done.append(f"wrote {path}")
    startup, lines = _startup(shell, path)
    if startup is not None and lines:
        before = _content(startup) or ""
        block = "\n".join((_BEGIN, *lines, _END)) + "\n"
        without = _without_block(before)
        after = without + ("" if not without or without.endswith("\n") else "\n") + block
        if block not in before:
            _write(startup, after)
            done.append(f"added {plural(len(lines), 'line')} to {startup}")
    return done


def uninstall(shell: str) -> list[str]:
    """Take it away again; return what was done."""
    path, done = _file(shell), []
    if os.path.lexists(path):
        os.unlink(path)
        done.append(f"removed {path}")
    startup, _ = _startup(shell, path)
    before = _content(startup) if startup is not None else None
    if startup is not None and before is not None and _BEGIN in before:
        _write(startup, _without_block(before))
        done.append(f"took its lines out of {startup}")
    return done


def _file(shell: str) -> str:
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    match shell:
        case "bash":
            folder = os.environ.get("BASH_COMPLETION_USER_DIR") or f"{data}/bash-completion"
            return f"{folder}/completions/gpuctl"
        case "zsh":
            return f"{data}/zsh/site-functions/_gpuctl"
        case _:
            return f"{config}/fish/completions/gpuctl.fish"


def _startup(shell: str, path: str) -> tuple[str | None, list[str]]:
    """Return the file that a shell reads first, and the lines that it needs there; none where it looks by itself."""
    quoted = "'" + path.replace("'", "'\\''") + "'"
    folder = "'" + os.path.dirname(path).replace("'", "'\\''") + "'"
    if shell == "bash":
        lines = [] if any(map(os.path.exists, _LOADERS)) else [f"[ ! -f {quoted} ] || . {quoted}"]
        return os.path.expanduser("~/.bashrc"), lines
    if shell == "zsh":
        startup = os.path.join(os.environ.get("ZDOTDIR") or os.path.expanduser("~"), ".zshrc")
        return startup, [
            f"fpath=({folder} $fpath)",
            "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }",
            "autoload -Uz _gpuctl && compdef _gpuctl gpuctl",
        ]
    return None, []


def _without_block(text: str) -> str:
    before, begin, rest = text.partition(_BEGIN + "\n")
    _, end, after = rest.partition(_END + "\n")
    return before + after if begin and end else text


def _content(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise GpuctlError(f"cannot read {path}: {error.strerror}") from error


def _write(path: str, text: str) -> None:
    """Write a file through what it may be a link to; one that was there keeps its mode."""
    path = os.path.realpath(path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o644
        with open(f"{path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        os.replace(f"{path}.new", path)
    except OSError as error:
        raise GpuctlError(f"cannot write {path}: {error.strerror}", hint="is it yours to change?") from error
