"""The loop that joins all parts: inputs in one batch, one decision, one commit, then effects, then answers.

Nothing becomes visible before it is durable. A commit that fails is a small crash: the world is loaded again from the
store, the batch's requests are refused, its observations come back to the inbox; there is no undo. The loop waits for
no disk: the one writer is a thread, and what arrives meanwhile is the next batch.
"""

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor

from gpud.answers import Answers
from gpud.chores.upkeep import Upkeep
from gpud.core.choice import world_of
from gpud.core.commands import Asked
from gpud.core.cycle import Input
from gpud.core.outcome import Outcome
from gpud.core.restore import carry_over, restore
from gpud.core.world import World
from gpud.errands import Errands, warnings
from gpud.inbox import Inbox
from gpud.instance import Instance
from gpud.intake.submitting import once_each
from gpud.launchers.protocol import LaunchOrder
from gpud.looking import Looking
from gpud.model.changes import Change
from gpud.model.effects import Effect, Forget, Launch, Look, ReadGpus, SetLimit
from gpud.model.job import Exit, Fault
from gpud.model.observations import Exited, GpuSeen, NodeSeen, Observation, Started, XidSeen
from gpud.model.spec import JobSpec
from gpud.model.units import Timestamp
from gpud.notices.sending import Notices
from gpud.orders import order_for
from gpud.parts import Parts
from gpud.people.names import Names
from gpud.people.roles import Roles, check_right
from gpud.requests import Requests, refuse
from gpud.server.connections import Peer
from gpud.settings.config import Config
from gpud.store.files import StoreError
from gpud.store.jobs import NonceTakenError
from gpud.store.rows import Committed, Loaded
from gpud.subscriptions import Subscriptions
from gpud.views.statistics import Cycles
from gpud.wire.check import Wrong
from gpud.wire.codec import Message

log = logging.getLogger(__name__)

_RETRY_S = 1.0  # after a failed commit: observations wait this long before they are tried again
_FINISH_S = 3.0
_STARTED_S = 0.02  # how long a start may wait for the next batch: commits are what short jobs cost most


