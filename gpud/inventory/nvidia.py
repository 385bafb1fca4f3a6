"""NVIDIA's GPUs, looked at from threads that may hang without holding up anything.

A driver call can take milliseconds or for ever (a process in D state). So each GPU has a thread of its own for its
looks, and the survey that finds the GPUs has one. Another, which makes no driver calls, keeps the time: it says of
a look that is overdue that the GPU does not answer, and starts the looks of `watch`. A thread that comes back late
looks again, and its GPU is well again without anybody's doing. All of them exist from the start: a machine whose
jobs have used up its processes can still be read. Who a GPU is, a survey asks in a thread for the one question; it
goes on without a GPU that does not answer in time, which is taken up when it does. How GPUs are linked is asked in the
same way, once for those that there are; without an answer they are all there, and not known to be linked.

An idle inventory asks the driver for the number of GPUs every `rescan_s` seconds, and of those that MIG can split
which instances there are: nothing else tells of a change. While a GPU that was there is not, or the driver is to be
replaced by a reboot, it asks every `deadline_s`; while one does not say who it is, after that and twice as long each
time. A MIG instance is looked at like a GPU.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue

from gpud.inventory.aside import asked
from gpud.inventory.lease import Lease
from gpud.inventory.look import look
from gpud.inventory.machine import has_own_pids, physical_memory_mib, this_node, usable_cpus
from gpud.inventory.nvml import Device, DriverReplacedError, NoDriverError, Nvml
from gpud.inventory.protocol import Post
from gpud.inventory.rollcall import NOT_ANSWERING, Roll, call_roll, numbered
from gpud.inventory.topology import Links, linked, links_of
from gpud.inventory.users import UserNames
from gpud.inventory.xids import NoXidsError
from gpud.model.gpu import GpuId, Node, NodeName, Reading, Unreadable
from gpud.model.observations import GpuSeen, NodeSeen, XidSeen
from gpud.model.units import Timestamp

_SIGNS_S = 10.0  # between looks at what changes slowly
_XIDS_APART_S = 0.001  # some GPUs have them by the thousand
_SLEEPING = "the NVIDIA driver does not answer yet; its GPUs are taken up when it does"


@dataclass(slots=True)
class _Slot:
    """A GPU and the thread that looks at it: at each True in `wanted`, until a False.

    `since` is when the look in flight began, on the monotonic clock; None: none is. `lost` holds as well before the
    first look.
    """

    device: Device
    wanted: SimpleQueue[bool] = field(default_factory=SimpleQueue)
    since: float | None = None
    overdue: bool = False
    again: bool = False
    lost: bool = True
    failed: bool = False

    @property
    def wants_care(self) -> bool:
        """Return whether who it is must be asked again, though there are as many GPUs as before."""
        return self.lost or self.failed or self.device.divisible or not self.device.gpu.memory_total_mib


class NvidiaInventory:
    """The GPUs of this machine, through NVML."""

    def __init__(
        self,
        *,
        clock: Callable[[], Timestamp],
        library: str | None = None,
        only: Sequence[int] | None = None,
        node: NodeName | None = None,
        rescan_s: float = 30.0,
        deadline_s: float = 5.0,
    ) -> None:
        """Name what to look at; nothing is loaded before `start`.

        `library` is a libnvidia-ml.so.1 to load instead of the system's; `only` the indices of the GPUs to manage,
        None for all; `deadline_s` how long a call may take; `rescan_s` how often what is new is looked for.
        """
        self._clock = clock
        self._library = library
        self._only = None if only is None else frozenset(only)
        self._name = node or this_node()
        self._rescan_s = rescan_s
        self._deadline_s = deadline_s
        self._users = UserNames()
        self._changed = threading.Condition()  # guards all that follows; nothing under it calls the driver
        self._post: Post | None = None
        self._nvml: Nvml | None = None
        self._count = -1
        # Of the survey's thread: who has not answered in time, whether we may not use some, and what is known of the
        # links among whom.
        self._asked: dict[int, Future[tuple[Device, ...]]] = {}
        self._forbidden = False
        self._among: tuple[GpuId, ...] = ()
        self._links: Future[dict[GpuId, Links]] = Future()
        self._links_due = False
        self._slots: dict[GpuId, _Slot] = {}
        self._node: Node | None = None
        self._survey_now = threading.Event()
        self._survey_due: float | None = None
        self._watch_s: float | None = None
        self._watch_at = 0.0

    def start(self, post: Post) -> None:
        """Look for the driver and its GPUs, in the background."""
        self._post = post
        self._survey_due = time.monotonic() + self._deadline_s
        threading.Thread(target=self._keep_surveying, name="gpud-survey", daemon=True).start()
        threading.Thread(target=self._keep_time, name="gpud-inventory", daemon=True).start()

    def read(self, gpus: Iterable[GpuId]) -> None:
        """Look at these GPUs; one that does not answer is said not to at once."""
        with self._changed:
            for gpu in gpus:
                self._look(gpu)

    def watch(self, every_s: float | None) -> None:
        """Look at all GPUs now and every `every_s` seconds, until told None."""
        with self._changed:
            self._watch_s, self._watch_at = every_s, time.monotonic()
            self._changed.notify()

    def follow(self, jobs: Mapping[GpuId, int]) -> None:
        """Do nothing: real GPUs show their jobs themselves."""

    def close(self) -> None:
        """Post nothing more. Threads that hang in the driver are left behind; they end with the process."""
        with self._changed:
            self._post = None
            self._changed.notify()
            self._survey_now.set()
            self._users.close()
            for slot in self._slots.values():
                slot.wanted.put(False)

    def _keep_time(self) -> None:
        with self._changed:
            while self._post is not None:
                now = time.monotonic()
                due = self._act(now)
                self._changed.wait(None if due is None else max(0.0, due - now))

    def _act(self, now: float) -> float | None:
        """Do what is due, and return when the next thing will be; None for never."""
        dues = []
        if self._watch_s is not None:
            if self._watch_at <= now:
                self._watch_at = now + self._watch_s
                self.read(self._slots)
            dues.append(self._watch_at)
        if self._node is None and self._survey_due is not None:
            if self._survey_due > now:
                dues.append(self._survey_due)
            else:
                self._show([], _SLEEPING, silent=True)
        for gpu, slot in self._slots.items():
            if slot.since is None or slot.overdue:
                continue
            if slot.since + self._deadline_s > now:
                dues.append(slot.since + self._deadline_s)
            else:
                slot.overdue = True
                self._tell(gpu, Unreadable(self._clock(), NOT_ANSWERING))
        return min(dues, default=None)

    def _keep_surveying(self) -> None:
        most, patience_s = 0, self._deadline_s
        while self._post is not None:
            self._survey_now.clear()
            self._survey()
            most = max(most, self._count)
            with self._changed:
                node = self._node
                misses = self._count < most or any(slot.lost for slot in self._slots.values())
            pause_s = patience_s
            if misses or (node is not None and node.reboot):
                pause_s = self._deadline_s
            elif node is not None and node.problem is not None and self._count > 0:
                patience_s *= 2  # to ask a GPU that cannot be woken has its price
            else:
                pause_s, patience_s = self._rescan_s, self._deadline_s
            self._survey_now.wait(min(pause_s, self._rescan_s))

    def _survey(self) -> None:
        roll = None
        try:
            nvml = self._nvml or Nvml(self._library)
            count = nvml.count()
            nvml.check_version()
            if count != self._count or self._wants_care():
                roll = self._identify(nvml, count)
        except DriverReplacedError as error:
            self._needs_reboot(error)
            return
        except NoDriverError as error:
            nvml, count, roll = None, -1, Roll([], str(error))
        except Exception as error:  # noqa: BLE001 - whatever a library says that the binding cannot read
            nvml, count, roll = None, -1, Roll([], f"the NVIDIA driver makes no sense: {error!r}")
        with self._changed:
            fresh = nvml is not self._nvml
            self._nvml, self._count = nvml, count
            if roll is not None and self._post is not None:
                self._settle(roll.devices, roll.problem, silent=roll.silent)
        if fresh and nvml is not None:
            threading.Thread(target=self._keep_listening, args=(nvml,), name="gpud-xids", daemon=True).start()

    def _needs_reboot(self, error: DriverReplacedError) -> None:
        with self._changed:
            self._show(self._known(), str(error), reboot=True)
            for slot in self._slots.values():
                slot.device.nvml.replaced = True

    def _known(self) -> list[Device]:
        """Return the GPUs of the last survey, and their instances, by index."""
        return sorted((slot.device for slot in self._slots.values()), key=lambda device: device.gpu.index)

    def _keep_listening(self, nvml: Nvml) -> None:
        """Post XIDs as they come, for as long as this driver is the one."""
        while (post := self._post) is not None and self._nvml is nvml:
            try:
                found = nvml.xids.wait()
            except NoXidsError:
                return
            except Exception:  # noqa: BLE001 - NVML's; a GPU that stays lost may answer so at once, again and again
                time.sleep(1.0)
                continue
            if found is not None:
                post(XidSeen(self._name, *found))
            time.sleep(_XIDS_APART_S)

    def _wants_care(self) -> bool:
        """Return whether something of the last survey was not right, or MIG is there: the same count says not all."""
        with self._changed:
            unwell = self._node is None or self._node.problem is not None
            return unwell or self._links_due or self._forbidden or any(slot.wants_care for slot in self._slots.values())

    def _identify(self, nvml: Nvml, count: int) -> Roll:
        with self._changed:
            known = self._known()
            self._survey_due = None  # the driver answers, and no GPU holds up the rest
        roll = call_roll(self._ask_all(nvml, count), known, self._only, count)
        self._forbidden = roll.forbidden
        return replace(roll, devices=numbered(self._linked(roll.devices), count))

    def _ask_all(self, nvml: Nvml, count: int) -> dict[int, Future[tuple[Device, ...]]]:
        """Ask each GPU we manage who it is, all at once, and return what they say within the deadline.

        A question that is still open from an earlier survey is not waited for again.
        """
        if nvml is not self._nvml or count != self._count:
            self._asked.clear()  # an index may mean another GPU by now
        managed = [index for index in range(count) if self._only is None or index in self._only]
        new = {index: asked(partial(nvml.devices, index)) for index in managed if index not in self._asked}
        for late in wait(new.values(), self._deadline_s).not_done:
            late.add_done_callback(lambda _: self._survey_now.set())
        answers = {index: new.get(index) or self._asked[index] for index in managed}
        self._asked = {index: one for index, one in answers.items() if not one.done()}
        return answers

    def _linked(self, found: list[Device]) -> list[Device]:
        """Return the GPUs with their links, and instances with those of their GPUs; as they are while nobody knows."""
        gpus = [device for device in found if device.gpu.mig is None]
        among = tuple(device.gpu.id for device in gpus)
        if among != self._among:
            self._among, self._links = among, asked(partial(links_of, gpus))
            for late in wait([self._links], self._deadline_s).not_done:
                late.add_done_callback(lambda _: self._survey_now.set())
        self._links_due = not self._links.done()
        if self._links_due or self._links.exception() is not None:
            return found
        links = self._links.result()
        return [replace(each, gpu=linked(each.gpu, links[each.gpu.parent or each.gpu.id])) for each in found]

    def _settle(self, found: list[Device], problem: str | None, *, silent: bool) -> None:
        """Take up what a survey found: post the node if it changed, and look at what is new or was lost."""
        for gone in self._slots.keys() - {device.gpu.id for device in found}:
            self._slots.pop(gone).wanted.put(False)
        for device in found:
            gpu = device.gpu.id
            if gpu in self._slots:
                self._slots[gpu].device = device
            else:
                slot = self._slots[gpu] = _Slot(device)
                threading.Thread(target=self._keep_looking, args=(gpu, slot), name=f"gpud-{gpu}", daemon=True).start()
        self._show(found, problem, silent=silent)
        self.read([gpu for gpu, slot in self._slots.items() if slot.lost or slot.failed])

    def _show(self, found: list[Device], problem: str | None, *, reboot: bool = False, silent: bool = False) -> None:
        node = Node(
            name=self._name,
            cpus=usable_cpus(),
            memory_mib=physical_memory_mib(),
            gpus=tuple(device.gpu for device in found),
            driver=self._nvml.driver if self._nvml is not None else None,
            problem=problem,
            reboot=reboot,
            contained=has_own_pids(),
            silent=silent,
        )
        if node != self._node and self._post is not None:
            self._node = node
            self._post(NodeSeen(node))

    def _look(self, gpu: GpuId) -> None:
        slot = self._slots.get(gpu)
        if slot is None:
            if self._node is not None:  # else the first survey is under way, and looks at all there are
                said = self._node.problem or "there is no such GPU now"
                self._tell(gpu, Unreadable(self._clock(), said, lost=not self._node.silent))
        elif slot.overdue:
            self._tell(gpu, Unreadable(self._clock(), NOT_ANSWERING))
        elif slot.since is not None:
            slot.again = True  # the look in flight began before this request, so it cannot answer it
        else:
            slot.since = time.monotonic()
            slot.wanted.put(True)
            self._changed.notify()

    def _keep_looking(self, gpu: GpuId, slot: _Slot) -> None:
        lease = Lease(gpu)
        known: frozenset[int] = frozenset()
        signs_at: float | None = None
        while slot.wanted.get():
            wants_signs = signs_at is None or time.monotonic() >= signs_at + _SIGNS_S
            signs_at = time.monotonic() if wants_signs else signs_at
            try:
                reading, known = look(slot.device, lease, known, self._users, self._clock(), wants_signs=wants_signs)
            except DriverReplacedError as error:
                self._needs_reboot(error)  # said of the node, before anything is given out on what this look saw
                self._survey_now.set()
                slot.wanted.put(True)
                continue
            except Exception as error:  # noqa: BLE001 - as in a survey
                reading = Unreadable(self._clock(), f"its driver makes no sense: {error!r}")
            if isinstance(reading, Unreadable):
                signs_at = None  # which may be what it is lost for: it is well once they can be read
            with self._changed:
                self._seen(gpu, slot, reading)
        lease.close()

    def _seen(self, gpu: GpuId, slot: _Slot, reading: Reading | Unreadable) -> None:
        late, again = slot.overdue, slot.again
        slot.since, slot.overdue, slot.again = None, False, False
        if self._slots.get(gpu) is not slot:
            return
        failed = isinstance(reading, Unreadable)
        lost = isinstance(reading, Unreadable) and reading.lost
        if (lost and not slot.lost) or (failed and not slot.failed):
            self._survey_now.set()  # perhaps it is no longer there at all, was split, or has another number
        slot.lost, slot.failed = lost, failed
        if not late:  # what a call says that hung for a while is old
            self._tell(gpu, reading)
        if late or again:
            self._look(gpu)

    def _tell(self, gpu: GpuId, reading: Reading | Unreadable) -> None:
        if self._post is not None:
            self._post(GpuSeen(self._name, gpu, reading))
