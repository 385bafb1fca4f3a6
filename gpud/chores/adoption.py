"""Jobs that run and that the database knows nothing of, as after an older copy of it was put in its place: taken up.

Each is entered as starting, on what it holds; the look that follows, as after any start of gpud, finds whether it runs
or how it ended. Of a job that the database knows only the attempt is new, or the element of its array. One that it
does not know was submitted since: what runs says whose it is and what, and what was asked for beside is lost.
"""

import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from sqlite3 import IntegrityError

from gpud.intake.submission import program_of
from gpud.inventory.machine import this_node
from gpud.launchers.survivors import Process, Survivor, survivors
from gpud.model.array import IndexSet, index_set
from gpud.model.changes import Added, ArrayPut, AttemptEnded, Change, Moved, Queued, Told, Unfolded
from gpud.model.gpu import Allocation, GpuId, Share, milli_of
from gpud.model.job import Demand, End, Exit, JobId, Starting, array_of, format_job, index_of
from gpud.model.spec import ArrayState, JobSpec, LoadedJob, Place, Terms, name_group
from gpud.model.tenant import DEFAULT
from gpud.model.units import Mib, Timestamp
from gpud.orders import default_log, log_dir
from gpud.people.names import Names
from gpud.settings.config import Config
from gpud.store.files import open_reader
from gpud.store.jobs import Store
from gpud.store.loading import stored
from gpud.store.rows import Loaded

log = logging.getLogger(__name__)

_WHY = "it was started, and the database did not know"


async def adopt(store: Store, config: Config, loaded: Loaded, now: Timestamp) -> Loaded:
    """Enter what was started and is not known, and return what the store remembers then. Raises StoreError."""
    active = {(each.job, each.place.attempt) for each in loaded.others if each.active is not None}
    gpus = [gpu.id for node in loaded.nodes for gpu in node.gpus if not gpu.simulated]
    left = survivors(f"{config.state_dir}/records", active, gpus)
    found = {each.job: each for each in sorted(left, key=lambda each: (each.process is not None, each.attempt))}
    if not found:
        return loaded
    with closing(open_reader(store.path)) as connection:
        known = stored(connection, {*found, *map(array_of, found)})
    names = Names()
    uids = {each.process.uid for each in found.values() if each.process is not None}
    users = {uid: await names.name(uid) for uid in uids}
    totals = {gpu.id: gpu.memory_total_mib for node in loaded.nodes for gpu in node.gpus}
    register = _Register(config, found, known, users, totals, now)
    for job in sorted(found):
        changes = list(register.entries(found[job]))
        if changes:
            try:
                store.commit(changes)
            except IntegrityError:  # another has its key by now
                log.exception("job %s cannot be taken up", format_job(job))
            else:
                log.warning("job %s is taken up: %s", format_job(job), _WHY)
    return store.load()


