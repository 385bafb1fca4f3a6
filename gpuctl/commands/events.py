"""What happened, from the store's own numbered list."""

from collections.abc import Iterable
from typing import Any

import click

from gpuctl import session
from gpuctl.client import Client, ConnectionLostError
from gpuctl.following.logs import Changes
from gpuctl.following.waiting import await_back
from gpuctl.parse import POSITIVE, jobs_argument
from gpuctl.render.plain import is_time
from gpuctl.render.text import clean, clock
from gpuctl.session import Session, note


@click.command()
@jobs_argument()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now.")
@click.option("-n", "--limit", type=POSITIVE, help="At most so many old ones (default: 50).")
@session.display
@click.pass_obj
def events(session: Session, jobs: tuple[str, ...], follow: bool, limit: int | None) -> None:
    """List what happened, the newest last; of these jobs, or of everything."""
    narrowed = {"jobs": list(jobs)} if jobs else {}
    with session.connect() as client:
        reply = client.request("events", limit=limit or 50, **narrowed)
        if session.json and not follow:
            session.print_json(reply["events"])
            return
        _print(session, reply["events"])
        if not reply["events"] and not follow:
            note("nothing happened yet")
        if follow:
            _follow(session, client, reply["last"], narrowed)


def _follow(session: Session, client: Client, last: int, narrowed: dict[str, Any]) -> None:
    while True:
        changes = Changes((), [client.fileno()], reader=1)
        try:
            client.request("subscribe", since=last, **narrowed)
            while True:
                if not client.has_pushed():
                    changes.wait()
                for message in client.pushed(wait=False):
                    if "event" in message:
                        last = message["event"]["seq"]
                        _print(session, [message["event"]])
        except ConnectionLostError as lost:
            await_back(client, lost)
        finally:
            changes.close()


def _print(session: Session, events: Iterable[dict[str, Any]]) -> None:
    for event in events:
        if session.json:
            session.print_json(event)
        else:
            click.echo(line(event))


def line(event: dict[str, Any]) -> str:
    """Return an event in a line: when, what, of which job, and what else is known."""
    job = "" if event["job"] is None else f"job {event['job']}"
    known = {key: value for key, value in (event["detail"] or {}).items() if value not in (None, "", [], {})}
    by = known.pop("by", None) or event["user"]
    detail = " ".join(f"{key}={clock(value) if is_time(key) else _written(value)}" for key, value in known.items())
    words = (clock(event["at"]), f"{event['kind']:<10}", job, f"by {by}" if by else "", detail)
    return clean("  ".join(word for word in words if word).rstrip())


def _written(value: Any) -> str:
    """Return a value as people read it: lists and maps with commas."""
    if isinstance(value, list):
        return ",".join(map(_written, value))
    if isinstance(value, dict):
        return ",".join(f"{key}:{_written(each)}" for key, each in value.items())
    return str(value)
