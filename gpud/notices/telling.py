"""What events come to, for those who asked to be told: which notices, in which words."""

import json
import socket
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from gpud.instance import Instance
from gpud.model.job import End, JobId, format_job, index_of
from gpud.model.units import Timestamp, format_duration
from gpud.store.outbox import Notice
from gpud.store.rows import Event, JobRow
from gpud.views.seeing import as_its_owner

_ENDS = frozenset(End)
_KINDS = {
    "start": frozenset({"running"}),
    "end": _ENDS,
    "success": frozenset({End.COMPLETED}),
    "failure": frozenset({End.FAILED, End.TIMED_OUT, End.LOST}),
    "cancelled": frozenset({End.CANCELLED}),
}
_MAY_WAIT = frozenset({"submitted", "updated"})
_OF_INTEREST = _ENDS | _MAY_WAIT | {"running"}
_SAYS = {
    "running": "has started",
    "timed_out": "reached its time limit",
    "lost": "is lost",
    "cancelled": "was cancelled",
}


class Telling:
    """Makes notices of events.

    `waiting` gathers the jobs, and when they were submitted, whose long wait somebody wants to hear of; of one whose
    notices were changed meanwhile, once more.
    """

    def __init__(self, gpud: Instance) -> None:
        self._gpud = gpud
        self.waiting: list[tuple[JobId, Timestamp]] = []

    def of_alerts(self, events: Sequence[Event], targets: Sequence[str]) -> list[Notice]:
        """Return what alerts come to, for those who are to be told of every one."""
        notices = []
        for event in events if targets else ():
            if event.kind == "alert":
                text = str(event.detail.get("message", "something needs to be looked at"))
                data = {"event": "alert", "at": _written(event.at), "host": socket.gethostname(), **event.detail}
                body = json.dumps({"title": "gpud: alert", "text": text, "data": {**data, "text": text}})
                notices += [
                    Notice(at=event.at, uid=None, job=event.job, event="alert", target=target, body=body)
                    for target in targets
                ]
        return notices

    async def of_jobs(
        self, events: Sequence[Event], late: Sequence[JobId], now: Timestamp, told: Collection[tuple[JobId, str]]
    ) -> list[Notice]:
        """Return what jobs' events come to. Elements of arrays are not told of one by one: their array is.

        `late` have waited for long, of which those who are `told` have heard.
        """
        of_jobs = [(event.job, event) for event in events if event.job is not None and index_of(event.job) is None]
        jobs = {job for job, event in of_jobs if event.kind in _OF_INTEREST} | set(late)
        if not jobs:
            return []
        rules = await self._gpud.reader.run(lambda reader: reader.notice_rules(sorted(jobs)))
        notices: list[Notice] = []
        for job, event in of_jobs:
            if event.kind in _MAY_WAIT and any(word == "waiting" for word, _ in rules.get(job, ())):
                self.waiting.append((job, await self._submitted_at(job, event)))
            for word, target in rules.get(job, ()):
                if event.kind in _KINDS.get(word, ()):
                    notices += await self._of_job(job, word, target, event.at, event.kind)
                elif word == "group" and event.kind in _ENDS:
                    notices += await self._of_group(job, target, event.at)
        for job in dict.fromkeys(late):
            for word, target in rules.get(job, ()):
                if word == "waiting" and (job, target) not in told:
                    notices += await self._of_job(job, word, target, now, None)
        return notices

    async def _submitted_at(self, job: JobId, event: Event) -> Timestamp:
        row = None if event.kind == "submitted" else await self._gpud.reader.run(lambda reader: reader.job(job))
        return event.at if row is None else row.submitted_at

    async def _of_job(self, job: JobId, word: str, target: str, at: Timestamp, kind: str | None) -> list[Notice]:
        """Return the notice that a job did this; of one that is said to wait, only if it does."""
        row = await self._gpud.reader.run(lambda reader: reader.job(job))
        if row is None or (kind is None and row.state not in {"queued", "held"}):
            return []
        shown = as_its_owner(self._gpud, row)
        says = f"has waited for {format_duration(at - row.submitted_at)}" if kind is None else _SAYS.get(kind, kind)
        reason = None if kind == "running" else shown.get("reason")  # which may be of its end already
        text = f"job {format_job(job)} ({row.name}) {says}" + (f": {reason}" if reason else "")
        return [self._notice(row, word, target, at, text, {"job": _plain(shown)})]

    async def _of_group(self, job: JobId, target: str, at: Timestamp) -> list[Notice]:
        """Return the notice that a group is done, once nothing of it is left to run."""
        row = await self._gpud.reader.run(lambda reader: reader.job(job))
        if row is None or row.group is None:
            return []
        counts = await self._gpud.reader.run(lambda reader: reader.group_ended_with(job))
        if counts is None:
            return []
        told = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in sorted(counts.items()))
        return [
            self._notice(
                row, "group", target, at, f"group {row.group} is done: {told}", {"group": row.group, "counts": counts}
            )
        ]

    def _notice(self, row: JobRow, word: str, target: str, at: Timestamp, text: str, data: dict[str, Any]) -> Notice:
        whole = {"event": word, "at": _written(at), "host": socket.gethostname(), "text": text, **data}
        body = json.dumps({"title": f"gpud: {text.partition(':')[0]}", "text": text, "data": whole})
        return Notice(at=at, uid=row.terms.uid, job=row.job, event=word, target=target, body=body)


def _written(at: Timestamp) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job as `gpuctl show --json` prints it: moments as RFC 3339."""
    return {key: _written(value) if key.endswith("_at") and value is not None else value for key, value in job.items()}
