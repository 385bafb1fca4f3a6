"""A job's environment: the submitter's, kept whole, except what dies with a session; and what gpud adds.

Kept whole, because a dropped token is a dead job at 3 am. Pure, and standard library only: the job's own process
composes it just before exec, so that gpud never decodes an environment.
"""

from collections.abc import Mapping, Sequence

# What names a terminal, a display or a service manager's channel that will be gone when the job runs.
_SESSION = frozenset({"DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "WINDOWID", "TMUX", "TMUX_PANE", "STY", "_"})
_SESSION |= {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"}
_SESSION_PREFIXES = ("SSH_", "DBUS_", "VSCODE_")
# What an outer job was told of itself, or a shell of its claim; settings such as GPUD_SOCKET are the submitter's own.
_OUTER_PREFIXES = (
    *("GPUD_JOB_", "GPUD_ARRAY_", "GPUD_ATTEMPT", "GPUD_GPU_", "GPUD_NODE", "GPUD_SCRIPT"),
    *("GPUD_PROGRESS_", "GPUD_CHECKPOINT_", "GPUD_DOCKER_", "GPUD_CLAIM"),
)
_DROPPED_PREFIXES = (*_SESSION_PREFIXES, *_OUTER_PREFIXES)
_RUNTIME = "XDG_RUNTIME_DIR"
PORT, DOCKER = "GPUD_JOB_PORT", "GPUD_DOCKER_ARGS"
_PORTS = ("MASTER_PORT", "PET_MASTER_PORT")  # where torch.distributed meets, and where torchrun lets it meet


def compose(submitted: Mapping[str, str], added: Mapping[str, str], *, runtime_dir_exists: bool) -> dict[str, str]:
    """Return the environment of a job from its submitter's and from `additions`.

    What an outer job was told goes; a runtime directory stays where it still exists. What is added to PATH goes before
    the submitter's, whose own BASH_ENV stays. Unless they are set, PYTHONUNBUFFERED is 1, the ports of
    torch.distributed are the job's own, and MASTER_ADDR is a gang's first node.
    """
    kept = {
        name: value
        for name, value in submitted.items()
        if name not in _SESSION and not name.startswith(_DROPPED_PREFIXES)
    }
    if not runtime_dir_exists:
        kept.pop(_RUNTIME, None)
    for name, value in _meeting(submitted).items():
        if kept.get(name) == value:
            del kept[name]
    composed = {"PYTHONUNBUFFERED": "1"} | _meeting(added) | kept | dict(added)
    if kept.get("BASH_ENV"):
        composed["BASH_ENV"] = kept["BASH_ENV"]
    if "PATH" in added and kept.get("PATH"):
        composed["PATH"] = f"{added['PATH']}:{kept['PATH']}"
    return composed


def _meeting(told: Mapping[str, str]) -> dict[str, str]:
    """Return where the processes of a job meet that was told this of itself."""
    meeting = dict.fromkeys(_PORTS, told[PORT]) if PORT in told else {}
    if "GPUD_NODES" in told:
        meeting["MASTER_ADDR"] = told["GPUD_NODES"].partition(",")[0]
    return meeting


def tmp_base(submitted: Mapping[str, str]) -> str:
    """Return below what a job's own TMPDIR goes: the submitter's; where that is an outer job's own, beside it."""
    path = submitted.get("TMPDIR", "").rstrip("/") or "/tmp"  # noqa: S108 - as mktemp(1) has it
    directory, _, name = path.rpartition("/")
    return directory if name.startswith(f"gpud-{submitted.get('GPUD_JOB_ID')}.") else path


def is_outer(name: str) -> bool:
    """Return whether a variable tells a job of itself, and so tells nothing to what is none."""
    return name.startswith(_OUTER_PREFIXES)


def runtime_dir(submitted: Mapping[str, str]) -> str | None:
    """Return the directory whose being there decides whether XDG_RUNTIME_DIR is kept; None where none was sent."""
    return submitted.get(_RUNTIME)


def additions(
    *,
    job: str,
    attempt: int,
    node: str,
    uuids: Sequence[str],
    indices: Sequence[int],
    by: str = "index",
    nodes: Sequence[str] = (),
    share_mib: int | None = None,
    script: str | None = None,
    progress_file: str | None = None,
    checkpoint_dir: str | None = None,
    of: str = "",
) -> dict[str, str]:
    """Return what gpud adds. `job` is the written id (`12`, `12_7`), `uuids` and `indices` its GPUs, in one order.

    Of a gang `nodes` are all, the first is where it is started; `share_mib` is what a job that shares its GPUs may use
    of each.

    `by` "index" numbers GPUs for CUDA as PCI_BUS_ID order does (many programs call int() on it), "uuid" names
    them. Without GPUs CUDA_VISIBLE_DEVICES is empty, which hides all, where leaving it out would show all.
    NVIDIA_VISIBLE_DEVICES says the same to the container toolkit, to which "void" means none. GPUD_DOCKER_ARGS are
    words for `docker run $GPUD_DOCKER_ARGS`, as a shell splits them: what runs in that container says whose it is, and
    so does the container; `of` tells this gpud from others there, which have jobs of the same number.
    """
    number, _, index = job.partition("_")
    added = {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, indices) if by == "index" else uuids),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "NVIDIA_VISIBLE_DEVICES": ",".join(uuids) or "void",
        "GPUD_JOB_ID": job,
        "GPUD_ATTEMPT": str(attempt),
        "GPUD_GPU_COUNT": str(len(uuids)),
        "GPUD_GPU_UUIDS": ",".join(uuids),
        "GPUD_NODE": node,
        DOCKER: _docker({"job": job, "attempt": str(attempt), "of": of}, uuids),
    }
    if len(nodes) > 1:
        added |= {"GPUD_NODES": ",".join(nodes), "GPUD_NODE_COUNT": str(len(nodes))}
    if share_mib is not None:
        added["GPUD_GPU_MEMORY_MIB"] = str(share_mib)
    if index:
        added |= {"GPUD_ARRAY_ID": number, "GPUD_ARRAY_INDEX": index}
    optional = {"SCRIPT": script, "PROGRESS_FILE": progress_file, "CHECKPOINT_DIR": checkpoint_dir}
    return added | {f"GPUD_{name}": value for name, value in optional.items() if value is not None}


def _docker(labels: Mapping[str, str], uuids: Sequence[str]) -> str:
    """Return the options that give a container a job's GPUs, and say on it and to its processes whose they are.

    The quotation marks are docker's: it reads the value as CSV, of which several devices must be one field.
    """
    gpus = [f'--gpus="device={",".join(uuids)}"'] if uuids else []
    labelled = [f"--label=gpud.{name}={value}" for name, value in labels.items()]
    return " ".join([*gpus, "--init", *labelled, "-e GPUD_JOB_ID", "-e GPUD_ATTEMPT"])
