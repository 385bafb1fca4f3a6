"""Who is pushed what: events as they become durable, and word that GPUs were read anew. Nobody has to poll."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from gpud.instance import Instance
from gpud.intake.selection import merged, parse_jobs, within
from gpud.model.job import JobId
from gpud.server.allowance import allows
from gpud.server.connections import Peer
from gpud.store.reader import Reader
from gpud.store.rows import Event
from gpud.views.jobs import Viewer, event_map
from gpud.views.seeing import viewer_of
from gpud.wire.check import Wrong
from gpud.wire.codec import Message

_PAGE = 1_000


@dataclass(slots=True, eq=False)
class _Subscription:
    peer: Peer
    viewer: Viewer
    spans: list[tuple[JobId, JobId]] | None  # merged
    readings: bool
    late: list[Event] | None = field(default_factory=list)  # what happened while the past was being sent

    def wants(self, event: Event) -> bool:
        if self.spans is None:
            return True
        return event.job is not None and within(event.job, self.spans)


class Subscriptions:
    """All subscriptions; they end with their connections."""

    def __init__(self, gpud: Instance) -> None:
        self._gpud = gpud
        self._all: list[_Subscription] = []

    @property
    def readings_wanted(self) -> bool:
        """Return whether anybody looks at GPUs."""
        return any(each.readings for each in self._all)

    async def add(self, peer: Peer, message: Message) -> None:
        """Begin to push to this client: first, where it asked for it, what happened since. Raises Wrong, StoreError."""
        most = self._gpud.config.subscriptions_per_user
        spans = merged(word.span for word in parse_jobs(message["jobs"])) if "jobs" in message else None
        if not allows(most, peer.uid, 1 + sum(each.peer.uid == peer.uid for each in self._all)):
            hint = "try again when one has ended: each watch, wait and run, and what follows logs, has one"
            raise Wrong(f"you have {most} subscriptions already", hint, "busy")
        subscription = _Subscription(peer, viewer_of(self._gpud, peer), spans, message.get("readings", False))
        last = self._gpud.last_event
        if peer.closed:  # it hung up before its turn came, and nobody would ever take it off the list
            return
        self._all.append(subscription)
        peer.reply(message["id"], {"last": last})
        since = message.get("since", last)
        while since < last and not peer.closed:
            past = await self._gpud.reader.run(partial(Reader.events, since=since, spans=spans, limit=_PAGE))
            _push(subscription, (event for event in past if event.seq <= last))
            since = past[-1].seq if len(past) == _PAGE else last
        late, subscription.late = subscription.late, None
        _push(subscription, late or ())

    def gone(self, peer: Peer) -> None:
        """Forget a client that hung up."""
        self._all = [each for each in self._all if each.peer is not peer]

    def publish(self, events: Sequence[Event]) -> None:
        """Push events that are durable now."""
        if events:
            self._gpud.last_event = events[-1].seq
        for each in self._all:
            wanted = [event for event in events if each.wants(event)]
            if each.late is not None:
                each.late += wanted
            else:
                _push(each, wanted)

    def publish_readings(self) -> None:
        """Tell those who look that GPUs were read."""
        for each in self._all:
            if each.readings:
                each.peer.push({"readings": True})


def _push(to: _Subscription, events: Iterable[Event]) -> None:
    for event in events:
        to.peer.push({"event": event_map(event, to.viewer)})
