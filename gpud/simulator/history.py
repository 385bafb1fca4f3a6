"""What a gpud has seen itself: its finished jobs as a trace, and its nodes as a cluster, read from its store.

A job counts with what it asked for and with how long its last attempt ran, a tenant with its share. The store is only
read; gpud may run.
"""

from dataclasses import replace

from gpud.model.gpu import Node
from gpud.model.job import Demand
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
    jobs = [job for row in rows if (job := _job(row, known, elsewhere=elsewhere)) is not None]
    jobs.sort(key=lambda job: job.submit_s)
    named = {job.terms.tenant for job in jobs}
    shares = tuple(Tenant(name=each.name, share=each.share) for each in tenants if each.name in named)
    return Trace("history", jobs, tenants=shares), tuple(_simulated(node) for node in nodes)


def _job(row: JobRow, known: dict[Terms, Terms], *, elsewhere: bool) -> TraceJob | None:
    """Return a job that ran and ended; None for any other."""
    run = row.run
    if row.ended_at is None or run is None or run.started_at is None or run.exit is None:
        return None
    if row.terms not in known:
        known[row.terms] = replace(row.terms, demand=_demand(row.terms.demand, elsewhere=elsewhere))
    came = row.submitted_at if row.begin_at is None else max(row.submitted_at, row.begin_at)
    return TraceJob(came, max(0.0, run.exit.at - run.started_at), known[row.terms], row.place.priority)


def _demand(demand: Demand, *, elsewhere: bool) -> Demand:
    counted = replace(demand, cpus=MILLI * demand.cpus_counted, pool=None)
    if not elsewhere:
        return counted
    return replace(counted, gpu_ids=(), excluded_gpus=(), excluded_nodes=(), node_labels=())


def _simulated(node: Node) -> Node:
    gpus = tuple(replace(gpu, simulated=True) for gpu in node.gpus)
    return replace(node, cpus=MILLI * node.cpus, gpus=gpus, problem=None)
