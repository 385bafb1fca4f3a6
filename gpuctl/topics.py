"""What `gpuctl help TOPIC` says: what several commands have in common, a screen each."""

_STATES = """
held        it waits until somebody releases it: gpuctl release
queued      it waits for its turn, for GPUs, for another job, or for a time; `gpuctl why` says for what
starting    its GPUs are its own, and its program is being started
running     its program runs
stopping    it was told to end, and has its grace to do so
completed   it ended with exit code 0
failed      it ended with another exit code, by a signal, or could not be started
timed_out   its time limit was over
cancelled   somebody cancelled it
lost        the machine, or a GPU, went away from under it, and it is not to be started again

The first five are unfinished: `gpuctl list` shows everybody's. The others are ends.
With a preemption or a retry a job goes back to queued, under its id; `attempt` counts its starts.
"""

_REASONS = """
Every job that waits has one reason, from the code that decided: in `list`, `watch`, `why`, and as `reason` in JSON.

waits for 4 GPUs: ...        too few are free of those that would suit; who would have to end: gpuctl why JOB
waits for ... of memory      it asked for --memory or --cpus that others have now
would delay job 3 ...        there is room, but starting it now could make an earlier job wait longer; a time limit
                             (-t) that is short enough lets it pass
begins at ...                --begin
waits for job 12 to ...      --after
held ...                     gpuctl release; the rest says who held it, or which dependency can never be met
... of its array run         the %N of --array
the queue is paused          gpuctl resume
tenant red has 6 of 6 GPUs   a limit of its tenant, its user or everybody: gpuctl tenant show; gpuctl config --all
guaranteed, reserved ...     the GPUs that are free are set aside for others: gpuctl reserve list, gpuctl tenant list
no GPU ...                   the driver shows none: gpuctl doctor

A job that could never start is refused at submit, with the largest that could.
"""

_SIZES = """
8G, 512M, 1.5G, 1T; a number alone is MiB. G is GiB (1024 MiB), as in every GPU's data sheet.
--gpu-memory 40G asks for GPUs that have so much; with --share it is what the job takes of each.
"""

_DURATIONS = """
90 (seconds), 90s, 10m, 2h, 1d12h, HH:MM:SS or HH:MM (hours and minutes); more than 0, at most ten years.

Moments (--begin, --since, gpuctl reserve): 18:30 (the next; with --since the last), tomorrow, "tomorrow 9:00",
yesterday, 2026-05-01, 2026-05-01T18:30, 2h (from now; with --since: ago). What has no zone is local time; JSON is
always UTC.
"""

_IDS = """
12          a job, or a whole array
12_7        an array's element; it has its own state, log and attempts
12_[3-9]    some elements; also 12_3-9, 12_[1,3,5], 12_[0-99:10]
3-9         all jobs from 3 to 9 that there are; 3,5,9 these

Instead of ids: --mine, --user ada, --state queued, --group sweep, together if you like: what bears all of it.
Ids are never used again. In a script: job=$(gpuctl submit ...), for the id alone goes to stdout.
GPUs are 0, NODE:0 or the beginning of a UUID.
"""

_VARIABLES = """
What gpud sets for a job:

CUDA_VISIBLE_DEVICES     its GPUs; also NVIDIA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER=PCI_BUS_ID
GPUD_JOB_ID              its id: 12, or 12_7
GPUD_ATTEMPT             which start this is, from 1
GPUD_ARRAY_ID            the array's id, and
GPUD_ARRAY_INDEX         the element's index
GPUD_GPU_UUIDS           its GPUs by UUID
GPUD_GPU_COUNT           how many
GPUD_GPU_MEMORY_MIB      what it may use of each, with --share --gpu-memory
GPUD_NODE                the node it runs on
GPUD_NODES               all its nodes, the first one first, and
GPUD_NODE_COUNT          how many, with --nodes
GPUD_SCRIPT              where the script was that it was submitted as
GPUD_SOCKET              the gpud that started it
GPUD_JOB_PORT            a port of its own; MASTER_PORT and PET_MASTER_PORT are the same, unless you set them
GPUD_CHECKPOINT_DIR      a directory that is kept from attempt to attempt
GPUD_DOCKER_ARGS         for docker run: its GPUs, and labels by which the container ends with it
GPUD_PROGRESS_FILE       a file to tell progress in: 40/100
TMPDIR                   a directory of its own, removed at its end

Everything else is as it was in your shell at submit, but for what dies with a session (DISPLAY, SSH_*, TMUX, ...).
What gpuctl itself reads: GPUD_HOST, GPUD_SSH, GPUD_SOCKET, GPUD_STATE_DIR, GPUD_PAGER, PAGER, NO_COLOR, FORCE_COLOR,
TERM.
Every setting of gpud is a variable too, GPUD_ and its name: gpud --help.
"""

