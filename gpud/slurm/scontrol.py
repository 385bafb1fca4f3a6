"""A small `scontrol`: what scripts ask it for. Changes of jobs are gpuctl's.

scontrol show hostnames [LIST]      scontrol show job [ID]      scontrol requeue|hold|release|cancel JOB...
scontrol write batch_script [ID [FILE|-]]
"""

import itertools
import os
import re
import sys
import time

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
        case [("requeue" | "hold" | "release" | "cancel") as change, *jobs] if jobs:
            return gpuctl(change, *(job_name(each) for job in jobs for each in job.split(",")))
        case _:
            sys.stderr.write(f"scontrol: error: gpud's scontrol cannot do this: {' '.join(words)}\n")
            return 1
    return 0


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
