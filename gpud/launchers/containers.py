"""Containers that a job left behind: each is its daemon's child and not the job's, so that no signal finds it.

`docker run -d` leaves one for good, and a client that is killed leaves its own. What says whose they are is the labels
in $GPUD_DOCKER_ARGS. When a job's processes have ended, its shim has them stopped by the Docker Engine API, which
podman speaks as well, through the Unix socket that the job's own docker would take; in a process of the job's user,
whose rights alone decide. Where there is no such socket, and for a job that was too short, nothing is forked or asked.

In HTTP/1.0 an answer ends where its connection does. Standard library only, for the launcher process imports it.
"""

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

SHORT_S = 0.1  # docker takes longer than that to start a container
_GRACE_S = 10  # from TERM to KILL: docker's own
_PATIENCE_S = 30.0
_USUAL = "/var/run/docker.sock"
_MOST = 1 << 22  # bytes of an answer
_STOPPED = frozenset({204, 304, 404})  # it was stopped, had stopped, has gone
_LABEL = "--label="


def socket_of(variables: Mapping[str, str]) -> str | None:
    """Return the socket by which this process, with these variables, reaches docker; None where it does not."""
    path = (variables.get("DOCKER_HOST") or _USUAL).removeprefix("unix://")
    return path if path.startswith("/") and path.isascii() and os.access(path, os.R_OK | os.W_OK) else None


def stop(path: str, words: str, become_user: Callable[[], None]) -> str | None:
    """Stop the containers that were run with these words, as a user; return what came of it, None where there are none.

    It takes as long as docker gives a container to end, and `_PATIENCE_S` at most: then they are left alone.
    """
    labels = [word.removeprefix(_LABEL) for word in words.split() if word.startswith(_LABEL)]
    if not labels:
        return None
    result, its = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(its)
        os.close(result)
        return f"its containers were not looked for: {error.strerror}"
    if pid == 0:
        try:
            become_user()
            os.write(its, _stopped(path, labels).encode("ascii", "replace")[: select.PIPE_BUF])
        except BaseException:  # noqa: BLE001 - ours: the launcher's log is where it is looked for
            sys.excepthook(*sys.exc_info())
            os.write(its, b"its containers were not looked for: gpud failed, see its log")
        finally:
            os._exit(0)
    os.close(its)
    waits = select.poll()
    waits.register(result, select.POLLIN)
    said = b"its containers may run on: docker does not answer"
    if waits.poll(_PATIENCE_S * 1000):  # else it is docker that hangs, or its user has stopped this process
        said = os.read(result, select.PIPE_BUF)
    os.close(result)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return said.decode("ascii", "replace") or None


def _stopped(path: str, labels: Sequence[str]) -> str:
    """Stop them, all at once; return what came of it, nothing where there are none."""
    try:
        left = _left(path, labels)
    except (ConnectionRefusedError, FileNotFoundError):  # docker does not run, nor does what it ran
        return ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"its containers were not looked for: {error}"
    asked = {}
    failed = []
    for name, container in left.items():
        try:
            asked[name] = _ask(path, f"POST /containers/{container}/stop?t={_GRACE_S}")
        except OSError as error:
            failed.append(f"{name} ({error})")
    stopped = []
    for name, connection in asked.items():
        try:
            status, _ = _answer(connection)
        except (OSError, ValueError) as error:
            failed.append(f"{name} ({error})")
            continue
        if status in _STOPPED:
            stopped.append(name)
        else:
            failed.append(f"{name} (docker answered {status})")
    return "; ".join(filter(None, (_said("could not stop", failed), _said("stopped", stopped))))


def _left(path: str, labels: Sequence[str]) -> dict[str, str]:
    """Return the ids of running containers with these labels, by name. Raises OSError, ValueError and the like."""
    filters = json.dumps({"label": labels}, separators=(",", ":"))
    status, body = _answer(_ask(path, f"GET /containers/json?filters={_quoted(filters)}"))
    if status != 200:
        raise ValueError(f"docker answered {status}")
    wanted = {tuple(label.split("=", 1)) for label in labels}
    # Looked at here, too: who stands between and drops the filters must not have others' containers stopped.
    return {
        each["Names"][0].removeprefix("/"): each["Id"]
        for each in json.loads(body)
        if wanted <= {*(each["Labels"] or {}).items()}
    }


def _quoted(text: str) -> str:
    return "".join(letter if letter.isalnum() else f"%{ord(letter):02X}" for letter in text)


def _ask(path: str, request: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_PATIENCE_S)
        connection.connect(path)
        connection.sendall(f"{request} HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n".encode())
    except OSError:
        connection.close()
        raise
    return connection


def _answer(connection: socket.socket) -> tuple[int, bytes]:
    """Return the status and the body of an answer, and close the connection. Raises OSError, ValueError."""
    raw = b""
    with connection:
        while len(raw) <= _MOST and (more := connection.recv(1 << 16)):
            raw += more
    head, _, body = raw.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        raise ValueError("this is no docker")
    return int(words[1]), body


def _said(what: str, names: Sequence[str]) -> str:
    count = f"{len(names)} container{'s' if len(names) > 1 else ''}"
    return f"{what} {count}: {', '.join(names)}" if names else ""
