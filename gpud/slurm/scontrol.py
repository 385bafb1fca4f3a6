"""A small `scontrol`: what scripts ask it for. Changes of jobs are gpuctl's.

scontrol show hostnames [LIST]      scontrol show job [ID]      scontrol requeue|hold|release|cancel JOB...
scontrol write batch_script [ID [FILE|-]]
scontrol update JobId=ID [TimeLimit=TIME] [JobName=NAME] [Nice=N] [ArrayTaskThrottle=N] [Dependency=...] [StartTime=]
"""

import itertools
import os
import re
import sys
import time
from collections.abc import Callable

from gpud.slurm.jobs import Row, gpuctl, gpuctl_words, job_name, job_number, moment, state

_OWN_S = 10.0  # to wait for gpud about what a job knows of itself
_PART = re.compile(r"([^,\[\]]*)(?:\[([^\]]*)\])?([^,\[\]]*)(?:,|$)")


def hostnames(text: str) -> list[str]:
    """Return the names of a list: `gpu[01-03,7],head`."""
    found = []
    for match in _PART.finditer(text):
        head, inner, tail = match.groups()
        if inner is None and not head + tail:
            continue
        middles = [""] if inner is None else list(itertools.chain(*map(_range, inner.split(","))))
        found += [f"{head}{middle}{tail}" for middle in middles]
    return found


def _range(text: str) -> list[str]:
    low, dash, high = text.partition("-")
    if not dash or not (low.isdigit() and high.isdigit()):
        return [text]
    return [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]


def about(env: dict[str, str], *, state: str = "RUNNING", reason: str = "None", code: str = "0:0") -> str:
    """Return a job as `scontrol show job` does, in what scripts look for, from what it was told of itself."""
    job, output = env.get("SLURM_JOB_ID", ""), env.get("GPUD_STEP_OUTPUT", "")
    gpus, cpus = env.get("SLURM_GPUS", "0"), env.get("SLURM_CPUS_ON_NODE", "1")
    memory = f",mem={env['SLURM_MEM_PER_NODE']}M" if "SLURM_MEM_PER_NODE" in env else ""
    array = ""
    if "SLURM_ARRAY_JOB_ID" in env:
        array = f" ArrayJobId={env['SLURM_ARRAY_JOB_ID']} ArrayTaskId={env['SLURM_ARRAY_TASK_ID']}"
    lines = [
        f"JobId={job}{array} JobName={env.get('SLURM_JOB_NAME', '')}",
        f"UserId={env.get('SLURM_JOB_USER', '')}({env.get('SLURM_JOB_UID', '')})",
        f"JobState={state} Reason={reason} Restarts={env.get('SLURM_RESTART_COUNT', '0')} ExitCode={code}",
        f"TimeLimit={_duration(env)} StartTime={_date(env, 'START')} EndTime={_date(env, 'END')}",
        f"Partition={env.get('SLURM_JOB_PARTITION', '')} Account={env.get('SLURM_JOB_ACCOUNT', '')}",
        f"NodeList={env.get('SLURM_JOB_NODELIST', '')} BatchHost={env.get('SLURMD_NODENAME', '')}",
        f"NumNodes={env.get('SLURM_NNODES', '1')} NumCPUs={cpus} NumTasks={env.get('GPUD_STEP_TASKS', '1')}",
        f"TRES=cpu={cpus}{memory},node={env.get('SLURM_NNODES', '1')},gres/gpu={gpus}",
        f"Command={env.get('GPUD_SCRIPT', '')}",
        f"WorkDir={env.get('SLURM_SUBMIT_DIR', '')}",
        f"StdErr={env.get('GPUD_STEP_ERROR') or output}",
        "StdIn=/dev/null",
        f"StdOut={output}",
    ]
    return "\n   ".join(lines)


def own() -> str:
    """Return this job: as it was told when it began, but for its end, which may have been moved since."""
    env = dict(os.environ)
    now, _ = _asked(env.get("GPUD_JOB_ID", ""), silent_s=_OWN_S) or ({}, {})
    if "SLURM_JOB_START_TIME" in now:  # else gpud does not answer, without which jobs run on
        fresh = ("SLURM_JOB_END_TIME", "GPUD_STEP_LIMIT", "GPUD_STEP_ERROR")
        env = {name: value for name, value in env.items() if name not in fresh}
        env |= {name: now[name] for name in fresh if name in now}
    return about(env)


def other(job: str) -> str | None:
    """Return another job as `about` does; None where gpuctl knows none, and says so."""
    found = _asked(job)
    if found is None:
        return None
    env, row = found
    code = f"{row['exit_code'] or 0}:{row['signal'] or 0}"
    return about(env, state=state(row), reason=(row["reason"] or "None").replace(" ", "_"), code=code)


