"""`gpuctl -H HOST COMMAND`: the same command over there; `status`, `list` and `watch` also of several hosts at once.

For one host all of gpuctl runs on that host, by ssh: environments, directories, scripts and logs are those of the
machine that the jobs run on, and nothing is guessed about another. Of several hosts each is asked through a relay, all
at the same time, and one that does not answer is a line, not an end. Soon after the first has answered the others are
given up: who hangs holds nobody up.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NoReturn, TypeVar

import click

from gpuctl import overview
from gpuctl.client import Client
from gpuctl.commands.watch import refuse_no_screen
from gpuctl.errors import GpuctlError, UnreachableError, UsageError
from gpuctl.remote import relaying
from gpuctl.render import gpus as render_gpus, jobs as render_jobs
from gpuctl.render.fields import JOBS
from gpuctl.render.shaping import Shape
from gpuctl.render.text import Column, plural, table, terminal_height
from gpuctl.session import Session, note

T = TypeVar("T")
_MOST = 100
_LINES = 18  # of a screen, beside one for each host: 15 jobs, and what stands around them
_PATIENCE_S = 30.0  # while nobody has answered
_MORE_S = 5.0  # for the others, once somebody has
_READ_STDIN = frozenset({"run", "exec", "attach", "relay"})
_AS_THE_JOB = frozenset({"run", "exec", "attach", "wait"})  # they exit as a job does, and that may be with ssh's 255
_HOSTS = (Column("HOST"), Column("GPUD"), Column("GPUS", elastic=True), Column("JOBS", elastic=True))


def named(words: Iterable[str]) -> list[str]:
    """Return the addresses of hosts, each once, as `-H` and $GPUD_HOST name them. Raises UsageError."""
    each = [part.strip() for word in words for part in word.split(",")]
    return list(dict.fromkeys(relaying.address_of(part) for part in each if part))


def run(context: click.Context, hosts: Sequence[str], words: Sequence[str], own: Sequence[str]) -> int:
    """Run the command of these words on the hosts; `own` is what stood before it. Raises GpuctlError."""
    command, rest = (words[0], list(words[1:])) if words else ("status", [])
    if len(hosts) == 1:
        return _alone(hosts[0], [*own, *words], command)
    found = context.command.get_command(context, {"ls": "list"}.get(command, command))  # type: ignore[attr-defined]  # a group
    of_several = {"status": _status, "list": _list, "watch": _watch}.get(getattr(found, "name", None) or "")
    if found is None or of_several is None:
        first = relaying.name_of(hosts[0])
        raise UsageError(f"{command} is for one host at a time", hint=f"name it: gpuctl -H {first} {command}")
    asked = found.make_context(command, rest, parent=context)
    session = context.ensure_object(Session)
    if session.socket is not None:
        raise UsageError("--socket names a gpud of one host", hint="leave it out, or name one host")
    with asked:
        return of_several(session, hosts, asked.params)


def _alone(host: str, words: list[str], named: str) -> int:
    """Run gpuctl over there, by ssh; return its exit status. Raises UnreachableError where ssh does not get there."""
    person = all(os.isatty(descriptor) for descriptor in (0, 1, 2))
    options = ["-t", "-o", "LogLevel=ERROR"] if person else ["-T"]
    if not person and "-" not in words and _READ_STDIN.isdisjoint(words):
        options.append("-n")  # what is piped to a loop around gpuctl is the loop's
    command = relaying.command(host, words, *options)
    sys.stdout.flush()
    try:
        if named in _AS_THE_JOB:
            _become(command)
        ssh = subprocess.Popen(command)
    except OSError as error:
        raise UnreachableError(f"cannot run {command[0]}: {error.strerror}", hint="GPUD_SSH names it") from error
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: ssh.send_signal(received))
    status = ssh.wait()
    if status in relaying.FAILED:
        raise relaying.unreachable(host, status)
    return status if status >= 0 else 128 - status


def _become(command: list[str]) -> NoReturn:
    """Become ssh, whose exit status is the command's, or 255 for its own failures."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # which Python ignores, and others would inherit
    os.execvp(command[0], command)  # noqa: S606 - a shell would read the words


def _each(hosts: Sequence[str], ask: Callable[[Client], T]) -> list[tuple[str, T | GpuctlError]]:
    """Return what each of the hosts answers, or why it does not, in their order."""
    clients: dict[str, Client] = {}
    came: queue.SimpleQueue[tuple[str, T | GpuctlError]] = queue.SimpleQueue()

    def asked(host: str) -> None:
        try:
            with Client(host) as client:
                clients[host] = client
                came.put((host, ask(client)))
        except GpuctlError as error:
            came.put((host, error))

    for host in hosts:
        threading.Thread(target=asked, args=(host,), daemon=True).start()
    began, found = monotonic(), dict[str, T | GpuctlError]()
    until = began + _PATIENCE_S
    while len(found) < len(hosts):
        try:
            host, answer = came.get(timeout=max(0.0, until - monotonic()))
        except queue.Empty:
            break
        found[host] = answer
        if not isinstance(answer, GpuctlError):
            until = min(until, monotonic() + _MORE_S)
    late = UnreachableError(f"no answer within {monotonic() - began:.0f} s", hint="ask it alone, or leave it out")
    for host in [host for host in hosts if host not in found and host in clients]:
        with suppress(OSError):
            clients[host].give_up()  # and with it an ssh that hangs
    names = _told_apart([relaying.name_of(host) for host in hosts], hosts)
    return [(name, found.get(host, late)) for name, host in zip(names, hosts, strict=True)]


