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

_SHIFT = 24  # an element is one number to Slurm: see gpud.model.job
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


def job_name(word: str) -> str:
    """Return a job as gpuctl calls it, from the number that SLURM_JOB_ID has of it."""
    number = word.removeprefix("JobId=").removeprefix("jobid=")
    if number.isdigit() and int(number) >> _SHIFT and (index := int(number) & ((1 << _SHIFT) - 1)):
        return f"{int(number) >> _SHIFT}_{index - 1}"
    return number


def job_number(name: str) -> str:
    """Return the number that SLURM_JOB_ID has of a job: the inverse of `job_name`."""
    number, _, index = name.partition("_")
    return str((int(number) << _SHIFT) + int(index) + 1) if index.isdigit() else number


def about(env: dict[str, str]) -> str:
    """Return this job as `scontrol show job` does, in what scripts look for."""
    job, output = env.get("SLURM_JOB_ID", ""), env.get("GPUD_STEP_OUTPUT", "")
    gpus, cpus = env.get("SLURM_GPUS", "0"), env.get("SLURM_CPUS_ON_NODE", "1")
    memory = f",mem={env['SLURM_MEM_PER_NODE']}M" if "SLURM_MEM_PER_NODE" in env else ""
    array = ""
    if "SLURM_ARRAY_JOB_ID" in env:
        array = f" ArrayJobId={env['SLURM_ARRAY_JOB_ID']} ArrayTaskId={env['SLURM_ARRAY_TASK_ID']}"
    lines = [
        f"JobId={job}{array} JobName={env.get('SLURM_JOB_NAME', '')}",
        f"UserId={env.get('SLURM_JOB_USER', '')}({env.get('SLURM_JOB_UID', '')})",
        f"JobState=RUNNING Reason=None Restarts={env.get('SLURM_RESTART_COUNT', '0')} ExitCode=0:0",
        f"TimeLimit={_duration(env)} StartTime={_date(env, 'START')} EndTime={_date(env, 'END')}",
        f"Partition={env.get('SLURM_JOB_PARTITION', '')} Account={env.get('SLURM_JOB_ACCOUNT', '')}",
        f"NodeList={env.get('SLURM_JOB_NODELIST', '')} BatchHost={env.get('SLURMD_NODENAME', '')}",
        f"NumNodes={env.get('SLURM_NNODES', '1')} NumCPUs={cpus} NumTasks={env.get('GPUD_STEP_TASKS', '1')}",
        f"TRES=cpu={cpus}{memory},node={env.get('SLURM_NNODES', '1')},gres/gpu={gpus}",
        f"Command={env.get('GPUD_SCRIPT', '')}",
        f"WorkDir={env.get('SLURM_SUBMIT_DIR', '')}",
        f"StdErr={output}",
        "StdIn=/dev/null",
        f"StdOut={output}",
    ]
    return "\n   ".join(lines)


def _date(env: dict[str, str], which: str) -> str:
    at = env.get(f"SLURM_JOB_{which}_TIME")
    return "Unknown" if at is None else time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(int(at)))


def _duration(env: dict[str, str]) -> str:
    """Return the time limit as Slurm writes it: `1-02:00:00`."""
    if "SLURM_JOB_END_TIME" not in env:
        return "UNLIMITED"
    days, seconds = divmod(int(env["SLURM_JOB_END_TIME"]) - int(env["SLURM_JOB_START_TIME"]), 86_400)
    return f"{f'{days}-' if days else ''}{time.strftime('%H:%M:%S', time.gmtime(seconds))}"


def main(words: list[str]) -> int:
    """Do what the words ask for; return the exit status."""
    plain = [word for word in words if not word.startswith("-") or word == "-"]
    own = os.environ.get("SLURM_JOB_ID", "")
    one_line = any(word in ("-o", "--oneliner") for word in words)
    match plain:
        case ["show", what, *lists] if "hostnames".startswith(what.lower()) and len(what) > 4:
            print("\n".join(hostnames(",".join(lists) or os.environ.get("SLURM_JOB_NODELIST", ""))))  # noqa: T201 - asked
        case ["show", "hostlist" | "hostlistsorted", *lists]:
            print(",".join(lists))  # noqa: T201 - it is what was asked for
        case ["show", what, *jobs] if what.lower().partition("=")[0] in ("job", "jobs", "jobid"):
            jobs = [*what.split("=")[1:], *jobs]
            if jobs and job_name(jobs[0]) not in (job_name(own), os.environ.get("GPUD_JOB_ID")):
                return gpuctl("show", job_name(jobs[0]))
            text = about(dict(os.environ))
            print(text.replace("\n  ", "") if one_line else text)  # noqa: T201 - as above
        case ["write", "batch_script"]:
            return write(own, f"slurm-{own}.sh")
        case ["write", "batch_script", job, *to] if job_name(job) == job_name(own) and len(to) < 2:
            return write(own, *(to or [f"slurm-{job}.sh"]))
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


def gpuctl(*words: str) -> int:
    """Let gpuctl do it."""
    command = [*gpuctl_words(), *words]
    os.execv(command[0], command)  # noqa: S606 - without a shell


def gpuctl_words() -> list[str]:
    """Return how gpuctl is called from here."""
    python = os.environ.get("GPUD_STEP_PYTHON", sys.executable)
    begin = "import sys; sys.path.append(sys.argv.pop(1)); from gpuctl.__main__ import main; main()"
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [python, "-I", "-c", begin, root]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
