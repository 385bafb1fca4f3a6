"""What in a script's own commands, or in its comments, will not be as it was on its cluster.

The commands are not understood, only looked at: better a word too much on stderr than a job that fails at night.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterator

from gpuctl.slurm.lines import here_documents, lines_of

# What srun tells its tasks alone: `$SLURM_NTASKS` and `$((SLURM_NTASKS-1))`, not `${SLURM_NTASKS:-1}`.
_OWN_TASKS = re.compile(
    r"(?<!\\)(?:\$|\$\{#?(?!SLURM_\w+:?[-+=])|\(\([^)]{0,99}?(?<![\w${]))SLURM_(NTASKS|NPROCS|PROCID|LOCALID)\b"
)
_ALL_TASKS = re.compile(
    r"""(\bsrun\s[^;&|]{0,299}?(?:-n|--ntasks))[ =]?"?\$\{?SLURM_(?:NTASKS|NPROCS)\b\}?"?"""
)  # srun knows
_MODULE = re.compile(r"^\s*(module|ml)\s+\S")
_CALL = r"(?:^|[;&|(`]|\b(?:then|do|else|time|exec)\s)\s*"
_PROGRAM = re.compile(rf"{_CALL}(sinfo|sstat|sbcast|sattach|salloc|seff|sacctmgr|sprio|sshare|sreport|strigger)\b")
_OF_SITE = re.compile(rf"{_CALL}(?:remora\s+)?(ibrun|aprun|jsrun|idr_\w+|ws_(?:find|allocate)|enable_lmod)\b")
_CONTROL = re.compile(rf"{_CALL}(scontrol\s+(?:show\s+(?:node|part|config|res|step|lic)\w*|getaddrs|listpids|ping))\b")
_GIVEN = re.compile(rf"{_CALL}(srun|sbatch|scontrol|squeue|scancel|sacct)\s")
_STEP = re.compile(r"(?<![\w./-])srun\s(.*)")
_STEP_GPUS = re.compile(r"(?<!\S)(?:--gpus\S*|--gres[= ]gpu\S*|-G\s*\d)")
_STEP_NEVER = re.compile(r"(?<!\S)--(container-image|bcast|(?:het|pack)-group(?=[= ][1-9]))\b")
# Comments and words in quotes of a script: what `quoted` is stands as it is.
_SPAN = re.compile(
    r"""\\. | "(?:\\.|[^"\\])*" | '(?P<quoted>[^']*)' | (?:(?<=\s)|^)(?P<comment>\#[^\n]*)""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_REFERENCE = re.compile(r"(?<!\\)\$\{?\w+:?\S?")  # to a variable, with what follows
_VISIBLE = re.compile(
    r"(?<![\w$])CUDA_VISIBLE_DEVICES=[\"']?(?:\d[\d,]*|\$\{?SLURM_(?:LOCALID|PROCID|ARRAY_TASK_ID)\}?)"
)
_PORT = re.compile(r"(?<![\w$])(?:MASTER_PORT=[\"']?|--(?:master|main_process)[_-]port[= ])\d+")
_CONTAINER = re.compile(r"\bdocker\s+run\s[^;&|]{0,299}?--gpus[= ][\"']?all\b")
_COMMENT = re.compile(r"!?#(\w+)\s+-")
_ELSEWHERE = re.compile(r"#(PBS|BSUB|MSUB|OAR|COBALT)\s+-|#(\$)\s+-")


def advice(text: str, *, gpus: bool, tasks: str = "1", told: Collection[str] = ()) -> list[tuple[int, str]]:
    """Return what is to be said of a script's own commands, by line.

    `gpus`: the job has some. `tasks` is how many srun starts, `told` are variables that the job is given.
    """
    found: dict[str, tuple[int, str]] = {}
    for number, line in _commands(text):
        for kind, said in [*_of_tasks(line, tasks, told), *_of(line, gpus=gpus)]:
            found.setdefault(kind, (number, said))
    return list(found.values())


def missing(text: str) -> list[tuple[int, str]]:
    """Return what is to be said of the commands of a script without `#SBATCH` lines, by line.

    That is what it calls and will not find, for only those have it.
    """
    found: dict[str, tuple[int, str]] = {}
    for number, line in _commands(text):
        for kind, said in shared(line):
            found.setdefault(kind, (number, said))
        if (program := _GIVEN.search(line)) and shutil.which(program[1]) is None:
            wanted = "#SBATCH --gpus=N" if program[1] == "srun" else "#SBATCH"
            how = f"a line {wanted} below the first one gives the script its own"
            found.setdefault("program", (number, f"there is no command {program[1]!r} here: {how}"))
    return list(found.values())


def shared(line: str, *, gpus: bool = True) -> list[tuple[str, str]]:
    """Return what is to be said of a command that says which GPUs, or what port, for one machine runs several jobs.

    A cluster counts the job's own GPUs, from 0.
    """
    found = []
    if said := _VISIBLE.search(line):
        shown = said[0].replace('"', "").replace("'", "")
        instead = "leave it out, gpud sets it to this job's own" if gpus else "this one asks for none: add --gpus N"
        found.append(("visible", f"{shown} may be GPUs of other jobs: {instead}"))
    if said := _PORT.search(line):
        shown = said[0].replace('"', "").replace("'", "")
        found.append(
            ("port", f"{shown}: of two jobs at once that say so one fails: gpud sets MASTER_PORT to a free one")
        )
    if _CONTAINER.search(line):
        instead = "have the job's shell put $GPUD_DOCKER_ARGS there"
        found.append(("docker", f"docker run --gpus all takes those of other jobs, too: {instead}"))
    return found


def _commands(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a script as its shell takes them, together with those that they go on in."""
    number, line = 0, ""
    lines = lines_of(text)
    for at, plain in here_documents(lines).items():  # no commands are there, but variables
        lines[at - 1] = "" if plain else " ".join(_REFERENCE.findall(lines[at - 1]))
    for at, part in enumerate(_SPAN.sub(_unread, "\n".join(lines)).split("\n"), 1):
        number, line = (number, f"{line} {part}") if line else (at, part)
        if line.endswith("\\"):
            line = line[:-1]  # and what stands in the next one
            continue
        yield number, line
        line = ""


def _unread(span: re.Match[str]) -> str:
    """Return a part of a script less what its shell takes as it stands: `srun bash -c '...'` has that for another.

    The lines stay as many as they are.
    """
    plain = span["quoted"] or span["comment"]
    return re.sub(r"[^\n]", "", plain) if plain else span[0]


def _of_tasks(line: str, tasks: str, told: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield what is to be said of what only srun tells of tasks; of `srun -n $SLURM_NTASKS` nothing: that is all."""
    for own in _OWN_TASKS.finditer(_ALL_TASKS.sub(r"\1", line)):
        name = f"SLURM_{own[1]}"
        if name not in told:
            value = tasks if own[1] in ("NTASKS", "NPROCS") else "0"
            yield name, f"{name} is set for what srun starts alone; for the script, too: submit -e {name}={value}"


def _of(line: str, *, gpus: bool) -> list[tuple[str, str]]:
    """Return what is to be said of a line, and what kind of thing that is: one is said once."""
    said = shared(line, gpus=gpus)
    if (module := _MODULE.match(line)) and not _has_modules():
        said.append(("module", f"there is no command {module[1]!r} here: it fails, and may matter"))
    if (program := _PROGRAM.search(line)) and shutil.which(program[1]) is None:
        said.append((program[1], f"there is no command {program[1]!r} here, and no Slurm that it could ask"))
    if control := _CONTROL.search(line):
        said.append((control[1], f"gpud's scontrol cannot do this: {control[1]}"))
    if (program := _OF_SITE.search(line)) and shutil.which(program[1]) is None:
        said.append((program[1], f"there is no command {program[1]!r} here: its cluster had it"))
    step = _STEP.search(line)
    if step is not None and (never := _STEP_NEVER.search(step[1])):
        said.append((never[1], f"srun --{never[1]} cannot be had here: this step will fail"))
    if step is not None and not gpus and (asked := _STEP_GPUS.search(step[1])):
        said.append(("gpus", f"srun {asked[0]}: the job asks for no GPU, so this step will fail: add --gpus N"))
    return said


def _has_modules() -> bool:
    """Return whether shells here have `module`: from their parent, or from the machine's profile."""
    known = ("BASH_FUNC_module%%", "MODULESHOME", "LMOD_CMD")
    files = ("modules.sh", "lmod.sh", "z00_lmod.sh", "00-modulepath.sh")
    return any(name in os.environ for name in known) or any(os.path.exists(f"/etc/profile.d/{file}") for file in files)


def unread(text: str) -> list[tuple[int, str]]:
    """Return which comments look like options and are none, by line: misspelt ones, and another scheduler's."""
    misspelt: dict[str, tuple[int, str]] = {}
    foreign: tuple[int, str] | None = None
    known = False
    for number, line in enumerate(text.split("\n"), 1):
        known = known or line.startswith(("#SBATCH", "#GPUCTL"))
        if match := _COMMENT.match(line):
            meant = _meant(match[1])
            if meant is not None and (match[1] != meant or line.startswith("!")):
                misspelt.setdefault(match[1], (number, f"{line.strip()[:60]!r} is not read: write #{meant}"))
        if foreign is None and (other := _ELSEWHERE.match(line)):
            told = f"gpud does not read #{other[1] or other[2]} lines: write #GPUCTL, or #SBATCH"
            foreign = (number, f"{line.strip()[:60]!r} is not read: {told}")
    return [*misspelt.values(), *([foreign] if foreign is not None and not known else [])]


def _meant(word: str) -> str | None:
    """Return what a word is but for one letter and the order of them; else None."""
    for name in ("SBATCH", "GPUCTL"):
        rest, missed = list(name), 0
        for letter in word.upper():
            if letter in rest:
                rest.remove(letter)
            else:
                missed += 1
        if word[0].upper() == name[0] and max(len(rest), missed) <= 1:
            return name
    return None
