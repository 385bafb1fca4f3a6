"""`Client.map`: a function over items, as one array of jobs; what its blocking and its asynchronous form share."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from gpuctl.client import Client, ConnectionLostError
from gpuctl.errors import GpuctlError
from gpuctl.following import waiting
from gpuctl.python import wanted
from gpuctl.python.calling import Calls
from gpuctl.render.jobs import ENDS
from gpuctl.submitting import submission

WAITING = ("held", "queued")

Fields = dict[str, Any]


class Mapping:
    """A function over items: the `fields` of its submit, and what comes of its array's elements. `close` it."""

    def __init__(
        self,
        fn: Callable[..., Any],
        items: Sequence[Any],
        at_once: int | None,
        options: wanted.Options,
        *,
        raises: bool,
    ) -> None:
        check(options)
        self._items = len(items)
        self._raises = raises
        self._first: Exception | None = None
        self._stuck = waiting.Stuck()
        self.calls = Calls()
        try:
            self.calls.function(fn)
            for number, item in enumerate(items):
                self.calls.add(number, ((item,), {}))
            spec = f"0-{len(items) - 1}" + ("" if at_once is None else f"%{at_once}")
            named: wanted.Options = {"name": name_of(fn), **options, "array": spec}
            self.fields: Fields = {"nonce": submission.new_nonce(), **wanted.job(self.calls.command(), named)}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the calls and their results."""
        self.calls.remove()

    def is_due(self, array: str, pushed: Sequence[dict[str, Any]]) -> bool:
        """Return whether to look at the array: it has ended, or is held, or an element's end is to end the others."""
        events = [message["event"] for message in pushed if "event" in message]
        ends = [event for event in events if event["kind"] in ENDS]
        early = self._raises and self._first is None
        held = any(event["job"] == array and event["kind"] == "held" for event in events)
        return held or any(event["job"] == array or (early and event["kind"] != "completed") for event in ends)

    def fails(self, answer: dict[str, Any]) -> bool:
        """Return whether what has not begun is to be cancelled, by what `show` says of the array: one went wrong.

        As of the standard library's executors, calls that run come to their own end. Says of an array that is held why.
        """
        self._stuck.tell(answer["job"])
        if not self._raises or self._first is not None or answer["job"]["state"] in ENDS:
            return False
        ends = [row for row in answer.get("elements") or () if row["state"] in ENDS and row["state"] != "completed"]
        if ends:
            row = min(ends, key=lambda row: float(row["ended_at"]))
            self._first = self.calls.outcome(row["array_index"], row)[1]
        return self._first is not None

    def results(self, answer: dict[str, Any]) -> list[Any]:
        """Return the results, in order, of an array that has ended; raise what was raised first, if that is wanted."""
        array = answer["job"]
        rows = {row["array_index"]: row for row in answer.get("elements") or ()}
        never = {**array, "state": "cancelled", "output": None, "array_counts": None}
        found = []
        for number in range(self._items):
            row = rows.get(number) or {**never, "id": f"{array['id']}_{number}"}
            value, error = self.calls.outcome(number, row)
            if error is not None and self._raises:
                raise self._first or error
            found.append(value if error is None else error)
        return found


def check(options: wanted.Options) -> None:
    """Raise TypeError for what jobs that make calls cannot have."""
    if "array" in options:
        raise TypeError("what is called is in a job of its own: no array; at_once says how many of a map run at a time")
    if "key" in options:  # the job that has it already may be another's, and its result has been read
        raise TypeError("a call has no key: its result is for who calls, once")


def name_of(fn: Callable[..., Any]) -> str:
    """Return what a function's jobs are called."""
    name = str(getattr(fn, "__name__", None) or type(fn).__name__)
    return "lambda" if name == "<lambda>" else name


def run(mapping: Mapping, client: Client, within_s: float | None) -> list[Any]:
    """Queue it, and wait for what comes of it. Raises TimeoutError; what was not waited for is cancelled."""
    array = client.request("submit", **mapping.fields)["job"]
    try:
        answer = _ended(mapping, client, array, within_s)
    except BaseException:  # an interrupt, too: nobody waits for them any more
        with contextlib.suppress(GpuctlError):
            client.request("cancel", select={"jobs": [array]})
        raise
    return mapping.results(answer)


def _ended(mapping: Mapping, client: Client, array: str, within_s: float | None) -> dict[str, Any]:
    """Return what `show` says of the array once it has ended."""
    deadline = waiting.deadline(within_s)
    while True:
        try:
            waiting.subscribe(client, [array])
            while True:
                answer = client.request("show", job=array, soon=True)
                if answer["job"]["state"] in ENDS:
                    return answer
                if mapping.fails(answer):
                    client.request("cancel", select={"jobs": [array], "state": list(WAITING)})
                while not mapping.is_due(array, waiting.pushed(client, deadline)):
                    pass
        except ConnectionLostError as lost:
            waiting.await_back(client, lost, deadline)