def _asked(job: str, silent_s: float | None = None) -> tuple[dict[str, str], Row] | None:
    """Return a job as it is told of itself, and as gpuctl shows it; None where it shows none, or not in that time."""
    import json  # noqa: PLC0415 - lists of hosts are asked for by every task
    import subprocess  # noqa: PLC0415 - as above

    command = [*gpuctl_words(), "--json", "show", job]
    errors = None if silent_s is None else subprocess.DEVNULL
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, timeout=silent_s, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        return None
    row = json.loads(done.stdout)
    began, ended, limit = moment(row["started_at"]), moment(row["ended_at"]), row["time_limit_s"]
    ends = ended if ended is not None or None in (began, limit) else began + limit
    element = row["array_index"] is not None
    told = {
        "SLURM_JOB_ID": job_number(row["id"]),
        "SLURM_ARRAY_JOB_ID": row["id"].partition("_")[0] if element else None,
        "SLURM_ARRAY_TASK_ID": row["array_index"],
        "SLURM_JOB_NAME": row["name"],
        "SLURM_JOB_USER": row["user"],
        "SLURM_JOB_UID": row["uid"],
        "SLURM_RESTART_COUNT": row["attempt"] - 1 if row["attempt"] else 0,
        "SLURM_JOB_PARTITION": row["labels"].get("partition", "gpud"),
        "SLURM_JOB_ACCOUNT": row["labels"].get("account"),
        "SLURM_JOB_NODELIST": ",".join(part["node"] for part in row["allocation"]),
        "SLURMD_NODENAME": row["allocation"][0]["node"] if row["allocation"] else None,
        "SLURM_NNODES": row["nodes"],
        "SLURM_CPUS_ON_NODE": row["cpus"] or 1,
        "SLURM_MEM_PER_NODE": row["memory_mib"],
        "SLURM_GPUS": row["gpus"],
        "SLURM_SUBMIT_DIR": row["workdir"],
        "SLURM_JOB_START_TIME": began and int(began),
        "SLURM_JOB_END_TIME": ends and int(ends),
        "GPUD_STEP_LIMIT": "" if limit is None else int(limit),
        "GPUD_SCRIPT": row["command"][0] if row["command"] else None,
        "GPUD_STEP_OUTPUT": row["output"],
        "GPUD_STEP_ERROR": row["error"],
    }
    return {name: str(value) for name, value in told.items() if value is not None}, row


def _date(env: dict[str, str], which: str) -> str:
    at = env.get(f"SLURM_JOB_{which}_TIME")
    return "Unknown" if at is None else time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(int(at)))


def _duration(env: dict[str, str]) -> str:
    """Return the time limit as Slurm writes it: `1-02:00:00`."""
    limit = env.get("GPUD_STEP_LIMIT")
    if limit is None and "SLURM_JOB_END_TIME" in env:
        limit = str(int(env["SLURM_JOB_END_TIME"]) - int(env["SLURM_JOB_START_TIME"]))
    if not limit:
        return "UNLIMITED"
    days, seconds = divmod(int(limit), 86_400)
    return f"{f'{days}-' if days else ''}{time.strftime('%H:%M:%S', time.gmtime(seconds))}"


def main(words: list[str]) -> int:
    """Do what the words ask for; return the exit status."""
    plain = [word for word in words if not word.startswith("-") or word == "-"]
    this = os.environ.get("SLURM_JOB_ID", "")
    one_line = any(word in ("-o", "--oneliner") for word in words)
    match plain:
        case ["show", what, *lists] if "hostnames".startswith(what.lower()) and len(what) > 4:
            print("\n".join(hostnames(",".join(lists) or os.environ.get("SLURM_JOB_NODELIST", ""))))  # noqa: T201 - asked
        case ["show", "hostlist" | "hostlistsorted", *lists]:
            print(",".join(lists))  # noqa: T201 - it is what was asked for
        case ["show", what, *jobs] if what.lower().partition("=")[0] in ("job", "jobs", "jobid"):
            jobs = [*what.split("=")[1:], *jobs]
            if jobs and job_name(jobs[0]) not in (job_name(this), os.environ.get("GPUD_JOB_ID")):
                text = other(job_name(jobs[0]))
            else:
                text = own()
            if text is None:
                return 1
            print(text.replace("\n  ", "") if one_line else text)  # noqa: T201 - as above
        case ["write", "batch_script"]:
            return write(this, f"slurm-{this}.sh")
        case ["write", "batch_script", job, *to] if job_name(job) == job_name(this) and len(to) < 2:
            return write(this, *(to or [f"slurm-{job}.sh"]))
        case ["update", *pairs]:
            return update(pairs)
        case [("requeue" | "hold" | "release" | "cancel") as change, *jobs] if jobs:
            return gpuctl(change, *(job_name(each) for job in jobs for each in job.split(",")))
        case _:
            sys.stderr.write(f"scontrol: error: gpud's scontrol cannot do this: {' '.join(words)}\n")
            return 1
    return 0