class _Register:
    """What is `known` of jobs, and grows as those `found` are entered.

    `users` are names of their users, `totals` what memory GPUs have.
    """

    def __init__(
        self,
        config: Config,
        found: Mapping[JobId, Survivor],
        known: dict[JobId, LoadedJob],
        users: Mapping[int, str],
        totals: Mapping[GpuId, Mib],
        now: Timestamp,
    ) -> None:
        self._config = config
        self._found = found
        self._known = known
        self._users = users
        self._totals = totals
        self._now = now

    def entries(self, found: Survivor) -> Iterator[Change]:
        """Yield what makes a survivor known; nothing where it is, and where too little is left of it."""
        job, key = found.job, array_of(found.job)
        if key not in self._known:
            if found.process is None:
                log.warning("job %s, which the database does not know, has ended since", format_job(job))
                return
            yield self._added(found, found.process)
        it, array, index = self._known.get(job), self._known[key].array, index_of(job)
        if (array is None) != (index is None):
            log.warning("there is a record of job %s that is another's", format_job(job))
            return
        if it is not None and not _is_news(found.attempt, it):
            return
        terms = (it or self._known[key]).terms
        place = replace((it or self._known[key]).place, attempt=found.attempt, park=None, not_before=None)
        if array is not None and index is not None:
            yield from self._element(job, it, place, array, index_set([index]))
        if it is not None and it.active is not None:
            over = Exit(at=self._now, lost="its end is not known to the database")
            yield AttemptEnded(job, it.place.attempt, over, None, terms.uid, terms.tenant, 0.0)
        if it is not None and (it.active is not None or it.end is not None):
            yield Queued(job, self._now, place, "requeued")
        yield Told(self._now, "adopted", {"reason": _WHY}, job)
        held = _allocation(found, terms.demand, self._totals)
        yield Moved(job, found.since, found.attempt, Starting(found.since, held, found.boot))

    def _added(self, found: Survivor, process: Process) -> Added:
        """Return the entry of a job, or of an element's array, of which nothing is known but what runs."""
        key, is_array = array_of(found.job), index_of(found.job) is not None
        elements = [index for job in self._found if array_of(job) == key and (index := index_of(job)) is not None]
        default = default_log(log_dir(self._config, process.uid), found.job, found.attempt)
        name = program_of(process.command)
        place = Place(queued_us=round(found.since * 1_000_000), attempt=1 if is_array else found.attempt)
        spec = JobSpec(
            nonce=secrets.token_hex(),
            terms=Terms(
                demand=_demand(process),
                uid=process.uid,
                user=self._users[process.uid],
                tenant=DEFAULT,
                grace_s=process.grace_s,
                time_limit_s=process.time_limit_s,
                name_group=name_group(name),
                preemptible=False,  # it could not be started again
            ),
            name=name,
            command=process.command,
            workdir=process.workdir,
            environment=b"",
            gid=process.gid,
            groups=(process.gid,),
            output=None if process.output in {None, default} else str(process.output).replace("%", "%%"),
            array=index_set(elements) if is_array else None,
        )
        array = ArrayState(pending=IndexSet()) if is_array else None
        self._known[key] = LoadedJob(job=key, terms=spec.terms, place=place, array=array)
        return Added(key, found.since, spec, place, array)

    def _element(
        self, job: JobId, it: LoadedJob | None, place: Place, state: ArrayState, one: IndexSet
    ) -> Iterator[Change]:
        """Yield what takes an element out of what its array has pending, or counts as over."""
        if it is None:
            yield Unfolded(job, self._now, place)
        if it is None or it.end is not None:
            was = it.end if it is not None else End.CANCELLED if one & state.dropped else None
            counts = state.counts if was is None else state.counted(was, -1)
            pending, dropped = state.pending - one, state.dropped - one
            state = replace(state, pending=pending, dropped=dropped, live=state.live + 1, counts=counts)
            key = array_of(job)
            self._known[key] = replace(self._known[key], array=state)
            yield ArrayPut(key, self._now, state)


def _is_news(attempt: int, it: LoadedJob) -> bool:
    """Return whether an attempt is later than what is known of its job, or is the next of one that waits."""
    return attempt > it.place.attempt or (attempt == it.place.attempt and it.end is None and it.active is None)


def _demand(process: Process) -> Demand:
    share_mib = process.shares[0].memory_mib if process.shares else None
    return Demand(gpus=len(process.shares), share_mib=share_mib)


def _allocation(found: Survivor, demand: Demand, totals: Mapping[GpuId, Mib]) -> Allocation:
    """Return what a survivor holds: of one that has ended its GPUs are not known, and nobody asks."""
    process = found.process
    node = this_node() if process is None or process.node is None else process.node
    shares = () if process is None else tuple(_weighed(each, demand, totals) for each in process.shares)
    return Allocation(node=node, shares=shares, cpus=demand.cpus_counted, memory_mib=demand.memory_mib)


def _weighed(share: Share, demand: Demand, totals: Mapping[GpuId, Mib]) -> Share:
    """Return a share with what it comes to, as at its start."""
    if demand.share_mib is None or share.memory_mib is None or share.gpu not in totals:
        return share
    return replace(share, milli=milli_of(share.memory_mib, totals[share.gpu]))