class Daemon:
    """One gpud. Made on the event loop's thread; `on_request` and `on_gone` are the server's.

    `on_config` is told of each configuration that was read again.
    """

    def __init__(self, parts: Parts, loaded: Loaded) -> None:
        self._parts = parts
        names = Names()
        world, self._looks = _world_of(parts.config, parts.boot, loaded)
        self._gpud = gpud = Instance(
            parts=parts,
            world=world,
            config=parts.config,
            names=names,
            roles=Roles(parts.config, names),
            started_at=parts.clock(),
            last_event=loaded.last_event,
        )
        self._writer = ThreadPoolExecutor(1, "gpud-write")
        self._inbox: Inbox[Input] = Inbox()
        self._stopping = False
        self._lost: StoreError | None = None
        self._reconfigured = False
        self.on_config: Callable[[Config], None] = lambda _: None
        self._cycles = Cycles()
        self._wake_at: Timestamp | None = None
        self._put_off: list[Input] = []  # what was seen when a commit failed, in its order
        self._retry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions = Subscriptions(gpud)
        self._looking = Looking(gpud, self._subscriptions)
        self.upkeep = Upkeep(gpud, writer=self._writer, notice=self._inbox.post, settings=loaded.settings)
        self._notices = Notices(gpud)
        self._errands = Errands(gpud)
        self._requests = Requests(gpud, post=self._inbox.post, notices=self._notices, errands=self._errands)
        self._answers = Answers(gpud, notices=self._notices, cycles=self._cycles, fresh=self._looking.at_all)

    @property
    def world(self) -> World:
        """Return the daemon's memory."""
        return self._gpud.world

    def on_request(self, peer: Peer, message: Message) -> None:
        """Take a checked request; where nothing is left to store into, say so: what is known here is known no more."""
        if not self.still_here() and self._lost is not None:
            peer.error(message["id"], {"code": "storage", "message": str(self._lost), "hint": self._lost.hint})
        elif message["op"] == "subscribe":
            self._spawn(self._subscribe(peer, message))
        else:
            self._requests.take(peer, message)

    def on_gone(self, peer: Peer) -> None:
        """Forget a client."""
        self._subscriptions.gone(peer)
        self._requests.forget(peer)
        self._looking.follow_watchers()

    def still_here(self) -> bool:
        """Return whether there is still something to store into; end, where there is not."""
        try:
            self._parts.check()
        except StoreError as error:
            self._lost = error
            self.stop()
        return self._lost is None

    def stop(self) -> None:
        """Finish what is at hand and end; jobs run on."""
        self._stopping = True
        self._inbox.wake()

    async def begin(self) -> None:
        """Look at what an earlier gpud left running, and at the hardware."""
        await self._parts.launcher.start(self._observe)
        for look in self._looks:
            self._parts.launcher.perform(look)
        self._parts.launcher.keep((job, active.place.attempt) for job, active in self.world.active.items())
        self._tell_held()
        self._parts.inventory.start(self._see)
        await self._gpud.roles.begin(self._gpud.config)
        self._notices.begin()
        self._errands.begin()
        gc.collect()
        gc.freeze()

    async def run(self) -> None:
        """Decide, until told to stop. Raises StoreError when there is nothing to store into any more.

        Raises also what is our own fault: nothing of that batch was made durable.
        """
        loop = asyncio.get_running_loop()
        self.upkeep.begin()
        try:
            while not self._stopping:
                if self._reconfigured:  # between turns: a world loaded beside a commit would lack what it makes durable
                    self._reconfigured = False
                    await self._load_again()
                    self.upkeep.report_unkept()
                until = None
                if self._wake_at is not None:
                    until = loop.time() + max(0.0, self._wake_at - self._parts.clock())
                batch = await self._inbox.drain(until)
                await self._turn(self._without_repeats(batch))
        finally:
            self.upkeep.end()
        if self._lost is not None:
            raise self._lost

    async def finish(self) -> None:
        """Decide and answer what has been asked already, for a moment at most."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _FINISH_S
        while (self._requests.busy or self._answers.busy or self._tasks) and loop.time() < end:
            await self._turn(self._without_repeats(await self._inbox.drain(loop.time() + 0.02)))
        await self.upkeep.went_down()

    async def close(self) -> None:
        """Leave everything as it is: jobs run on, and the next gpud finds them."""
        self._gpud.roles.end()
        for task in list(self._tasks):
            task.cancel()
        await self._notices.close()
        self._parts.inventory.close()
        await self._parts.launcher.close()
        self._writer.shutdown()
        self._parts.reader.close()
        self._parts.store.close()

    def reconfigure(self, config: Config) -> None:
        """Take a configuration that was read again; only what may change in a running gpud is different in it."""
        log.info("configuration read again")
        self._gpud.config = config
        self._reconfigured = True
        self.on_config(config)
        self._gpud.names.forget()
        self._gpud.roles.follow(config)
        self._inbox.wake()

    def _observe(self, seen: Observation) -> None:
        """Take what the launcher saw. That a job started is safe in its record; a short one's end comes with it."""
        if self._errands.observed(seen) or self._notices.observed(seen):
            return
        if isinstance(seen, Started):
            self._inbox.post_soon(seen, _STARTED_S)
        else:
            self._inbox.post(seen)

    def _see(self, seen: GpuSeen | NodeSeen | XidSeen) -> None:
        """Take what the inventory saw; from any thread."""
        self._inbox.post_threadsafe(
            NodeSeen(self._gpud.config.labelled(seen.node)) if isinstance(seen, NodeSeen) else seen
        )

    async def _turn(self, batch: Sequence[Input]) -> None:
        now = self._parts.clock()
        batch = self._with_put_off(batch)
        outcome = self._cycles.timed(self.world, batch, now)
        self._wake_at = outcome.wake_at
        launches = [effect for effect in outcome.effects if isinstance(effect, Launch)]
        committed = Committed((), ())
        if outcome.changes:
            lost = None if self.still_here() else self._lost
            if lost is not None:
                self._refuse_batch(batch, lost)
                return
            wanted = [(effect.job, effect.attempt) for effect in launches]
            loop = asyncio.get_running_loop()
            try:
                committed = await loop.run_in_executor(self._writer, self._parts.store.commit, outcome.changes, wanted)
            except NonceTakenError as taken:
                await self._load_again(outcome.changes)
                self._answer_known(batch, taken)
                return
            except StoreError as error:
                if str(error) != str(self._gpud.not_stored):  # it is tried again and again
                    log.error("%s", error)  # noqa: TRY400 - the world's fault, told in its own words
                self._gpud.not_stored = error
                await self._load_again(outcome.changes)
                self._wake_at = Timestamp(now + _RETRY_S)
                self._refuse_batch(batch, error)
                return
            if self._gpud.not_stored is not None:
                log.warning("what is asked is kept again")
            self._gpud.not_stored = None
        self.upkeep.report_alerts(outcome.changes)
        for job, text in warnings(outcome.changes):
            self._spawn(self._errands.say(job, text))
        self._perform(outcome, dict(zip(launches, committed.specs, strict=True)))
        self._notice(batch)
        for token, reply in outcome.replies:
            self._requests.answer(token, reply)
        for token in outcome.asked:
            self._answers.take(*self._requests.asked(token))
        self._subscriptions.publish(committed.events)
        self._notices.publish(committed.events)
        if committed.events:
            self.upkeep.status_changed()

    def _perform(self, outcome: Outcome, specs: dict[Launch, JobSpec]) -> None:
        """Make visible what is durable now."""
        if any(not isinstance(effect, Look | ReadGpus) for effect in outcome.effects):
            self._tell_held()
        for effect in sorted(outcome.effects, key=_may_wait):
            if isinstance(effect, ReadGpus):
                self._parts.inventory.read(effect.gpus)
            elif isinstance(effect, Launch):
                means, offset = self._parts.launcher.means, self._parts.clock.offset
                order = order_for(self._gpud.config, self.world, effect, specs[effect], offset, means)
                self._launch(effect, order)
            else:
                self._parts.launcher.perform(effect)

    def _launch(self, effect: Launch, order: LaunchOrder) -> None:
        """Launch a job, once it is known that its user is who they were; where the name service is away, they are."""
        terms = order.spec.terms
        if order.uid is None or terms.user in {str(order.uid), self._gpud.names.known_now(order.uid)}:
            self._parts.launcher.perform(effect, order)
            return

        async def launch(uid: int) -> None:
            now = await self._gpud.names.now(uid)
            if now in {None, terms.user}:
                self._parts.launcher.perform(effect, order)
                return
            fault = Fault(
                f"uid {uid} is {'nobody' if now == str(uid) else now} now, and was {terms.user}", machine=True
            )
            self._observe(Exited(effect.job, effect.attempt, Exit(at=self._parts.clock(), fault=fault)))

        self._spawn(launch(order.uid))

    def _tell_held(self) -> None:
        """Let simulated GPUs look as busy as they are."""
        held = {gpu: len(state.holders) for gpu, state in self.world.gpus.items() if state.holders}
        self._parts.inventory.follow(held)

    def _notice(self, batch: Sequence[Input]) -> None:
        """Wake those who wait for the inventory."""
        read = {each.gpu for each in batch if isinstance(each, GpuSeen)}
        if any(isinstance(each, NodeSeen) for each in batch):
            self._gpud.seen.set()
            self.upkeep.report_nodes(batch)
            self.upkeep.status_changed()
        if read:
            self._looking.seen(read)

    async def _subscribe(self, peer: Peer, message: Message) -> None:
        try:
            check_right(self._gpud.roles.of(peer), "subscribe")
            await self._subscriptions.add(peer, message)
        except Wrong as wrong:
            refuse(peer, message, wrong)
        except StoreError as error:  # the past cannot be read: better no events than some with a gap
            peer.cut(str(error))
        self._looking.follow_watchers()

    async def _load_again(self, lost: Sequence[Change] = ()) -> None:
        """Forget the world, and what was `lost` of it, and load it from the store; what was seen of the hardware stays.

        The launcher has forgotten nothing, so nothing needs to be looked at.
        """
        loaded = await asyncio.get_running_loop().run_in_executor(self._writer, self._parts.store.load)
        before = self.world
        self._gpud.world, _ = _world_of(self._gpud.config, self._parts.boot, loaded)
        for node in before.nodes.values():
            if node.present:
                self.world.see_node(self._gpud.config.labelled(node.node))
        carry_over(before, self.world, lost)
        self._wake_at = self._parts.clock()

    def _without_repeats(self, batch: list[Input]) -> list[Input]:
        """Put off a submit that is here twice until the first is durable: then the store knows its nonce."""
        first, again = once_each(batch)
        self._post_all(again)
        return first

    def _answer_known(self, batch: Sequence[Input], taken: NonceTakenError) -> None:
        for each in batch:
            if isinstance(each, Observation):
                self._put_off.append(each)  # what came meanwhile stays behind it: an end behind its start
            elif not self._requests.accepted_before(each, taken.jobs):
                self._inbox.post(each)
        self._inbox.wake()

    def _refuse_batch(self, batch: Sequence[Input], error: StoreError) -> None:
        observed: list[Input] = []
        for each in batch:
            if isinstance(each, Observation):
                observed.append(each)
            elif isinstance(each, Asked):
                self._answers.take(*self._requests.asked(each.token))
            else:
                self._requests.fail(each.token, error)
        self._put_off += observed
        if self._put_off and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._inbox.wake()

    def _with_put_off(self, batch: Sequence[Input]) -> Sequence[Input]:
        """Return a batch, behind what was put off where it is time, or a job's end might come before its start."""
        if self._retry is not None and not any(isinstance(each, Started | Exited) for each in batch):
            return batch
        put_off, self._put_off = self._put_off, []
        return [*put_off, *batch]

    def _post_all(self, items: Sequence[Input]) -> None:
        for each in items:
            self._inbox.post(each)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a request was not answered", exc_info=task.exception())


def _may_wait(effect: Effect) -> bool:
    """Return whether nobody waits for an effect: the record of what ended may go after the next job was started."""
    return isinstance(effect, Forget)


def _world_of(config: Config, boot: str, loaded: Loaded) -> tuple[World, list[Look | SetLimit]]:
    world = world_of(config.rules, boot)
    looks = restore(
        world,
        nodes=loaded.nodes,
        waiting=loaded.waiting,
        others=loaded.others,
        settings=loaded.settings,
        next_number=loaded.next_number,
        runs=loaded.runs,
        accounts=loaded.accounts,
        grouped=loaded.grouped,
    )
    return world, looks
