"""Change jobs: by id, by range, or by what they have in common."""

from collections.abc import Callable
from typing import Any

import click

from gpuctl import session
from gpuctl.commands.list import check_said, state_option
from gpuctl.errors import UsageError
from gpuctl.parse import PRIORITY, jobs_argument
from gpuctl.render.plain import reply
from gpuctl.render.text import plural
from gpuctl.session import Session, note

Callback = Callable[..., Any]


def selection(command: Callback) -> Callback:
    """Give a command jobs, and filters."""
    for parameter in (
        session.options,
        click.option("--group", metavar="NAME", help="Only of this group; without JOB, all of it."),
        state_option("Only in this state."),
        click.option("-u", "--user", help="Only this user's."),
        click.option("-m", "--mine", is_flag=True, help="Only your own; without JOB, all of them."),
    ):
        command = parameter(command)
    return command


def select(
    jobs: tuple[str, ...], mine: bool, user: str | None, state: tuple[str, ...], group: str | None
) -> dict[str, Any]:
    """Return the Selection map. Raises UsageError when it would be everything by oversight."""
    check_said(user=user, group=group)
    asked = {"jobs": list(jobs), "mine": mine, "user": user, "state": list(state), "group": group}
    selection = {key: value for key, value in asked.items() if value}
    if not selection:
        raise UsageError(
            "no job named", hint="name jobs (12, 12_7, 3-9), or say which: --mine, --user, --state, --group"
        )
    return selection


def change(
    session: Session,
    op: str,
    done: str,
    which: dict[str, Any],
    *,
    none: str = "no such jobs",
    must: bool = False,
    **more: Any,
) -> bool:
    """Ask for a change; say what was done, and what was not and why; `none` where nothing was meant.

    `must`: where it could be done to none of the jobs that were named, and was so of none, that is a failure; where the
    named ones are not in the group, too. To cancel what has ended is none, nor is a range in which there is no job.
    Return whether anything was done.
    """
    answer = reply(session.request(op, select=which, **more))
    notes = answer["notes"].values()
    apart = not notes and "group" in which
    failed = must and bool(which.get("jobs")) and not answer["changed"]
    failed &= apart or (bool(notes) and not any(map(_so, notes)))
    if session.json:
        session.print_json(answer)
    else:
        _say(answer, done, none)
    if failed:
        raise click.exceptions.Exit(1)
    return bool(answer["changed"])


def _say(answer: dict[str, Any], done: str, none: str) -> None:
    """Say what became of a change."""
    changed = answer["changed"]
    if changed:
        note(f"{done} {plural(len(changed), 'job')}: {_listed(changed)}")
    for text, jobs in _by_note(answer["notes"]).items():
        note(f"job {jobs[0]} {text}" if len(jobs) == 1 else f"jobs {_listed(jobs)}: {text}")
    if not changed and not answer["notes"]:
        note(none)


def _so(text: str) -> bool:
    """Return whether a note says that it was as asked before: `is held already`."""
    return text == "is not held" or (text.startswith("is ") and text.endswith(" already"))


def _listed(jobs: list[str]) -> str:
    return " ".join(jobs[:10]) + (" ..." if len(jobs) > 10 else "")


def _by_note(notes: dict[str, str]) -> dict[str, list[str]]:
    """Return the jobs that each note is of: what is true of many is said once."""
    jobs: dict[str, list[str]] = {}
    for job, text in notes.items():
        jobs.setdefault(text, []).append(job)
    return jobs


def _waiting(states: tuple[str, ...]) -> tuple[str, ...]:
    """Return the states in which a job waits, of those that were named. Raises UsageError where none is left."""
    wanted = tuple(state for state in ("held", "queued") if not states or state in states)
    if not wanted:
        raise UsageError(f"what is {', '.join(states)} does not wait", hint="leave --waiting out: gpuctl cancel")
    return wanted


@click.command()
@jobs_argument()
@selection
@click.option("--force", is_flag=True, help="Kill at once, without grace.")
@click.option("--waiting", is_flag=True, help="Only what has not started; what runs goes on (gpuctl rm).")
@click.pass_obj
def cancel(session: Session, /, jobs: tuple[str, ...], force: bool, waiting: bool, **filters: Any) -> None:
    """Cancel jobs. One that runs gets TERM, all its processes do, and after its grace KILL."""
    which = select(jobs, **filters)  # before the states are added: rm alone must not be everything that waits
    if waiting:
        which["state"] = list(_waiting(filters["state"]))
    none = "none of these waits; to stop what runs: gpuctl cancel" if waiting else "no such jobs"
    done = change(session, "cancel", "cancelled", which, none=none, **({"force": True} if force else {}))
    if waiting and jobs and not done and _runs(session, jobs):
        raise click.exceptions.Exit(1)


def _runs(session: Session, jobs: tuple[str, ...]) -> bool:
    """Return whether any of these jobs has started and not ended."""
    with session.connect() as client:
        return bool(client.request("list", jobs=list(jobs), state=["starting", "running", "stopping"], limit=1)["jobs"])


@click.command()
@jobs_argument()
@selection
@click.pass_obj
def hold(session: Session, /, jobs: tuple[str, ...], **filters: Any) -> None:
    """Keep waiting jobs from starting until they are released."""
    change(session, "hold", "held", select(jobs, **filters), must=True)


@click.command()
@jobs_argument()
@selection
@click.pass_obj
def release(session: Session, /, jobs: tuple[str, ...], **filters: Any) -> None:
    """Let held jobs start; they queue where they would have."""
    change(session, "release", "released", select(jobs, **filters), must=True)


@click.command()
@jobs_argument()
@selection
@click.pass_obj
def requeue(session: Session, /, jobs: tuple[str, ...], **filters: Any) -> None:
    """Run jobs again from the start, under the same id; one that runs is stopped first.

    Without JOB, ended jobs are meant where a state says so: --mine --state failed; the newest 1000 of them. What has
    ended does not run again where no more jobs may wait (max_queued).
    """
    ended = "none of these waits or runs; what has ended is named by its state: --state failed"
    none = "no such jobs" if jobs else "no such jobs, or others have their keys" if filters["state"] else ended
    change(session, "requeue", "requeued", select(jobs, **filters), none=none, must=True)


@click.command(context_settings={"ignore_unknown_options": True})  # -5 is a priority
@jobs_argument()
@click.argument("priority", type=PRIORITY, metavar="N")
@selection
@click.pass_obj
def priority(session: Session, /, jobs: tuple[str, ...], priority: int, **filters: Any) -> None:
    """Set the priority of jobs to N: the higher one goes first."""
    which = select(jobs, **filters)
    change(session, "priority", f"set priority {priority} of", which, must=True, priority=priority)
