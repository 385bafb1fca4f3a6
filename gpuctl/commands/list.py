"""The queue, and what has left it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from gpuctl import session
from gpuctl.errors import UsageError
from gpuctl.following import progress
from gpuctl.parse import POSITIVE, SINCE, jobs_argument
from gpuctl.render import fields, jobs as render, results, shaping
from gpuctl.render.gpus import SIMULATED
from gpuctl.render.shaping import Shape
from gpuctl.render.text import clean
from gpuctl.session import Session, note

_MOST = 10_000  # rows that gpud lists at once
_COUNTED = 10_000  # how far it counts what it leaves out
STATES = ("held", "queued", "starting", "running", "stopping", "completed", "failed", "cancelled", "timed_out", "lost")


class _States(click.Choice[str] if TYPE_CHECKING else click.Choice):  # type: ignore[misc]  # generic since Click 8.2
    """States, one or, as in `failed,lost`, several."""

    lists = True

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the states as one word."""
        return ",".join(super(_States, self).convert(word.strip(), param, ctx) for word in value.split(","))


def state_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that names states; `text` is its help."""

    def each(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(state for word in given for state in word.split(","))

    return click.option("-s", "--state", type=_States(STATES), multiple=True, callback=each, help=text)


@click.command("list")
@jobs_argument()
@click.option("-a", "--all", "all_", is_flag=True, help="Ended jobs of everybody, too.")
@click.option("-m", "--mine", is_flag=True, help="Only your own.")
@click.option("-u", "--user", help="Only this user's.")
@state_option("Only in this state; may be repeated.")
@click.option("-n", "--name", help="Only of this name.")
@click.option("--group", metavar="NAME", help="Only of this group.")
@click.option("--label", "labels", metavar="K[=V]", multiple=True, help="Only with this label; may be repeated.")
@click.option("--since", type=SINCE, help="Only those that changed since: 2h (ago), 18:30, 2026-05-01.")
@click.option("--limit", type=POSITIVE, help="At most so many, the newest.")
@click.option("--csv", is_flag=True, help="What each used, as comma-separated values.")
@click.option("--results", "with_results", is_flag=True, help="With --json: what each used, too.")
@shaping.options(fields.JOBS)
@session.display
@click.pass_obj
def list_(
    session: Session,
    /,
    jobs: tuple[str, ...],
    all_: bool,
    state: tuple[str, ...],
    shape: Shape,
    csv: bool,
    with_results: bool,
    **filters: Any,
) -> None:
    """List jobs: everybody's that have not ended, then your own of the last 24 hours.

    An array has one row for what has not started, and one for each element that has.

    \b
      gpuctl list --columns id,state,user,wait,why
      gpuctl list --all --sort -ended_at --format '{id}\\t{state}\\t{exit_code}'
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone
    known = _keys() if shape.format or shape.sort else ()
    check_said(user=filters["user"], name=filters["name"], group=filters["group"])
    if with_results and not session.json:
        raise UsageError("--results is for programs", hint="add --json; or --csv, or gpuctl show JOB")
    if csv and (session.json or shape.columns is not None or shape.format is not None):
        raise UsageError("--csv has columns of its own", hint="leave --json, --columns and --format out")
    asked = {**filters, "jobs": list(jobs), "all": all_, "state": list(state)}
    more = {"results": True} if csv or with_results else {}
    with session.connect() as client:
        reply = client.request("list", **{key: value for key, value in asked.items() if value}, **more)
        simulated = client.welcome is not None and client.welcome["simulated"]
        progress.add(reply["jobs"], client.path)
    # What can still be changed goes first.
    found = shape.sorted(sorted(reply["jobs"], key=lambda job: job["state"] in render.ENDS), known)
    if session.json:
        session.print_json(found)
        if reply["more"]:
            note(_more(len(found), reply["more"], filters["limit"]))
        return
    if csv:
        session.show(results.csv_lines(found))
        if reply["more"]:
            note(_more(len(found), reply["more"], filters["limit"]))
        return
    lines = shape.lines(fields.JOBS, found, render.rows, known)
    if lines:
        session.show(lines)
    elif shape.format is not None:
        pass
    elif any(asked.values()):
        note("no such jobs")
    else:
        note("no jobs; queue one: gpuctl submit -- python train.py")
    if reply["more"]:
        note(_more(len(found), reply["more"], filters["limit"]))
    if reply.get("storage"):
        note(f"{clean(reply['storage'])}; what has started or ended since is not shown")
    if simulated and shape.format is None:
        note(SIMULATED)


def check_said(**filters: str | None) -> None:
    """Raise UsageError for an empty filter: of a variable that was not set, perhaps; left out, it would mean all."""
    for option, value in filters.items():
        if value == "":
            raise UsageError(f"--{option} is empty", hint="say which, or leave it out")


def _more(shown: int, more: int, limit: int | None) -> str:
    """Return how many jobs are not shown, and how to see them."""
    if more >= _COUNTED or shown + more > _MOST or (limit or 0) >= shown + more:
        counted = f"{more} or more" if more >= _COUNTED else f"{more} more"
        return f"{counted} are not shown; narrow it down: --mine, --state, --name, --since, 3-9"
    return f"{more} more; see them with --limit {shown + more}"


def _keys() -> list[str]:
    """Return every key of a job's JSON, whether a job is there to show it or not."""
    from gpud.wire.messages import Job  # noqa: PLC0415 - most listings name no key

    return [*Job.__annotations__, "progress"]
