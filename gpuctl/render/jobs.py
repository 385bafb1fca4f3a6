"""Jobs for people: a row each, or everything about one."""

import shlex
import signal
import time
from collections.abc import Sequence
from typing import Any

from gpuctl.following import progress
from gpuctl.render import results
from gpuctl.render.text import (
    NO_LIMIT,
    Column,
    aligned,
    cell_len,
    clean,
    clock,
    colored,
    cut,
    in_words,
    plural,
    table,
    terminal_width,
)
from gpud.model.units import format_duration, format_size

Job = dict[str, Any]

ENDS = frozenset({"completed", "failed", "cancelled", "timed_out", "lost"})
ACTIVE = frozenset({"starting", "running", "stopping"})
_ELEMENTS_SHOWN = 20
_COMMAND_LEAST = 24
_PREEMPTIBLE = {True: "preemptible", False: "not preemptible"}
ID = Column("ID", elastic=True, least=20)  # an array's may name hundreds of elements
_COLUMNS = (
    Column("HOST"),  # of several; left out of one
    ID,
    Column("STATE"),
    Column("NAME", elastic=True),
    Column("USER", elastic=True),
    Column("GPUS", right=True),
    Column("PRIO", right=True),
    Column("TIME", right=True),
    Column("WHERE OR WHY", elastic=True),
)


def rows(jobs: Sequence[Job], *, now: float | None = None, width: int | None = None) -> list[str]:
    """Return the table of jobs. The users' column is left out where all are one user's, priorities where all are 0."""
    now = time.time() if now is None else now
    several = len({job["user"] for job in jobs}) > 1
    cells = [_row(job, now, several) for job in jobs]
    width = terminal_width() if width is None else width
    heading, *lines = _with_commands(table(_COLUMNS, cells, width=width), jobs, width)
    return [heading, *(colored(line, job["state"]) for line, job in zip(lines, jobs, strict=True))]


def _with_commands(lines: list[str], jobs: Sequence[Job], width: int) -> list[str]:
    """Return a table with what each job runs behind it, where that differs and a terminal has room for it."""
    commands = [clean(" ".join(job.get("command") or ())) for job in jobs]
    used = max(map(cell_len, lines)) + 2
    if width == NO_LIMIT or width - used < _COMMAND_LEAST or len(set(commands)) < 2:
        return lines
    told = ["COMMAND", *(cut(command, width - used) for command in commands)]
    return [(aligned(line, used) + what).rstrip() for line, what in zip(lines, told, strict=True)]


def _row(job: Job, now: float, several_users: bool) -> tuple[str, ...]:
    return (
        job.get("host", ""),
        written_id(job),
        job["state"],
        job["name"],
        job["user"] if several_users else "",
        gpus_wanted(job),
        str(job["priority"] or ""),
        time_of(job, now),
        where_or_why(job, now),
    )


def gpus_wanted(job: Job) -> str:
    """Return how many GPUs it has or wants; of memory that it shares, how much: `2`, `0.25`, `8G`, `2x8G`."""
    count = job["gpus"]
    if not job.get("share") or not job["gpu_memory_mib"] or count < 1:
        return str(count)
    size = format_size(job["gpu_memory_mib"])
    return size if count == 1 else f"{count:g}x{size}"


def written_id(job: Job) -> str:
    """Return an id; an array's row says which elements have not started: `14_[3-9]`."""
    pending = job.get("array_pending")
    return f"{job['id']}_[{pending}]" if pending else str(job["id"])


def time_of(job: Job, now: float) -> str:
    """Return how long it ran, or has waited; nothing of one that never started."""
    if job["started_at"] is None:
        return "" if job["ended_at"] is not None else format_duration(now - job["submitted_at"])
    return format_duration((job["ended_at"] or now) - job["started_at"])


def where_or_why(job: Job, now: float) -> str:
    """Return where it runs, how it ended, or why it waits."""
    if job["state"] in ENDS:
        return ending(job)
    if job["state"] in ACTIVE:
        return "; ".join(filter(None, (where(job), how_far(job), job["reason"])))
    expected = job["expected_start_at"]
    start = f" (starts {in_words(expected, now)})" if expected is not None and expected > now else ""
    return (job["reason"] or "") + start


