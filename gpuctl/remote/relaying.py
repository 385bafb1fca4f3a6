"""gpud on another machine, over ssh: `ssh://[USER@]HOST[:PORT][/PATH/OF/gpuctl]`.

There `gpuctl relay` joins ssh's ends to the socket of gpud, which it starts where gpuctl would: no port is open, and
who one is there is for sshd to say. `$GPUD_SSH` is what is run for `ssh`, with its options.
"""

import os
import re
import shlex
import socket
import subprocess
import tempfile
from typing import IO
from urllib.parse import unquote, urlsplit

from gpuctl.errors import UnreachableError, UsageError
from gpud.wire.address import SSH

_PLAIN = re.compile(r"([^A-Za-z0-9_./:@%+,-])", re.ASCII)
_HINT = "write ssh://HOST, ssh://USER@HOST:22, or ssh://HOST/path/of/gpuctl; or a name of ~/.ssh/config"
# Of a host that does not answer one hears within so many seconds, and who sleeps with an open lid finds out.
_NO_GPUCTL = (126, 127)  # what a shell ends with that finds nothing to run
FAILED = (*_NO_GPUCTL, 255)
_RELAYED = ("-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15")


def address_of(host: str) -> str:
    """Return the address of a host as it is typed: `dgx1` is `ssh://dgx1`. Raises UsageError."""
    url = host if host.startswith(SSH) else SSH + host
    parts = urlsplit(url)
    try:
        good = parts.hostname and parts.port != 0 and not (parts.query or parts.fragment or parts.password)
    except ValueError:
        good = False
    good = good and not parts.path.startswith("//")  # http://dgx1
    if not good or parts.netloc.startswith("-") or "\0" in url or any(char.isspace() for char in parts.netloc):
        raise UsageError(f"{host!r} names no host", hint=_HINT)
    return url


def name_of(url: str) -> str:
    """Return what a host is called in a table."""
    return urlsplit(url).hostname or url


def command(url: str, words: list[str], *options: str) -> list[str]:
    """Return the command that runs gpuctl with these words over there."""
    parts = urlsplit(address_of(url))
    host = parts.netloc.rpartition("@")[2]
    named = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    login = ["-l", unquote(parts.username)] if parts.username else []
    port = ["-p", str(parts.port)] if parts.port else []
    path = unquote(parts.path)
    program = path.removeprefix("/~/") if path.strip("/") else "gpuctl"
    ssh = shlex.split(os.environ.get("GPUD_SSH", "")) or ["ssh"]
    # env: that it is there that it is to run, whatever is set there for who types.
    there = " ".join(["env -u GPUD_HOST", *map(quoted, [program, *words])])
    return [*ssh, *options, *login, *port, "--", named, there]


def unreachable(url: str, status: int, said: str = "") -> UnreachableError:
    """Return what there is to say of an ssh that ended with one of `FAILED`."""
    host = name_of(url)
    if status in _NO_GPUCTL:
        hint = f"name it: ssh://{host}/~/.local/bin/gpuctl"
        return UnreachableError(f"{host}: ssh finds no gpuctl there{said}", hint=hint)
    hint = f"try: ssh {host}; names of hosts stand in ~/.ssh/config"
    return UnreachableError(f"{host}: ssh does not get there{said}", hint=hint)


def quoted(word: str) -> str:
    """Return a word as any shell reads it back: sh, fish and csh agree on backslashes, not on what quotes keep."""
    return _PLAIN.sub(lambda found: "'\n'" if found[0] == "\n" else f"\\{found[0]}", word) or "''"


class Relayed(socket.socket):
    """A connection through an ssh of its own, which ends with it."""

    ssh: "subprocess.Popen[bytes]"
    errors: IO[bytes]

    def close(self) -> None:
        """Hang up, and wait for ssh to end."""
        if self.fileno() >= 0:
            super().close()
            self.ssh.terminate()
            self.ssh.wait()
            self.errors.close()

    def shutdown(self, how: int, /) -> None:
        """Have it over, for a thread that waits for an answer, too: ssh ends, however long it would have hung."""
        super().shutdown(how)
        self.ssh.terminate()


def connected(url: str, *, again: bool = False) -> Relayed:
    """Return a connection to the gpud of a host; `again`: one was lost. Raises UnreachableError without an ssh."""
    ours, theirs = socket.socketpair()
    with theirs:
        relayed = Relayed(fileno=ours.detach())
        relayed.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the connection
        words = command(url, ["relay", *(["--again"] if again else [])], *_RELAYED)
        try:
            relayed.ssh = subprocess.Popen(words, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=relayed.errors)
        except OSError as error:
            socket.socket.close(relayed)
            relayed.errors.close()
            raise UnreachableError(f"cannot run {words[0]}: {error.strerror}", hint="GPUD_SSH names it") from error
    return relayed


def failure(url: str, connection: socket.socket) -> UnreachableError | None:
    """Return why nobody answered, in ssh's last words, or gpuctl's there; None where gpud itself hung up."""
    assert isinstance(connection, Relayed)  # noqa: S101 - what `connected` returned
    status = connection.ssh.wait()
    if status == 0:
        return None
    connection.errors.seek(0)
    said = connection.errors.read().decode(errors="replace")
    lines = [line for line in said.splitlines() if line.strip()] or [f"ssh ended with status {status}"]
    if status in _NO_GPUCTL:
        return unreachable(url, status, f" ({lines[-1]})")
    told = next((line for line in lines if line.startswith("gpuctl: ")), lines[-1]).removeprefix("gpuctl: ")
    return UnreachableError(f"{name_of(url)}: {told}", hint=f"try: ssh {name_of(url)}")