_EXIT = """
0     done
1     refused, or failed
2     wrong usage
3     no such job, GPU, node, tenant, reservation or group
4     not permitted
69    gpud does not answer
125   `run` or `wait` failed themselves
130   Ctrl-C
141   whoever read the output was gone

`run` and `wait` exit as the job did: its exit code, or 128+N for signal N. `wait` for several jobs exits as the first
that failed. `doctor` exits with 1 where something is wrong.
"""

_POLICIES = """
Who goes first. `gpuctl policy` shows what is in force and every parameter; `gpuctl policy NAME` changes it at once.

priority     the higher priority first (-p), then who came first; the default for a gpud of one's own
fair_share   who has used less of late, weighed by shares; the default for everybody's
fcfs         who came first
sjf          who is expected to take the shortest time
las          who has had the least GPU-time; preempts

Under each but las: a job that cannot start has GPUs kept free for it, and others pass it only where that cannot delay
it. Who has waited for an hour (`starvation`) is kept GPUs free under every policy; under las only who has not run yet.
`gpuctl simulate` tells what another policy would have done. See docs/policies.md in the repository.
"""

_FILES = """
~/.local/state/gpud/MACHINE/    the state of your own gpud ($GPUD_STATE_DIR); /var/lib/gpud: the machine's
  gpud.db                       jobs, attempts, events (SQLite); copies of before an upgrade in backups/
  logs/JOB.ATTEMPT.log          what jobs printed, where they did not say --output
  records/                      ends of jobs, 512 bytes each, written whether gpud lives or not
  gpud.sock, gpud.log           its socket, and what it says; a service says it to the journal
~/.config/gpud/config.toml      settings of your own gpud; /etc/gpud/config.toml: for all users
~/.config/gpud/gpuctl.toml      your own defaults for submit: gpuctl config --help

`gpuctl daemon status` names the ones in use.
"""

_SCRIPTS = """
A script says what it needs in the comments before its first command; what is typed wins:

  #!/bin/bash
  #GPUCTL --gpus 2 --time-limit 2h
  torchrun --nproc_per_node 2 train.py

A file with a #! line that is named without -- is copied at submit: edit it as you like meanwhile. Behind -- words are
run as they are. #GPUCTL takes any option of submit. #SBATCH lines are understood, too; what cannot be kept is told.
`gpuctl submit --dry-run SCRIPT` shows what was understood, and queues nothing.
"""

_NOTIFY = """
gpuctl submit --notify TARGET, or --notify EVENT,...=TARGET; may be repeated.

Events:   end (the default), success, failure, cancelled, start, waiting (for `long_wait`), group (all of it ended)
Targets:  https://...       a webhook: JSON by POST, signed in X-Gpud-Signature where $GPUD_WEBHOOK_SECRET is set
          command:...       a shell command, as you, at home; it has $GPUD_EVENT, $GPUD_TEXT, and the JSON on stdin
          desktop           a window on your desktop
          mailto:..., and what else apprise knows (pip install 'gpud[apprise]')

`gpuctl notify test TARGET` tries one, `gpuctl notify log` shows what was told, and what could not be.
For all your jobs: notify = ["failure=https://..."] in ~/.config/gpud/gpuctl.toml (gpuctl config --help).
"""

TOPICS: dict[str, tuple[str, str]] = {
    "states": ("the states of a job", _STATES),
    "reasons": ("why jobs wait, and what to do about it", _REASONS),
    "sizes": ("how memory is written", _SIZES),
    "durations": ("how times and moments are written", _DURATIONS),
    "ids": ("how jobs and GPUs are named", _IDS),
    "variables": ("what a job is told in its environment", _VARIABLES),
    "exit": ("exit statuses", _EXIT),
    "policies": ("who goes first", _POLICIES),
    "files": ("where everything is kept", _FILES),
    "scripts": ("options in a script: #GPUCTL, #SBATCH", _SCRIPTS),
    "notify": ("whom to tell of what", _NOTIFY),
}
"""Each topic: what it is about, and its text."""

EXAMPLES = {
    "exec": "12 -- nvidia-smi",
    "attach": "12",
    "show": "12",
    "progress": "40/100",
    "notify test": "desktop",
    "priority": "12 5",
    "signal": "12 USR1",
    "drain": "3 --reason 'fan'",
    "undrain": "3",
    "tenant create": "vision --user ada",
    "tenant delete": "vision",
    "tenant set": "vision --max-gpus 4",
    "tenant show": "vision",
    "reserve create": "0-3 --to 23:00",
    "reserve delete": "1",
    "daemon backup": "queue.db",
    "completion": "install",
}
"""How commands are used that cannot do without a word behind them."""

ALSO = {"environment": "variables", "env": "variables", "status": "exit", "exit-status": "exit", "size": "sizes"}
ALSO |= {"duration": "durations", "time": "durations", "times": "durations", "id": "ids", "state": "states"}
ALSO |= {"reason": "reasons", "notifications": "notify", "file": "files"}
ALSO |= dict.fromkeys(("script", "slurm", "sbatch"), "scripts")
"""Other words for them; a command of that name goes first."""
