"""What a gpud has seen itself: its finished jobs as a trace, and its nodes as a cluster, read from its store.

A job counts with what it asked for and with how long its last attempt ran, a tenant with its share and limits. A job
came when it was submitted, or later: at its begin time, or when what it came after had ended. The store is only read;
gpud may run.
"""

from collections.abc import Sequence
from dataclasses import replace

from gpud.model.gpu import Node
from gpud.model.job import Demand, JobId, array_of
from gpud.model.spec import Terms
from gpud.model.tenant import Tenant
from gpud.model.units import Timestamp
from gpud.simulator.trace import MILLI, Trace, TraceError, TraceJob
from gpud.store.files import StoreError
from gpud.store.history import tenants_of
from gpud.store.reader import Reader
from gpud.store.rows import JobQuery, JobRow

_MOST = 1_000_000


def read_history(path: str, since: Timestamp, *, elsewhere: bool) -> tuple[Trace, tuple[Node, ...]]:
    """Return what ended since a moment, which may be no job, and the nodes it ran on. Raises TraceError.

    `elsewhere`: it will be replayed on other hardware, so nodes and GPUs that jobs named mean nothing.
    """
    try:
        reader = Reader(path)
        try:
            rows, _ = reader.jobs(JobQuery(ended=True, since=since, limit=_MOST))
            nodes = reader.nodes()
        finally:
            reader.close()
        tenants = tenants_of(path)
    except StoreError as error:
        raise TraceError(str(error), error.hint) from error
    known: dict[Terms, Terms] = {}
    came = _came(rows)
    jobs = [job for row in rows if (job := _job(row, came[row.job], known, elsewhere=elsewhere)) is not None]
    jobs.sort(key=lambda job: job.submit_s)
    named = {job.terms.tenant for job in jobs}
    theirs = tuple(_tenant(each, elsewhere=elsewhere) for each in tenants)
    theirs = tuple(each for each in theirs if each.name in named or each.guaranteed_gpus or each.gpus)
    return Trace("history", jobs, tenants=theirs), tuple(_simulated(node) for node in nodes)


def _came(rows: Sequence[JobRow]) -> dict[JobId, Timestamp]:
    """Return from when on each job could run for all that it was to come after, an element as its array."""
    ended = {row.job: row.ended_at for row in rows if row.ended_at is not None}
    after = {row.job: [ended[each.job] for each in row.after if each.job in ended] for row in rows}
    return {
        row.job: max([row.submitted_at, row.begin_at or row.submitted_at, *after.get(array_of(row.job), ())])
        for row in rows
    }


def _job(row: JobRow, came: Timestamp, known: dict[Terms, Terms], *, elsewhere: bool) -> TraceJob | None:
    """Return a job that ran and ended; None for any other."""
    run = row.run
    if row.ended_at is None or run is None or run.started_at is None or run.exit is None:
        return None
    if row.terms not in known:
        known[row.terms] = replace(row.terms, demand=_demand(row.terms.demand, elsewhere=elsewhere))
    return TraceJob(came, max(0.0, run.exit.at - run.started_at), known[row.terms], row.place.priority)


def _tenant(tenant: Tenant, *, elsewhere: bool) -> Tenant:
    """Return a tenant with what holds of it in a replay: not what is counted by the calendar, nor how many may wait."""
    own = Tenant(name=tenant.name) if elsewhere else tenant
    return Tenant(
        name=tenant.name,
        guaranteed_gpus=tenant.guaranteed_gpus,
        max_gpus=tenant.max_gpus,
        max_running=tenant.max_running,
        borrow=tenant.borrow,
        share=tenant.share,
        gpu_types=own.gpu_types,
        gpus=own.gpus,
    )


def _demand(demand: Demand, *, elsewhere: bool) -> Demand:
    counted = replace(demand, cpus=MILLI * demand.cpus_counted, pool=None, node_labels=())  # labels are not stored
    if not elsewhere:
        return counted
    return replace(counted, gpu_ids=(), excluded_gpus=(), excluded_nodes=())


def _simulated(node: Node) -> Node:
    gpus = tuple(replace(gpu, simulated=True) for gpu in node.gpus)
    return replace(node, cpus=MILLI * node.cpus, gpus=gpus, problem=None)
