"""Notices: what was told to whom, and a try whether a target can be told at all."""

import json
import os
import subprocess
import sys
from typing import Any

import click

import gpud
from gpuctl import session
from gpuctl.errors import GpuctlError
from gpuctl.following.logs import Log, LogError
from gpuctl.parse import JOB, POSITIVE, RULE
from gpuctl.render.text import Column, clock, table
from gpuctl.session import Session, note

Map = dict[str, Any]

_LINES_MOST = 100
_COLUMNS = (
    Column("NOTICE", right=True),
    Column("JOB", right=True),
    Column("EVENT"),
    Column("STATE"),
    Column("TRIES", right=True),
    Column("WHEN"),
    Column("TARGET", elastic=True),
    Column("WHY NOT", elastic=True),
)


@click.group()
def notify() -> None:
    """Be told when jobs start, end or fail: see the history, try a target.

    \b
    Who is told is said at the submit, as [EVENT,...=]TARGET:
      gpuctl submit --notify failure=https://example.org/hook -- python train.py
      gpuctl submit --notify start,end=command:'mail -s gpud me' -- python train.py
    Events: start, end (the default), success, failure, cancelled, waiting (for long), group (all of it has ended).
    Targets: https://..., command:..., desktop, mailto:you@example.org; with the extra apprise slack://... and others.
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone


@notify.command()
@click.argument("job", required=False, type=JOB)
@click.option("--limit", type=POSITIVE, default=50, help="At most so many, the newest (default: 50).")
@session.options
@click.pass_obj
def log(session: Session, /, job: str | None, limit: int) -> None:
    """Show what was told to whom, and what could not be."""
    named = {} if job is None else {"job": job}
    found = session.request("notices", limit=limit, **named)["notices"]
    if session.json:
        session.print_json([each | {"error": _why_not(each) or None} for each in found])
    elif found:
        rows = [
            (
                str(each["number"]),
                each["job"] or "",
                each["event"],
                each["state"],
                str(each["tries"]),
                clock(each["ended_at"] or each["at"]),
                each["target"],
                _why_not(each),
            )
            for each in found
        ]
        click.echo("\n".join(table(_COLUMNS, rows)))
    else:
        note("nobody was told of anything; see gpuctl notify --help")


def _why_not(notice: Map) -> str:
    """Return why a notice did not arrive: what its delivery said last, where that can be read, or what its end says."""
    if not notice["error"]:
        return ""
    try:
        log = Log(notice["log"], owner=os.stat(os.path.dirname(notice["log"])).st_uid)
        log.start_at_last(_LINES_MOST)
        said = log.lines()
        log.close()
    except (OSError, LogError, KeyError):
        return str(notice["error"])
    return next((line.strip() for line in reversed(said) if line.strip()), str(notice["error"]))


@notify.command()
@click.argument("target", type=RULE)
@session.options
@click.pass_obj
def test(session: Session, /, target: list[tuple[str, str]]) -> None:
    """Tell a target that this is a test, at once and from here."""
    text = "this is a test of gpuctl notify"
    notice = {
        "id": 0,
        "target": target[0][1],
        "title": "gpud: test",
        "text": text,
        "data": {"event": "test", "text": text},
    }
    done = subprocess.run(
        [sys.executable, "-I", os.path.join(os.path.dirname(gpud.__file__), "notices", "delivery.py")],
        env={**os.environ, "GPUD_NOTICE": json.dumps(notice)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise GpuctlError(f"it was not told: {done.stdout.strip() or f'exit {done.returncode}'}")
    if session.json:
        session.print_json({"delivered": True})
    else:
        note("told")
