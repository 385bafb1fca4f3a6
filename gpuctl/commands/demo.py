"""A queue at work in half a minute: a gpud of its own on simulated GPUs, real processes, more than fit.

Every job's end and output is checked afterwards, and that no GPU was held by two jobs at once; so this is also the
shortest test of an installation.
"""

import os
import select
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import pairwise
from types import FrameType
from typing import Any, NoReturn

import click
from rich.live import Live
from rich.text import Text

from gpuctl.client import Client
from gpuctl.commands.submit import submit
from gpuctl.errors import GpuctlError
from gpuctl.following.waiting import subscribe
from gpuctl.overview import look, unshown
from gpuctl.render import gpus as render_gpus
from gpuctl.render.jobs import ENDS, rows, written_end
from gpuctl.render.text import clock, cut, plural
from gpuctl.session import Session, note
from gpuctl.setup import starting
from gpuctl.submitting import submission

SIMULATED = "2x8xH100"
_WITHIN_S, _CLEANED_WITHIN_S = 50, 10
_FRAME_S = 0.25
_TICK_S = 1.0
_WORK = 'echo "start $(date +%s.%N) $GPUD_GPU_UUIDS"; sleep {}; echo "end $(date +%s.%N)"; exit {}'


@dataclass(frozen=True, slots=True)
class Act:
    """A job of the demo: its options, its command, and how it has to end."""

    options: str
    command: str
    state: str = "completed"
    exit_code: int | None = 0
    signal: int | None = None


def _work(options: str, seconds: float, exit_code: int = 0) -> Act:
    state = "failed" if exit_code else "completed"
    return Act(options, f"sh -c {shlex.quote(_WORK.format(seconds, exit_code))}", state, exit_code)


ACTS = (
    _work("-n pretrain -g 8 -t 1m", 3),
    _work("-n pretrain -g 8 -t 1m", 2),
    _work("-n finetune -g 4 -t 1m", 2),
    _work("-n finetune -g 4 -t 1m", 1.5),
    _work("-n finetune -g 4 --gpu-memory 80G --gpu-type H100", 1),
    _work("-n sweep --array 0-11%6", 0.7),
    _work("-n urgent -g 2 -p 10", 1),
    _work("-n fails", 0.3, 3),
    Act("-n crashes", "sh -c 'kill -SEGV $$'", "failed", None, 11),
    Act("-n endless -t 1s --grace 1s", "sleep 600", "timed_out", None, 15),
    Act("-n unwanted -g 8 -p -5 --hold", "sleep 600", "cancelled", None),
    Act("-n misspelt", "pyhton train.py", "failed", None),
    _work("-n prepare -g 0 --cpus 4 --memory 8G", 1),
)


@click.command()
@click.pass_obj
def demo(session: Session) -> int:
    """Watch a queue work: 2 nodes with 8 H100 each, simulated, and more jobs than fit.

    A private gpud in a temporary directory; your own, and your GPUs, are not touched. Exits with 0 when every job
    ended as it should.
    """
    note("a private gpud, and 2 nodes with 8 H100 each: simulated GPUs, real processes")
    began = time.monotonic()
    with _private_gpud() as client:
        ids = [_submitted(client, act) for act in ACTS]
        client.request("cancel", select={"jobs": [ids[[act.state for act in ACTS].index("cancelled")]]})
        _until_ended(client, ids, live=sys.stdout.isatty() and not session.json)
        answers = [client.request("show", job=job) for job in ids]
        wrong = [line for act, answer in zip(ACTS, answers, strict=True) for line in _check(act, answer)]
        wrong += _overlaps(answers)
    jobs = [answer["job"] for answer in answers]
    if session.json:
        session.print_json({"jobs": jobs, "wrong": wrong})
    else:
        click.echo("\n".join(rows(jobs)))
    for line in wrong:
        note(line)
    took = f"{time.monotonic() - began:.0f} s; nothing of it is left"
    note(f"not as expected: {plural(len(wrong), 'thing')}" if wrong else f"all {len(jobs)} as expected, in {took}")
    return int(bool(wrong))


@contextmanager
def _private_gpud() -> Iterator[Client]:
    """Serve a gpud of one's own; end it, its jobs and its files afterwards, whatever happens."""
    state = tempfile.mkdtemp(prefix="gpud-demo-")
    path, config = f"{state}/gpud.sock", f"{state}/config.toml"
    with open(config, "x", encoding="utf-8"):  # an empty one, so that the user's own has no say
        pass
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GPUD_")}
    options = ["--config", config, "--state-dir", state, "--socket", path, "--simulate", SIMULATED]
    launcher = pid = None
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):  # whatever ends the demo, nothing of it stays
        signal.signal(number, _give_up)
    signal.alarm(_WITHIN_S)
    try:
        pid = starting.start_daemon(path, options, state=state, environ=environ)
        with Client(path) as client:
            try:
                yield client
            finally:
                client.reconnect(1.0)  # what broke this off may have left half an answer in the connection
                launcher = client.request("status")["launcher"].get("pid")
                client.request("cancel", select={"state": ["held", "queued", "starting", "running"]}, force=True)
    finally:
        if pid is not None:
            starting.stop_daemon(pid)
        if isinstance(launcher, int):
            _await_end(launcher)
        shutil.rmtree(state, ignore_errors=True)


