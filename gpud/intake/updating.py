"""What an `update` or a `signal` asks of jobs, from what they are. All that can be wrong with it is said here."""

import asyncio
import json
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from gpud.core.commands import Update
from gpud.intake.selection import ENDED, Chosen, Owner, Predecessors, outermost, predecessors
from gpud.intake.submission import checked, demand_of, environment_of, rewrite_of
from gpud.model.job import Demand, JobId, array_of, format_job
from gpud.model.spec import Rewrite, Terms, name_group
from gpud.model.units import plural
from gpud.reading import ReadThread
from gpud.store.loading import Holders
from gpud.store.reader import Reader
from gpud.store.rows import JobRow
from gpud.wire.changes import PartOfDemand, Update as UpdateMessage
from gpud.wire.check import Wrong

_SAID = {
    "demand": "what it needs",
    "name": "its name",
    "estimate_s": "its estimate",
    "grace_s": "its grace",
    "preemptible": "whether it may be preempted",
    "retries": "its retries",
    "retry_on": "its retries",
    "begin_at": "its begin",
    "checkpoint_signal": "its checkpoints",
    "checkpoint_every_s": "its checkpoints",
    "checkpoint_before_s": "its checkpoints",
    "after": "what it comes after",
    "group": "its group",
    "key": "its key",
    "labels": "its labels",
    "unlabel": "its labels",
    "variables": "its environment",
    "workdir": "its directory",
    "output": "its output",
    "error": "its output",
}
# Of what runs, too.
_ALWAYS = {"priority": "its priority", "notify": "whom it tells", "throttle": "how many of it may run at once"}
_PRIVATE = {"variables", "workdir", "output", "error", "notify"}  # else an operator could run anything as anybody
_LIMIT = ("time_limit_s", "time_limit_more_s", "unlimited")
_CHECKPOINT = ("checkpoint_signal", "checkpoint_before_s", "checkpoint_every_s")
_TERMS = ("estimate_s", "grace_s", "preemptible", "retries")

_LOOK = 1_000  # jobs that are looked up at once

Wanted = TypeVar("Wanted")
Notes = tuple[tuple[JobId, str], ...]


async def changes_of(reading: ReadThread, message: UpdateMessage, chosen: Chosen, *, by: Owner) -> tuple[Update, Notes]:
    """Return the command for an update, its token and begin time apart, and why it does not reach some. Raises Wrong.

    What runs as a user, and where it writes, is that user's alone to change, whatever the role of others. What the
    jobs are is looked up in bites, others read between.
    """
    waiting_only = tuple(dict.fromkeys(words for key, words in _SAID.items() if key in message))
    said = [*waiting_only]
    said += ["its time limit"] * any(key in message for key in _LIMIT)
    said += [words for key, words in _ALWAYS.items() if key in message]
    if not said:
        raise Wrong("nothing to change is named", "see what can be: gpuctl update --help")
    ended = ((job, state.replace("_", " ")) for job, state in chosen.states.items() if state in ENDED)
    notes = tuple((job, f"has ended already: {state}") for job, state in ended)
    rows = await _rows(reading, outermost(chosen))
    private = sorted(_PRIVATE & message.keys())
    for job, row in rows.items():
        if private and by.uid not in {row.terms.uid, 0}:
            words = (_SAID | _ALWAYS)[private[0]].replace("its ", "the ")
            words = f"{words} of job {format_job(job)}" if private[0] in _SAID else f"{words}, job {format_job(job)},"
            raise Wrong(f"{words} is {row.terms.user}'s to change", "only its owner may", "not_permitted")
    made: dict[tuple[Terms, str], Terms] = {}
    jobs = []
    more_s = message.get("time_limit_more_s", 0.0)
    for job, row in rows.items():
        if more_s and row.terms.time_limit_s is None:
            raise Wrong(f"job {format_job(job)} has no time limit to add to", "say which: --time-limit 4h")
        if more_s and (row.terms.time_limit_s or 0.0) + more_s <= 0:
            raise Wrong(f"nothing would be left of job {format_job(job)}'s time limit", "to end it: gpuctl cancel")
        known = (row.terms, row.name)
        if known not in made:
            made[known] = _terms(row.terms, message)
        jobs.append((job, made[known]))
        if len(jobs) % _LOOK == 0:
            await asyncio.sleep(0)
    after = message.get("after")
    before = await reading.run(lambda reader: predecessors(reader, after)) if after else Predecessors()
    rewrite = _rewrite(message)
    labels = _unlabelled(message, rows.values()) | dict(rewrite.labels)
    asked = Update(
        0,
        tuple(jobs),
        said=tuple(dict.fromkeys(said)),
        named=tuple(rows),
        in_all=tuple(set(made.values())),
        waiting_only=waiting_only,
        rewrite=replace(rewrite, labels=tuple(labels.items()), after=None if after is None else before.jobs),
        environments=await _environments(reading, message, list(rows)),
        more_s=more_s,
        priority=message.get("priority"),
        throttle=_throttle(message),
        ends=before.ends,
        there=await _holders(reading, message, rows),
        by=by.name,
    )
    return asked, notes