def _told_apart(names: Sequence[str], hosts: Sequence[str]) -> list[str]:
    """Return names that are each one host's: of two with the same name the whole addresses."""
    return [host if names.count(name) > 1 else name for name, host in zip(names, hosts, strict=True)]


def _status_of(answers: Iterable[tuple[str, Any]]) -> int:
    """Return the exit status: 0 where every host answered, else that of the first that did not: 69, or the like."""
    return next((answer.exit_status for _, answer in answers if isinstance(answer, GpuctlError)), 0)


def _say_errors(answers: Iterable[tuple[str, Any]]) -> None:
    for name, answer in answers:
        if isinstance(answer, GpuctlError):
            note(f"{name} does not answer: {_why(name, answer)}{f'; {answer.hint}' if answer.hint else ''}")


def _why(name: str, error: GpuctlError) -> str:
    return error.message.removeprefix(f"{name}: ")


def _list(session: Session, hosts: Sequence[str], given: dict[str, Any]) -> int:
    """List the jobs of several hosts."""
    if given.pop("csv") | given.pop("with_results"):
        raise UsageError("what jobs used is told of one host at a time", hint="leave --csv and --results out")
    own = {"columns", "template", "sort"}
    asked = {key.rstrip("_"): list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    fields = {key: value for key, value in asked.items() if value and key not in own}
    answers = _each(hosts, lambda client: client.request("list", **fields))
    rows = [{"host": name, **row} for name, answer in answers if isinstance(answer, dict) for row in answer["jobs"]]
    shape = Shape(given.get("columns"), given.get("template"), given.get("sort"))
    found = shape.sorted(sorted(rows, key=lambda job: job["state"] in render_jobs.ENDS))
    if session.json:
        session.print_json(found)
    elif lines := shape.lines(JOBS, found, render_jobs.rows):
        session.show(lines)
    _say_errors(answers)
    for name, answer in answers:
        if isinstance(answer, dict) and answer["more"]:
            note(f"{name} has {answer['more']} more (gpuctl -H {name} list)")
    return _status_of(answers)


def _status(session: Session, hosts: Sequence[str], _given: dict[str, Any]) -> int:
    """Show one screen of several hosts."""
    answers = _each(hosts, _seen)
    if session.json:
        session.print_json([_document(name, answer) for name, answer in answers])
    else:
        click.echo("\n".join(screen(answers, min(terminal_height() - 1, len(answers) + _LINES))))
    return _status_of(answers)


def _seen(client: Client) -> dict[str, Any]:
    asked = overview.requests(most=_MOST, fresh=True)
    return overview.joined([client.request(op, **fields) for op, fields in asked])


def _document(name: str, answer: dict[str, Any] | GpuctlError) -> dict[str, Any]:
    if isinstance(answer, GpuctlError):
        return {"host": name, "error": _why(name, answer)}
    return {"host": name, **answer["status"], "gpu_list": answer["gpus"], "job_list": answer["jobs"]}


def screen(
    answers: Sequence[tuple[str, dict[str, Any] | GpuctlError]], height: int, chosen: str | None = None
) -> list[str]:
    """Return a screen of hosts: a line each, then their jobs, or those of the chosen one, as far as there is room."""
    cells, jobs = [], []
    for name, answer in answers:
        if isinstance(answer, GpuctlError):
            cells.append((name, "no answer", _why(name, answer), ""))
            continue
        status = answer["status"]
        counts = ", ".join(f"{count} {state}" for state, count in status["jobs"].items() if count)
        gpus = render_gpus.summary(answer["gpus"]) if answer["gpus"] else "no GPUs"
        simulated = " (simulated)" if status["simulated"] else ""
        paused = "" if status["paused"] is None else ", paused"
        cells.append((name, f"{status['version']}{paused}", gpus + simulated, counts or "none"))
        jobs += [{"host": name, **row} for row in answer["jobs"] if chosen in (None, name)]
    order = {"queued": 1, "held": 2} | dict.fromkeys(render_jobs.ENDS, 3)
    jobs.sort(key=lambda job: order.get(job["state"], 0))
    heading, *hosts = table(_HOSTS, cells)
    marked = (f"\x1b[7m{line}\x1b[27m" if cell[0] == chosen else line for line, cell in zip(hosts, cells, strict=True))
    lines = [heading, *marked]
    room = max(2, height - len(lines) - 2)
    more = len(jobs) - room + 1 if len(jobs) > room else 0
    rest = [f"... {plural(more, 'job')} more"] if more else []
    return [*lines, "", *render_jobs.rows(jobs[: room - len(rest)]), *rest] if jobs else lines


def _watch(session: Session, hosts: Sequence[str], _given: dict[str, Any]) -> int:
    """Show several hosts until the person leaves; for programs, an object per change."""
    from gpuctl.remote import gathering  # noqa: PLC0415 - most calls look once

    names = _told_apart([relaying.name_of(host) for host in hosts], hosts)
    gathered = gathering.Gathered(hosts, _seen)
    if session.json:
        gathering.lines(gathered, lambda at, answer: session.print_json(_document(names[at], answer)))
    else:
        refuse_no_screen()
        with contextlib.suppress(KeyboardInterrupt):
            while (chosen := gathering.screen(gathered, names, screen)) is not None:
                alone = relaying.command(hosts[chosen], ["watch"], "-t", "-o", "LogLevel=ERROR")
                subprocess.run(alone, check=False)  # until the person leaves that
    return 0
