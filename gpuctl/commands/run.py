"""Submit a job, show what it prints, exit as it exits; the job does not depend on this program living."""

import contextlib
import fcntl
import os
import select
import signal
import stat
import sys
import termios
import threading
from array import array
from math import inf
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

import click

from gpuctl.cli import JobStatusCommand
from gpuctl.client import Client
from gpuctl.errors import GpuctlError, ReaderLeftError, UsageError
from gpuctl.following.beginning import has_begun, until_begun
from gpuctl.following.follower import Follower, Interrupts, sizes
from gpuctl.following.waiting import exit_status
from gpuctl.interruption import INTERRUPTED
from gpuctl.parse import DURATION, OR_FOREVER
from gpuctl.render.jobs import written_end
from gpuctl.session import Session, note, on_terminal
from gpuctl.submitting import options, places, submission
from gpud.model.units import format_duration

_IMMEDIATE_S = 5
_UNATTENDED_S = 600.0


class RunCommand(options.WordsCommand, JobStatusCommand):
    """Words as submit takes them, and the job's exit status."""


@click.command(cls=RunCommand)
@options.options
@click.option("--pty", is_flag=True, help="On a terminal of its own, which is this one: for shells, editors, pdb.")
@click.option("--unattended", type=OR_FOREVER, help="With --pty: how long it runs without anybody (default: 10m).")
@click.option(
    "--immediate",
    type=DURATION,
    is_flag=False,
    flag_value=str(_IMMEDIATE_S),
    help="Fail unless it starts within 5 seconds, or =SECONDS.",
)
@click.option("--pass-signals", is_flag=True, help="Of a program: each INT interrupts, TERM and HUP end the job.")
@click.pass_context
def run(
    context: click.Context,
    /,
    *,
    pty: bool,
    unattended: float | None,
    immediate: float | None,
    pass_signals: bool,
    **given: Any,
) -> int:
    r"""Queue a command as `submit` does, show its output, and exit as it exits. Its stdin is /dev/null.

    Ctrl-C cancels a job that waits and interrupts one that runs; a second one cancels it. The job lives on when the
    terminal goes: `gpuctl attach ID` comes back to it. Exits with 128+N for signal N, with 127 or 126 when the command
    could not be started, with 125 when gpuctl itself fails. With --json its output goes to stderr, and stdout holds the
    job, when it has ended, as a JSON document. Its stderr comes on stdout, too, unless --error FILE parts them.

    With --pty keys go to the job, Ctrl-C and Ctrl-Z too. Ctrl-\ d leaves it; nobody there for 10 minutes ends it.
    """
    session: Session = context.obj
    fields = submission.fields(given, literal=context.meta["gpuctl.literal"])
    if "array" in fields:
        raise UsageError("run shows one job, not an array", hint="gpuctl submit --array ..., then gpuctl wait ID")
    if pty:
        fields |= _terminal(session, unattended)
    elif unattended is not None:
        raise UsageError("--unattended is for jobs with a terminal: others run on without anybody", hint="add --pty")
    elif _is_piped():
        note("what is piped in is not passed on: a job's stdin is /dev/null")
    places.expect_program(fields)
    before = sizes(filter(None, (fields.get("output"), fields.get("error"))))
    warden = _as_a_kernel(session) if pass_signals else None
    # A job may have been queued from here on.
    with session.connect() as client, Interrupts(client, passes=pass_signals) as interrupts, _Lost() as lost:
        reply = client.request("submit", nonce=submission.new_nonce(), next=True, **fields)
        job = lost.job = reply["job"]
        _tell(warden, job)
        if on_terminal():
            note(f"{submission.next_words(job, reply)}; to come back to it: gpuctl attach {job}")
        if immediate is not None:
            _started_or_cancelled(client, job, immediate, interrupts)
        if pty:
            from gpuctl.following import attaching  # noqa: PLC0415 - only for terminals

            if (answer := attaching.attend(client, job, interrupts)) is None:
                note(f"left job {job}; back to it: gpuctl attach {job}")
                return 0
        else:
            shown_on = 2 if session.json else 1
            answer = Follower(client, job, skip=before, interrupts=interrupts, descriptor=shown_on).follow()
    _tell(warden, "over")
    ended = answer["job"]
    if session.json:
        session.print_json(ended)
    elif ended["state"] != "completed" and (on_terminal() or not ended["exit_code"]):
        note(written_end(ended))
    if interrupts.count and ended["state"] == "cancelled" and ended["started_at"] is None:
        return INTERRUPTED
    return exit_status(answer)


