"""What an `update` or a `signal` asks of jobs, from what they are. All that can be wrong with it is said here."""

import json
import signal
from dataclasses import replace
from typing import Any

from gpud.check import Wrong
from gpud.core.commands import Update
from gpud.model.job import Demand, JobId, array_of, format_job
from gpud.model.spec import Rewrite, Terms, name_group
from gpud.selection import ENDED, Chosen, Owner, outermost
from gpud.store.reader import Reader
from gpud.store.rows import JobRow
from gpud.submission import checked, demand_of, environment_of, rewrite_of
from gpud.wire.changes import PartOfDemand
from gpud.wire.changes import Update as UpdateMessage

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
    "labels": "its labels",
    "variables": "its environment",
    "workdir": "its directory",
    "output": "its output",
    "error": "its output",
}
_ALWAYS = {"priority": "its priority", "notify": "whom it tells"}  # of what runs, too
_PRIVATE = {"variables", "workdir", "output", "error", "notify"}  # else an operator could run anything as anybody
_LIMIT = ("time_limit_s", "time_limit_more_s", "unlimited")
_TERMS = ("estimate_s", "grace_s", "preemptible", "retries")

Notes = tuple[tuple[JobId, str], ...]


def changes_of(reader: Reader, message: UpdateMessage, chosen: Chosen, *, by: Owner) -> tuple[Update, Notes]:
    """Return the command for an update, its token and begin time apart, and why it does not reach some. Raises Wrong.

    What runs as a user, and where it writes, is that user's alone to change, whatever the role of others. On the
    reading thread: what the jobs are is looked up.
    """
    live = outermost(chosen)
    waiting_only = tuple(dict.fromkeys(words for key, words in _SAID.items() if key in message))
    said = [*waiting_only]
    said += ["its time limit"] * any(key in message for key in _LIMIT)
    said += [words for key, words in _ALWAYS.items() if key in message]
    if not said:
        raise Wrong("nothing to change is named", "see what can be: gpuctl update --help")
    ended = ((job, state.replace("_", " ")) for job, state in chosen.states.items() if state in ENDED)
    notes = tuple((job, f"has ended already: {state}") for job, state in ended)
    rows = _rows(reader, live)
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
        known = (row.terms, row.name)
        if known not in made:
            made[known] = _terms(row.terms, message)
        jobs.append((job, made[known]))
    rewrite, environments = rewrite_of(message), _environments(reader, message, list(rows))
    asked = Update(
        0,
        tuple(jobs),
        said=tuple(said),
        waiting_only=waiting_only,
        rewrite=rewrite,
        environments=environments,
        more_s=more_s,
        priority=message.get("priority"),
        by=by.name,
    )
    return asked, notes


def written(update: Update) -> int:
    """Return about how many bytes an update has the store write: what is new, for each job."""
    each = len(repr(update.rewrite)) if update.rewrite != Rewrite() else 0
    return len(update.jobs) * each + sum(map(len, {data for _, data in update.environments}))


def checked_signal(number: int) -> int:
    """Return the number of a signal that can be sent to a job. Raises Wrong."""
    if not 1 <= number < 32:
        raise Wrong(f"there is no signal {number}", "there are 1 to 31; by name: USR1, TERM, HUP ...")
    if number == signal.SIGKILL:
        raise Wrong("a job is killed by cancelling it", "gpuctl cancel --force JOB")
    return number


def _rows(reader: Reader, jobs: tuple[JobId, ...]) -> dict[JobId, JobRow]:
    """Return the row of each job, of an element that has not started its array's."""
    found: dict[JobId, JobRow] = {}
    for job in jobs:
        row = reader.job(job) or found.get(array_of(job)) or reader.job(array_of(job))
        if row is not None:
            found[job] = row
    return found


def _terms(terms: Terms, message: UpdateMessage) -> Terms:
    said: dict[str, Any] = {key: message.get(key) for key in _TERMS if key in message}
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
    if new.pop("whole", False) or any(key in new for key in shares):
        now |= dict.fromkeys(shares)
    if "share_mib" in new:
        now["gpu_memory_mib"] = None
    return {key: value for key, value in (now | new).items() if value is not None and value != []}


def _environments(reader: Reader, message: UpdateMessage, jobs: list[JobId]) -> tuple[tuple[JobId, bytes], ...]:
    """Return the environments of jobs with what is new in them."""
    new = message.get("variables")
    if not new:
        return ()
    made: dict[bytes, bytes] = {}
    found = reader.environments([*jobs, *map(array_of, jobs)])
    for data in set(found.values()):
        made[data] = environment_of(json.loads(data) | new)
    return tuple((job, made[found.get(job, found[array_of(job)])]) for job in jobs)