def written(update: Update) -> int:
    """Return about how many bytes an update has the store write: what is new, for each job."""
    each = len(repr(update.rewrite)) if update.rewrite != Rewrite() else 0
    return len(update.jobs) * each + sum(map(len, set(update.environments.values())))


def in_parts(update: Update) -> Callable[[tuple[JobId, ...]], Update]:
    """Return what makes a command of what is some jobs' of an update; the first one is judged with all that it asks."""
    terms, environments = dict(update.jobs), update.environments
    judged = iter(((update.named, update.in_all),))

    def part(jobs: tuple[JobId, ...]) -> Update:
        named, in_all = next(judged, (jobs, ()))
        own = {job: environments[job] for job in jobs if job in environments}
        mine = tuple((job, terms[job]) for job in jobs)
        return replace(update, jobs=mine, environments=own, named=named, in_all=in_all)

    return part


def checked_signal(number: int) -> int:
    """Return the number of a signal that can be sent to a job. Raises Wrong."""
    if not 1 <= number < 32:
        raise Wrong(f"there is no signal {number}", "there are 1 to 31; by name: USR1, TERM, HUP ...")
    if number == signal.SIGKILL:
        raise Wrong("a job is killed by cancelling it", "gpuctl cancel --force JOB")
    return number


async def _rows(reading: ReadThread, jobs: tuple[JobId, ...]) -> dict[JobId, JobRow]:
    """Return the row of each job, of an element that has not started its array's."""
    known: dict[JobId, JobRow] = {}
    for bite in _bites((*jobs, *map(array_of, jobs))):
        known |= {row.job: row for row in await reading.run(partial(Reader.rows, jobs=bite))}
    rows = {job: known.get(job) or known.get(array_of(job)) for job in jobs}
    return {job: row for job, row in rows.items() if row is not None}


def _rewrite(message: UpdateMessage) -> Rewrite:
    """Return what is new in a job's spec beside its terms. Raises Wrong."""
    if message.get("checkpoint_signal") != 0:
        return rewrite_of(message)
    rest: UpdateMessage = message.copy()
    del rest["checkpoint_signal"]
    rewrite = rewrite_of(rest)
    gone = ((key, None) for key in _CHECKPOINT)
    return replace(rewrite, submitted=(*rewrite.submitted, *gone))


def _terms(terms: Terms, message: UpdateMessage) -> Terms:
    said: dict[str, Any] = {key: message.get(key) for key in _TERMS if key in message}
    if said.get("estimate_s") == 0:
        said["estimate_s"] = None
    if "demand" in message:
        said["demand"] = demand_of(_merged(terms.demand, message["demand"]))  # type: ignore[arg-type]  # a whole one
    if "name" in message:
        said["name_group"] = name_group(message["name"])
    if "time_limit_s" in message or "unlimited" in message:
        said["time_limit_s"] = message.get("time_limit_s")
    if "retry_on" in message:
        said["retry_on"] = tuple(message["retry_on"])
    return checked(replace(terms, **said))