def update(pairs: list[str]) -> int:
    """Change jobs, as `gpuctl update` does."""
    said = [pair.partition("=") for pair in pairs]
    job = next((value for name, _, value in said if name.lower() in ("job", "jobid")), "")
    if not job and len(pairs) > 1 and pairs[0].lower() in ("job", "jobid"):  # `scontrol update job 12 ...`
        job, said = pairs[1], said[2:]
    words: list[str] = []
    for name, _, value in said:
        make = _CHANGES.get(name.lower())
        if name.lower() in ("job", "jobid"):
            continue
        try:
            words += make(value) if make is not None else _unknown(name)
        except ValueError as error:
            sys.stderr.write(f"scontrol: error: {error}\n")
            return 1
    if not job or not words:
        sys.stderr.write("scontrol: error: name a job, and what to change of it: JobId=12 TimeLimit=2:00:00\n")
        return 1
    return gpuctl("update", *(job_name(each) for each in job.split(",")), *words)


def _unknown(name: str) -> list[str]:
    raise ValueError(f"gpud's scontrol cannot change {name}: {', '.join(_KNOWN)}")


def _limit(text: str) -> list[str]:
    """Return a time as Slurm writes it: minutes, MM:SS, HH:MM:SS, D-HH:MM:SS; + and - change it by that."""
    if text.upper() in ("UNLIMITED", "INFINITE", "-1"):
        return ["--time-limit", "none"]
    sign = text[:1] if text[:1] in ("+", "-") else ""
    days, dash, clock = text[len(sign) :].rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (*parts, days or "0")) or len(parts) > 3:
        raise ValueError(f"{text!r} is no time; write MINUTES, HH:MM:SS or D-HH:MM:SS")
    if dash:
        parts += ["0"] * (3 - len(parts))
    elif len(parts) == 1:
        parts = ["0", *parts, "0"]
    hours, minutes, seconds = ["0", *parts][-3:]
    total = ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(seconds)
    return [f"--time-limit={sign}{total}s"]


def _after(text: str) -> list[str]:
    """Return `afterok:1:2,afterany:3` in gpuctl's words; nothing for nothing."""
    words = []
    for part in filter(None, text.split(",")):
        kind, *jobs = part.split(":")
        if kind.lower() not in _AFTER or not jobs:
            raise ValueError(f"{part!r} cannot be changed to here; write afterok:12:13, afterany: or afternotok:")
        words.append(f"--after={_AFTER[kind.lower()]}:{','.join(map(job_name, jobs))}")
    return words or ["--after=none"]


def _nice(text: str) -> list[str]:
    if not text.lstrip("+-").isdigit():
        raise ValueError(f"Nice={text}: not a number")
    return [f"--priority={-int(text)}"]


_AFTER = {"after": "any", "afterany": "any", "afterok": "success", "afternotok": "failed"}
_KNOWN = ("TimeLimit", "JobName", "Nice", "ArrayTaskThrottle", "Dependency", "StartTime", "Comment")
_CHANGES: dict[str, Callable[[str], list[str]]] = {
    "timelimit": _limit,
    "jobname": lambda text: [f"--name={text}"],
    "name": lambda text: [f"--name={text}"],
    "nice": _nice,
    "arraytaskthrottle": lambda text: [f"--array=%{text}" if text.strip("0") else "--array=none"],
    "dependency": _after,
    "starttime": lambda text: [f"--begin={text}"],
    "comment": lambda text: [f"--label=comment={text}"],
}


def write(job: str, to: str) -> int:
    """Write this job's script to a file, or for `-` to stdout."""
    try:
        with open(os.environ.get("GPUD_STEP_LOCKS", ""), "rb") as file, open(1 if to == "-" else to, "wb") as copy:
            copy.write(file.read())
    except OSError as error:
        sys.stderr.write(f"scontrol: error: {error.filename or to}: {error.strerror}\n")
        return 1
    if to != "-":
        print(f"batch script for job {job} written to {to}")  # noqa: T201 - as Slurm's says it
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