def how_far(job: Job) -> str:
    """Return how far it is, in a few words: `40%, about 12m left`."""
    told = job.get("progress")
    return "" if told is None else progress.in_words(told)


def _progress(job: Job) -> str | None:
    told = job.get("progress")
    if told is None:
        return None
    count = f"{told['done']:g}/{told['total']:g}"
    source = None if told["told"] else "read in its log"
    message = None if progress.within_epoch(told) else told["message"]  # it is in the words
    return "; ".join(filter(None, (f"{progress.in_words(told)} ({count})", message, source)))


def _commit(answer: dict[str, Any]) -> str | None:
    """Return what git had of the directory when the job was submitted."""
    changed = {True: " and changes", None: ""}.get(answer.get("dirty"), ", unchanged")
    return f"{answer['commit'][:12]}{changed}" if answer.get("commit") else None


def where(job: Job) -> str:
    """Return the node and the GPUs by their numbers: `host:0-3,7`."""
    parts = [(part["node"], part.get("gpu_indices") or []) for part in job["allocation"] or []]
    return " ".join(f"{node}:{_ranges(gpus)}" if gpus else node for node, gpus in parts)


def _ranges(indices: Sequence[int | None]) -> str:
    """Return numbers with runs of three and more joined; `?` is a GPU that is not there any more."""
    known = sorted(index for index in indices if index is not None)
    words: list[str] = []
    while known:
        run = 1
        while run < len(known) and known[run] == known[0] + run:
            run += 1
        words += [f"{known[0]}-{known[run - 1]}"] if run > 2 else map(str, known[:run])
        known = known[run:]
    return ",".join(words + ["?"] * sum(index is None for index in indices))


def ending(job: Job) -> str:
    """Return how it ended, in gpud's words where it has some: `exit code 3`, `no such command: pyhton`."""
    counts = job.get("array_counts")
    if counts:
        return ", ".join(f"{count} {end}" for end, count in counts.items())
    if job["reason"]:
        return str(job["reason"])
    if job["signal"] is None:
        return ""
    return "given back" if job.get("claim") and job["state"] == "cancelled" else killed_by(job["signal"])


def killed_by(number: int) -> str:
    """Return a signal as gpud's own reasons write it: `killed by SIGTERM`."""
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"


def written_end(job: Job) -> str:
    """Return how a job ended, in a line: `job 12 failed: exit 3`."""
    how = ending(job)
    return f"job {job['id']} {job['state'].replace('_', ' ')}" + (f": {clean(how)}" if how else "")


def whole(answer: dict[str, Any], *, now: float | None = None) -> list[str]:
    """Return everything about one job, a line a fact."""
    job, now = answer["job"], time.time() if now is None else now
    kind = "array" if "array" in job else "job"
    lines = [colored(f"{kind} {job['id']} {clean(job['name'])}: {job['state']}", job["state"])]
    facts = [
        ("why" if job["state"] not in ENDS else "end", answer.get("happened") or _why(job, now)),
        ("stopped", f"by a signal; it goes on with: gpuctl signal {job['id']} CONT" if answer.get("stopped") else None),
        ("command", shlex.join(job["command"]) if job["command"] else None),
        ("directory", job["workdir"]),
        ("commit", _commit(answer)),
        ("user", f"{job['user']} (uid {job['uid']})"),
        ("demand", demand(job)),
        ("after", ", ".join(job.get("after") or ())),
        ("before", ", ".join(answer.get("dependents") or ())),
        ("priority", str(job["priority"]) if job["priority"] else None),
        ("labels", " ".join(f"{key}={value}" for key, value in job["labels"].items())),
        ("elements", _elements(job)),
        ("submitted", _moment(job["submitted_at"], now)),
        ("begins", _moment(job.get("begin_at"), now) if job["started_at"] is None else None),
        ("started", _moment(job["started_at"], now)),
        ("ended", _moment(job["ended_at"], now)),
        ("ran", _ran(job)),
        ("on", where(job)),
        ("progress", _progress(job)),
        ("used", _used(answer["attempts"])),
        *results.facts(answer.get("results")),
        ("cgroup", _cgroup(answer.get("confined"))),
        ("fence", _fence(answer.get("confined"))),
        ("lost", _lost(answer)),
        ("output", None if "array" in job else job["output"]),
        ("errors", job.get("error")),
        ("left over", _left_over(answer["attempts"])),
        ("containers", _containers(job, answer["events"])),
    ]
    lines += [line for name, value in facts if value for line in _fact(name, value)]
    lines += [f"    {line}" for line in results.by_gpu(answer.get("results"))]
    environment = answer.get("environment")
    if environment:
        lines.append(f"  {'variables':<10} {plural(len(environment), 'variable')} sent; their names: --json")
    if len(answer["attempts"]) > 1 or (answer["attempts"] and job["state"] not in ENDS and job["attempt"] > 1):
        lines += ["  attempts", *(f"    {line}" for line in _attempts(answer["attempts"]))]
    if answer.get("elements"):
        last = answer["elements"][-_ELEMENTS_SHOWN:]
        some = f", the last {len(last)} of {len(answer['elements'])}" if len(last) < len(answer["elements"]) else ""
        lines += [f"  started elements{some}", *(f"    {line}" for line in rows(last, now=now))]
    return lines