def _terminal(session: Session, unattended: float | None) -> dict[str, Any]:
    """Return what a request says of a terminal: its size, and how long it may be without anybody. Raises UsageError."""
    from gpuctl.following import attaching  # noqa: PLC0415 - as above

    if session.json:
        raise UsageError("a terminal is a person's, and --json a program's", hint="leave out one of the two")
    attaching.check_terminal()
    asked: dict[str, Any] = {"terminal": [*attaching.size_of(0)]}
    if unattended != inf:
        asked["unattended_s"] = _UNATTENDED_S if unattended is None else unattended
    return asked


def _end_with(parent: int) -> None:
    """Have TERM come when the Jupyter that started this is gone."""
    try:
        watched = os.pidfd_open(parent)
    except OSError:  # gone already, or not to be watched here
        return

    def wait() -> None:
        select.select([watched], [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _as_a_kernel(session: Session) -> int | None:
    """Have the job end as a kernel outside of a job would: with Jupyter, or when Jupyter kills this program.

    Return a pipe into which the job is to be written; None where it was not Jupyter that started this. A shell waits at
    its end, in a session of its own since Jupyter kills all of this one: it holds less than another Python.
    """
    if os.environ.get("JPY_PARENT_PID") != str(os.getppid()):
        return None
    import subprocess  # noqa: PLC0415 - only for kernels

    _end_with(os.getppid())
    reading, writing = os.pipe()
    socket = [] if session.socket is None else ["--socket", session.socket]
    cancel = [sys.executable, "-P", "-m", "gpuctl", *socket, "cancel"]
    words = ["/bin/sh", "-c", 'read -r job && ! read -r over && exec "$@" "$job"', "sh", *cancel]
    away = subprocess.DEVNULL
    subprocess.Popen(words, stdin=reading, stdout=away, stderr=away, start_new_session=True)
    os.close(reading)
    return writing


def _tell(warden: int | None, word: str) -> None:
    if warden is not None:
        with contextlib.suppress(OSError):
            os.write(warden, f"{word}\n".encode())


def _started_or_cancelled(client: Client, job: str, within_s: float, interrupts: Interrupts) -> None:
    """Return once a job has started. Raises GpuctlError, after cancelling it, where it does not within that time."""
    waiting = until_begun(client, job, within_s=within_s, interrupts=interrupts)["job"]
    if has_begun(waiting):
        return
    client.request("cancel", select={"jobs": [job]})
    said = f"job {job} cannot start within {format_duration(within_s)}: {waiting['reason'] or waiting['state']}"
    raise GpuctlError(said, hint="it was cancelled; without --immediate it waits for its turn")


class _Lost:
    """Says, where the terminal goes or somebody ends us, that the job does not: to whatever stderr is by then."""

    def __init__(self) -> None:
        self.job: str | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
        for number, handled in self._before.items():
            if handled is signal.SIG_DFL:
                signal.signal(number, self._leave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handled in self._before.items():
            signal.signal(number, handled)
        if isinstance(error, ReaderLeftError):  # `gpuctl run ... | head`
            self._say()

    def _say(self) -> None:
        if self.job is not None:
            with contextlib.suppress(OSError):
                os.write(2, f"gpuctl: job {self.job} runs on; to come back to it: gpuctl attach {self.job}\n".encode())

    def _leave(self, number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG002 - the signal module's signature
        self._say()
        os._exit(128 + number)


def _is_piped() -> bool:
    """Return whether something waits on stdin that somebody could take to reach the job."""
    kind = os.fstat(0).st_mode
    if stat.S_ISREG(kind):
        return os.fstat(0).st_size > os.lseek(0, 0, os.SEEK_CUR)
    if not stat.S_ISFIFO(kind):
        return False
    waiting = array("i", [0])
    fcntl.ioctl(0, termios.FIONREAD, waiting)
    return waiting[0] > 0
