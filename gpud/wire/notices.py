"""Whom to tell of what: a page of the protocol, whose first, `messages`, says how anything is asked."""

import re
from typing import Literal, NotRequired, TypedDict

EVENTS = ("start", "end", "success", "failure", "cancelled", "waiting", "group")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:.", re.IGNORECASE | re.DOTALL)
_WEB = re.compile("https?:", re.IGNORECASE)
_ADDRESS = re.compile(
    r"https?://(?:[^/?#@\s]*@)?(?:\[[^\]\s]+\]|[^/?#:@\s]+)(?::(\d{1,5}))?(?:[/?#]\S*)?", re.IGNORECASE
)
_TARGET_MOST = 4_096


class Notices(TypedDict):
    """What was told to whom, or could not be: the newest, oldest first. Reply: `notices`, a list of `NoticeMap`.

    An admin sees everybody's, others their own.
    """

    op: Literal["notices"]
    id: int
    job: NotRequired[str]
    limit: NotRequired[int]


class NoticeMap(TypedDict):
    """One notice to one target. `state` is `due`, `sending`, `sent` or `failed`; `log`: what its delivery printed."""

    number: int
    at: float
    job: str | None
    event: str
    target: str
    state: str
    tries: int
    due_at: float | None
    ended_at: float | None
    error: str | None
    log: str


def parse_rule(text: str) -> list[tuple[str, str]]:
    """Return the pairs of event and target that `[EVENT,...=]TARGET` means. Raises ValueError."""
    words, equals, rest = text.partition("=")
    events = [word.strip() for word in words.split(",")]
    if not equals or not all(re.fullmatch("[a-z]+", word) for word in events):
        events, rest = ["end"], text
    for event in events:
        check_rule(event, rest)
    return [(event, rest) for event in dict.fromkeys(events)]


def check_rule(event: str, target: str) -> None:
    """Raise ValueError, saying what would be understood, for an event or a target that there is not."""
    if event not in EVENTS:
        raise ValueError(f"{event!r} is nothing to be told of; there is: {', '.join(EVENTS)}")
    if len(target) > _TARGET_MOST or (target != "desktop" and not _SCHEME.match(target)):
        raise ValueError(
            f"{target[:100]!r} is nobody to tell; write https://..., command:..., desktop, mailto:you@example.org"
        )
    if _WEB.match(target) and not _is_address(target):
        raise ValueError(f"{target[:100]!r} is no address of the web; write https://example.org/hook")
    if any(ord(letter) < 32 for letter in target):
        raise ValueError("whom to tell holds control characters")


def _is_address(target: str) -> bool:
    found = _ADDRESS.fullmatch(target)
    return found is not None and 0 < int(found[1] or 1) < 1 << 16  # a larger port would be another one's


NOTICES: dict[str, type] = {"notices": Notices}
