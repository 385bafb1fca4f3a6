"""The whole of it, as `status`, `watch` and `demo` show it: gpud, the GPUs, and the jobs that matter most first."""

from typing import Any

from gpuctl.client import Client
from gpuctl.following import progress
from gpuctl.render.jobs import ACTIVE, ENDS
from gpuctl.render.plain import reply

_WAITING = ("queued", "held")


def look(client: Client, *, most: int, fresh: bool = False) -> dict[str, Any]:
    """Return gpud's `status`, the `gpus`, and `jobs`: what runs, what waits, what of one's own has ended last.

    At most `most` jobs of each of the three; a long queue is not read whole for one screen.
    """
    seen = joined([client.request(op, **fields) for op, fields in requests(most=most, fresh=fresh)])
    progress.add(seen["jobs"], client.path)
    return seen


def requests(*, most: int, fresh: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """Return what `look` asks."""
    return [
        ("list", {"state": sorted(ACTIVE), "limit": most}),
        ("list", {"state": _WAITING, "limit": most}),
        ("list", {"state": sorted(ENDS), "mine": True, "limit": most}),
        ("gpus", {"fresh": fresh}),
        ("status", {}),
    ]


def joined(replies: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what `look` returns, of the replies to its requests."""
    active, waiting, ended = (answer["jobs"] for answer in replies[:3])
    return {
        "status": reply(replies[4]),
        "gpus": replies[3]["gpus"],
        "jobs": [*active, *sorted(waiting, key=_place), *sorted(ended, key=lambda job: -(job["ended_at"] or 0))],
    }


def unshown(seen: dict[str, Any], shown: int) -> int:
    """Return how many unfinished jobs there are beyond the first `shown` rows."""
    counts = seen["status"]["jobs"]
    unfinished: int = sum(count for state, count in counts.items() if state not in ENDS)
    return max(0, unfinished - shown)


def _place(job: dict[str, Any]) -> tuple[int, int]:
    place = job["queue_position"]
    return (1, 0) if place is None else (0, place)
