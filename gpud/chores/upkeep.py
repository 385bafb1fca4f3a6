"""What gpud does and says beside its queue: how things are, what was found, what is not needed any more."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress

from gpud.chores.pruning import Pruning
from gpud.core.alerts import ALERT, DISK_NEARLY_FULL, RESTARTED
from gpud.core.cycle import Input
from gpud.core.restore import parting
from gpud.instance import Instance
from gpud.model.changes import Change, SettingPut, Told
from gpud.model.observations import NodeSeen, Noticed
from gpud.model.units import plural
from gpud.store.files import COPIED_AT, StoreError
from gpud.views.inspection import unkept

log = logging.getLogger(__name__)

SERVING = "serving"  # the setting that holds the boot under which a gpud serves, until it is stopped
_STATUS_S = 0.5
_DISK_S = 60.0
_SPARE_BYTES, _SPARE = 1 << 30, 0.02  # nearly full: less than both of them is left, in bytes and of the whole
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}


class Upkeep:
    """The daemon's side jobs; `begin` and `end` are called on the event loop's thread."""

    def __init__(
        self, gpud: Instance, *, writer: Executor, notice: Callable[[Noticed], None], settings: Mapping[str, object]
    ) -> None:
        """Begin with what is at hand; `settings` are those that the store held at the start."""
        self._gpud = gpud
        self._notice = notice
        self._copied_at = settings.get(COPIED_AT)
        self._crashed = settings.get(SERVING) == gpud.parts.boot
        self._disk_at: float | None = None
        self._disk_full = False
        self._writer = writer
        self._told_status: asyncio.TimerHandle | None = None
        self._pruning = Pruning(
            clock=gpud.clock, store=gpud.parts.store, writer=writer, keep_days=lambda: gpud.config.keep_days
        )

    def came_up(self) -> None:
        """Leave word that a gpud serves; notice that an earlier one left it and was not stopped."""
        with suppress(StoreError):  # a full disk: the next one then does not hear of a crash of this one
            self._gpud.parts.store.commit([SettingPut(SERVING, self._gpud.parts.boot), SettingPut(COPIED_AT, None)])
        if self._copied_at is not None:
            self._notice(Noticed(RESTARTED, f"gpud goes on from a copy of its database, made {self._copied_at}"))
        elif self._crashed:
            self._notice(Noticed(RESTARTED, "gpud was started again; the one before did not end by itself"))

    async def went_down(self) -> None:
        """Take that word back, and keep what is else kept now and then."""
        last = [SettingPut(SERVING, None), *parting(self._gpud.world, self._gpud.clock())]
        with suppress(StoreError):  # the next one then says that this one crashed
            await asyncio.get_running_loop().run_in_executor(self._writer, self._gpud.parts.store.commit, last)

    def begin(self) -> None:
        """Keep the database small from now on."""
        self._pruning.begin()

    def end(self) -> None:
        """Leave the database alone."""
        self._pruning.end()

    def report_nodes(self, batch: Sequence[Input]) -> None:
        """Log what the inventory found."""
        for each in batch:
            if isinstance(each, NodeSeen):
                node = each.node
                what = plural(len(node.gpus), "GPU") if node.gpus else "no GPUs"
                what += f" ({node.problem})" if node.problem else ""
                log.info("node %s: %s, %d CPUs, %d MiB", node.name, what, node.cpus, node.memory_mib)
        self.report_unkept()

    def report_unkept(self) -> None:
        """Log what the configuration says of GPUs and is not so."""
        for said in unkept(self._gpud.world, self._gpud.config, self._gpud.clock()):
            log.warning("configuration: %s", said)

    def status_changed(self) -> None:
        """Say soon how things are; not at once, for a thousand short jobs are not worth a thousand words."""
        if self._told_status is None:
            self._told_status = asyncio.get_running_loop().call_later(_STATUS_S, self._tell_status)

    def _tell_status(self) -> None:
        self._told_status = None
        self._gpud.parts.notifier.status(self.status_line())
        self._check_disk()

    def report_alerts(self, changes: Sequence[Change]) -> None:
        """Log what administrators are to hear of, and what became of GPUs; what came of one cause once."""
        told = [each for each in changes if isinstance(each, Told)]
        alarmed = {_about(each) for each in told if each.kind == ALERT}
        said = alarmed | {_about(each) for each in told if each.kind == "xid"}
        for each in told:
            detail = each.detail
            if each.kind == ALERT:
                log.log(_LEVELS[str(detail["level"])], "%s: %s", detail["what"], detail["message"])
            elif each.kind == "health" and (not detail["found"] or _about(each) not in said):
                gone = "" if detail["found"] else "no longer: "
                log.info("GPU %s of %s: %s%s", detail["index"], detail["node"], gone, detail["reason"])
            elif each.kind == "xid" and _about(each) not in alarmed:
                log.info("GPU %s of %s: XID %s: %s", detail["index"], detail["node"], detail["xid"], detail["says"])
            elif each.kind == "pids_unknown":
                log.warning("%s", detail["reason"])

    def _check_disk(self) -> None:
        """Notice a disk that is nearly full: while things happen, once a minute at most; again once it was not."""
        now = asyncio.get_running_loop().time()
        if self._disk_at is not None and now < self._disk_at + _DISK_S:
            return
        self._disk_at = now
        try:
            disk = os.statvfs(self._gpud.parts.config.state_dir)
        except OSError:
            return  # `still_here` sees to a state directory that is gone
        left = disk.f_bavail * disk.f_frsize
        full = left < _SPARE_BYTES and disk.f_bavail < _SPARE * disk.f_blocks
        if full and not self._disk_full:
            message = f"{left >> 20} MiB are left where gpud keeps its jobs: {self._gpud.parts.config.state_dir}"
            self._notice(Noticed(DISK_NEARLY_FULL, message))
        self._disk_full = full

    def status_line(self) -> str:
        """Return how things are, in one line, for systemctl status."""
        world = self._gpud.world
        waiting = len(world.queue) + len(world.parked)
        return f"{len(world.active)} running, {waiting} waiting, {plural(len(world.gpus), 'GPU')}"


def _about(each: Told) -> tuple[object, object]:
    """Return the GPU that something was told of, and why."""
    return each.detail.get("gpu"), f"xid {each.detail['xid']}" if each.kind == "xid" else each.detail.get("cause")