def _merged(demand: Demand, part: PartOfDemand) -> dict[str, Any]:
    """Return a demand as the protocol has it, with what is new in it."""
    now: dict[str, Any] = {
        "gpus": demand.gpus,
        "nodes": demand.nodes,
        "share_mib": demand.share_mib,
        "share_permille": demand.share_permille,
        "mig": demand.mig,
        "gpu_memory_mib": demand.gpu_memory_mib,
        "gpu_type": demand.gpu_type,
        "gpu_ids": list(demand.gpu_ids),
        "cpus": demand.cpus,
        "memory_mib": demand.memory_mib,
        "node_labels": dict(demand.node_labels),
        "excluded_nodes": list(demand.excluded_nodes),
        "excluded_gpus": list(demand.excluded_gpus),
        "pool": demand.pool,
        "spread": demand.spread,
    }
    new: dict[str, Any] = dict(part)
    without = new.pop("without", ())
    for key in without:
        if key == "gpus" or key not in now:
            raise Wrong(f"{key!r} is nothing that a job can do without", "see what can be: gpuctl update --help")
    now |= dict.fromkeys(without)
    shares = ("share_mib", "share_permille", "mig")
    if "gpu_memory_mib" in without:
        now["share_mib"] = None
    if any(key in new for key in shares):
        now |= dict.fromkeys(shares)
    elif now["share_mib"] is not None and "gpu_memory_mib" in new:
        new["share_mib"] = new.pop("gpu_memory_mib")
    if new.pop("whole", False):
        now["share_permille"] = None
    if "share_mib" in new:
        now["gpu_memory_mib"] = None
    return {key: value for key, value in (now | new).items() if value is not None and value != []}


def _unlabelled(message: UpdateMessage, rows: Iterable[JobRow]) -> dict[str, str | None]:
    """Return the labels to take away, each with None."""
    gone = message.get("unlabel", [])
    if "*" in gone:
        return dict.fromkeys(sorted({label for row in rows for label in row.labels}))
    return dict.fromkeys(gone)


def _throttle(message: UpdateMessage) -> int | None:
    throttle = message.get("throttle")
    if throttle is not None and throttle < 0:
        raise Wrong(f"{throttle} of an array cannot run at once", "say how many: --array %4, or --array %none")
    return throttle


def _bites(wanted: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Yield what is to be looked up, each once, a few at a time."""
    each = list(dict.fromkeys(wanted))
    for begin in range(0, len(each), _LOOK):
        yield each[begin : begin + _LOOK]


async def _holders(reading: ReadThread, message: UpdateMessage, rows: dict[JobId, JobRow]) -> Holders:
    """Return who has the keys that these jobs are to have in their groups. Raises Wrong for a key that cannot be."""
    key, group = message.get("key"), message.get("group")
    if key and len(rows) > 1:
        raise Wrong(f"{plural(len(rows), 'job')} are named, and a key names one in its group", "name one job")
    if not key and not group:
        return {}
    keys = []
    for job, row in rows.items():
        of, word = row.group if group is None else group, row.key if key is None else key
        if key and not of:
            raise Wrong(f"a key names a job in its group, and job {format_job(job)} has none", "add --to-group NAME")
        if of and word:
            keys.append((row.terms.uid, of, word))
    found: Holders = {}
    for bite in _bites(keys):
        found |= await reading.run(partial(Reader.holders, keys=bite))
    return found


async def _environments(reading: ReadThread, message: UpdateMessage, jobs: list[JobId]) -> dict[JobId, bytes]:
    """Return the environments of jobs with what is new in them."""
    new = message.get("variables")
    if not new:
        return {}
    made: dict[bytes, bytes] = {}
    known: dict[JobId, bytes] = {}
    for bite in _bites((*jobs, *map(array_of, jobs))):
        found = await reading.run(partial(Reader.environments, jobs=bite))
        made |= {data: environment_of(json.loads(data) | new) for data in set(found.values()) - made.keys()}
        known |= {job: made[data] for job, data in found.items()}
    return {job: known.get(job, known[array_of(job)]) for job in jobs}