def _fact(name: str, value: str) -> list[str]:
    """Return a fact; a command as the lines that it was written in."""
    first, *rest = value.expandtabs().split("\n") if name == "command" else [value]
    return [f"  {name:<10} {clean(first)}", *(f"  {'':<10} {clean(line)}" for line in rest)]


def _why(job: Job, now: float) -> str:
    if job["state"] == "completed":
        return "exit 0"
    return (
        (ending(job) if job["state"] in ENDS else where_or_why(job, now))
        if job["state"] not in ACTIVE
        else job["reason"] or ""
    )


def demand(job: Job) -> str:
    """Return what it needs: `16 GPUs on 2 nodes (80G each, H100), 8 CPUs, 64G memory, at most 2h`."""
    of = "of each" if job.get("share") and job["gpus"] >= 1 else "each"
    each = [f"{format_size(job['gpu_memory_mib'])} {of}"] if job["gpu_memory_mib"] else []
    each += [job["gpu_type"]] if job["gpu_type"] else []
    gpus = plural(job["gpus"], f"{job['mig']} instance" if job.get("mig") else "GPU") if job["gpus"] else "no GPU"
    gpus += f" on {job['nodes']} nodes" if job.get("nodes", 1) > 1 else ""
    words = [gpus + (f" ({', '.join(each)})" if each else "")]
    words += [f"only {' '.join(job['gpu_ids'])}"] if job.get("gpu_ids") else []
    words += [f"not {' '.join(job['excluded'])}"] if job.get("excluded") else []
    words += [f"pool {job['pool']}"] if job.get("pool") else []
    words += [plural(job["cpus"], "CPU")] if job.get("cpus") else []
    words += [f"{format_size(job['memory_mib'])} memory"] if job.get("memory_mib") else []
    words += [f"at most {format_duration(job['time_limit_s'])}"] if job["time_limit_s"] else []
    words += [f"about {format_duration(job['estimate_s'])}"] if job.get("estimate_s") else []
    words += [_PREEMPTIBLE[job["preemptible"]]] if job.get("preemptible") is not None else []
    words += [_retries(job)] if job["retries"] or job.get("retry_on") else []
    return ", ".join(words)


def _retries(job: Job) -> str:
    kinds = job.get("retry_on") or ()
    times = plural(job["retries"], "retry").replace("retrys", "retries") if job["retries"] else "again"
    return times + (f" on {', '.join(kinds)}" if kinds else "")


def _elements(job: Job) -> str | None:
    if "array" not in job:
        return None
    words = [f"{count} {state}" for state, count in (job.get("array_counts") or {}).items() if count]
    words += [f"at most {job['array_limit']} at once"] if job.get("array_limit") else []
    return ": ".join(filter(None, (job["array"], ", ".join(words))))