def _give_up(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signal module's signature
    signal.alarm(_CLEANED_WITHIN_S)
    raise GpuctlError(f"not over after {_WITHIN_S} s" if number == signal.SIGALRM else "told to end")


def _await_end(pid: int) -> None:
    """Wait for the launcher, which goes once it has no jobs; its files are removed after it."""
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            starting.gone(process, 10)
        finally:
            os.close(process)


def _submitted(client: Client, act: Act) -> str:
    """Queue a job as `gpuctl submit` would, and say so."""
    note(f"gpuctl submit {act.options} -- {act.command if len(act.command) < 40 else 'sh -c ...'}")
    words = [*shlex.split(act.options), "--", *shlex.split(act.command)]
    context = submit.make_context("submit", words)
    fields = submission.fields(context.params, literal=True)
    fields["environment"] = {key: value for key, value in os.environ.items() if not key.startswith("GPUD_")}
    return str(client.request("submit", nonce=submission.new_nonce(), **fields)["job"])


def _until_ended(client: Client, ids: list[str], *, live: bool) -> None:
    """Return when all have ended, showing GPUs and queue meanwhile."""
    subscribe(client, ids)
    left = set(ids)
    with Live(auto_refresh=False, transient=True) if live else nullcontext() as screen:
        while left:
            jobs = client.request("list", jobs=ids)["jobs"]
            left = {job["id"] for job in jobs if job["state"] not in ENDS}
            if screen is not None:
                size = shutil.get_terminal_size()
                screen.update(Text.from_ansi(_frame(look(client, most=50), width=size.columns, height=size.lines - 2)))
                screen.refresh()
                time.sleep(_FRAME_S)
            if left:
                select.select([client], [], [], 0 if client.has_pushed() else _TICK_S)
                _tell(client.pushed(wait=False), quiet=live)


def _frame(seen: dict[str, Any], *, width: int, height: int) -> str:
    """Return a frame, with colours as ANSI sequences: GPUs, then as many jobs as there is room for."""
    status, gpus = seen["status"], seen["gpus"]
    heading = "  ".join(filter(None, ("gpud", clock(time.time()), f"simulates {status['simulated']}")))
    room = max(4, height // 2)
    lines = [cut(heading, width), "", *render_gpus.rows(gpus[:room], width=width)]
    if len(gpus) > room:
        lines.append(f"... {render_gpus.summary(gpus)}")
    left = height - len(lines) - 2
    jobs = seen["jobs"][: max(1, left - 2)]
    more = unshown(seen, len(jobs))
    lines += ["", *rows(jobs, width=width), *([f"... {plural(more, 'job')} more"] if more else [])]
    return "\n".join(lines[:height])


def _tell(pushed: list[dict[str, Any]], *, quiet: bool) -> None:
    for event in (message["event"] for message in pushed if "event" in message):
        if not quiet and event["kind"] in ENDS:
            note(f"job {event['job']} {event['kind'].replace('_', ' ')}")


def _check(act: Act, answer: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a job's end, or with its output."""
    job = answer["job"]
    if (job["state"], job["signal"]) != (act.state, act.signal):
        yield f"{written_end(job)}; expected: {act.state}"
    for each in answer.get("elements") or [job]:
        if each["exit_code"] != act.exit_code:
            yield f"job {each['id']} exited with {each['exit_code']}; expected: {act.exit_code}"
        if act.exit_code is not None and _said(each)[-1:] and _said(each)[-1][0] != "end":
            yield f"the output of job {each['id']} ends too early"


def _said(job: dict[str, Any]) -> list[list[str]]:
    """Return the words of each line that a job printed."""
    if job["output"] is None:  # it never started
        return [["no output"]]
    try:
        with open(job["output"], encoding="utf-8") as file:
            return [line.split() for line in file]
    except FileNotFoundError:
        return [["no output"]]


def _overlaps(answers: list[dict[str, Any]]) -> Iterator[str]:
    """Yield each GPU that two jobs held at the same time, by what the jobs themselves printed."""
    held: dict[str, list[tuple[float, float, str]]] = {}
    for job in (job for answer in answers for job in answer.get("elements") or [answer["job"]]):
        said = _said(job)
        if len(said) == 2 and len(said[0]) == 3:
            (_, start, gpus), (_, end) = said
            if len(gpus.split(",")) != job["gpus"]:
                yield f"job {job['id']} was to have {plural(job['gpus'], 'GPU')}, and was given {gpus}"
            for gpu in gpus.split(","):
                held.setdefault(gpu, []).append((float(start), float(end), job["id"]))
    for uuid, spans in held.items():
        for (_, over, first), (begun, _, second) in pairwise(sorted(spans)):
            if begun < over:
                yield f"{uuid} was held by jobs {first} and {second} at once"
