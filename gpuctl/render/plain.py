"""JSON for programs: gpud's own maps, with times that people's tools read."""

import json
import time
from typing import Any


def to_json(document: object) -> str:
    """Return JSON on one line: a time is RFC 3339 in UTC, to the millisecond."""
    return json.dumps(plain(document))


def plain(value: Any) -> Any:
    """Return a value with its times written out, however deep they lie."""
    if isinstance(value, dict):
        return {key: _written(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def rfc3339(at: float) -> str:
    """Return seconds since 1970 as `2026-05-01T18:30:00.000Z`."""
    milliseconds = round(at * 1000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{whole}.{milliseconds % 1000:03}Z"


def is_time(key: str) -> bool:
    """Return whether a key of the protocol holds a moment."""
    return key in {"at", "not_before", "since", "idle_since"} or key.endswith("_at")


def reply(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what a reply says, without what only the protocol needs."""
    return {key: value for key, value in answer.items() if key not in ("id", "ok")}


def _written(key: str, value: Any) -> Any:
    if is_time(key) and isinstance(value, (int, float)):
        return rfc3339(value)
    return plain(value)