def _moment(at: float | None, now: float) -> str | None:
    return None if at is None else f"{clock(at)} ({in_words(at, now)})"


def _ran(job: Job) -> str | None:
    if job["started_at"] is None or job["ended_at"] is None:
        return None
    return format_duration(job["ended_at"] - job["started_at"])


def _left_over(attempts: Sequence[dict[str, Any]]) -> str | None:
    """Return how many processes the last attempt left behind; they ended with it."""
    count = attempts[-1].get("leftovers") if attempts else None
    return f"{count} of its processes still ran at its end, and were ended too" if count else None


def _containers(job: Job, events: Sequence[dict[str, Any]]) -> str | None:
    """Return what came of the containers that its last attempt with any left behind; None where there were none."""
    told = [each["detail"] for each in events if each["kind"] == "containers" and each["job"] == job["id"]]
    return told[-1].get("reason") if told else None


def _used(attempts: Sequence[dict[str, Any]]) -> str | None:
    """Return what the last attempt took of the machine."""
    last = attempts[-1] if attempts else {}
    if last.get("could_not_start"):
        return None  # it would be what gpud itself had for trying
    words = [] if last.get("cpu_s") is None else [f"{format_duration(last['cpu_s'])} of CPU time"]
    if last.get("peak_mib") is not None:
        words.append(f"{format_size(last['peak_mib'])} of memory at most")
    elif last.get("max_rss_mib") is not None:
        words.append(f"{format_size(last['max_rss_mib'])} of memory at most in one process")
    return ", ".join(words)


def _cgroup(confined: dict[str, Any] | None) -> str | None:
    """Return whether a running job has a cgroup, and what that means."""
    if confined is None:
        return None
    limits = confined.get("limits")
    if limits is None:
        return "none: it is ended by its process tree, and its memory is not limited"
    return f"its own, with {', '.join(limits)}" if limits else "its own, without limits: no controller is handed down"


def _fence(confined: dict[str, Any] | None) -> str | None:
    """Return what keeps a running job from others' GPUs, and what does not."""
    match None if confined is None else confined.get("fence"):
        case "devices":
            return "devices: it opens no GPU but its own; who starts processes elsewhere (ssh, cron, docker) gets out"
        case "landlock":
            return (
                "landlock: it opens no GPU but its own, and mounts nothing; no setuid programs where gpud is not root"
            )
        case _:
            return None if confined is None else "none: nothing but CUDA_VISIBLE_DEVICES keeps it from others' GPUs"


def _lost(answer: dict[str, Any]) -> str | None:
    """Return what was thrown away because the job was preempted."""
    lost_s = answer.get("lost_gpu_s")
    return f"{format_duration(lost_s)} of GPU time, preempted" if lost_s else None


def _attempts(attempts: Sequence[dict[str, Any]]) -> list[str]:
    columns = (
        Column("ATTEMPT", right=True),
        Column("STARTED"),
        Column("ENDED"),
        Column("CPU", right=True),
        Column("MEMORY", right=True),
        Column("END", elastic=True),
    )
    return table(
        columns,
        [
            (
                str(each["attempt"]),
                clock(each.get("started_at")),
                clock(each.get("ended_at")),
                "" if each.get("cpu_s") is None else format_duration(each["cpu_s"]),
                "" if each.get("max_rss_mib") is None else format_size(each["max_rss_mib"]),
                _attempt_end(each),
            )
            for each in attempts
        ],
    )


def _attempt_end(attempt: dict[str, Any]) -> str:
    if attempt.get("ended_at") is None:
        return "running"
    code, by = attempt.get("exit_code"), attempt.get("signal")
    words = killed_by(by) if by is not None else "" if code is None else f"exit {code}"
    cause = (attempt.get("stop_cause") or ("timed_out" if attempt.get("timed_out") else "")).replace("_", " ")
    reason = attempt.get("reason") or ""
    words = "" if by is not None and reason.startswith(words) else words
    return "; ".join(filter(None, (words, reason, cause)))
