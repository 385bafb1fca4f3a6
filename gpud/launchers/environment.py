"""A job's environment: the submitter's, kept whole, except what dies with a session; and what gpud adds.

Kept whole, because a dropped token is a dead job at 3 am. Pure, and standard library only: the job's own process
composes it just before exec, so that gpud never decodes an environment.
"""

from collections.abc import Mapping, Sequence

# What names a terminal, a display or a service manager's channel that will be gone when the job runs.
_SESSION = frozenset({"DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "WINDOWID", "TMUX", "TMUX_PANE", "STY", "_"})
_SESSION |= {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"}
_SESSION_PREFIXES = ("SSH_", "DBUS_", "VSCODE_")
# What an outer job was told of itself; settings such as GPUD_SOCKET are the submitter's own.
_OUTER_PREFIXES = ("GPUD_JOB_", "GPUD_ARRAY_", "GPUD_ATTEMPT", "GPUD_GPU_", "GPUD_NODE", "GPUD_SCRIPT")
_RUNTIME = "XDG_RUNTIME_DIR"


def compose(submitted: Mapping[str, str], added: Mapping[str, str], *, runtime_dir_exists: bool) -> dict[str, str]:
    """Return the environment of a job from its submitter's and from `additions`.

    What an outer job was told goes; a runtime directory stays where it still exists; PYTHONUNBUFFERED is 1 unless it
    is set. What is added to PATH goes before the submitter's.
    """
    kept = {
        name: value
        for name, value in submitted.items()
        if name not in _SESSION and not name.startswith(_SESSION_PREFIXES) and not is_outer(name)
    }
    if not runtime_dir_exists:
        kept.pop(_RUNTIME, None)
    composed = {"PYTHONUNBUFFERED": "1"} | kept | dict(added)
    if "PATH" in added and kept.get("PATH"):
        composed["PATH"] = f"{added['PATH']}:{kept['PATH']}"
    return composed


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
) -> dict[str, str]:
    """Return what gpud adds. `job` is the written id (`12`, `12_7`), `uuids` and `indices` its GPUs, in one order.

    Of a gang `nodes` are all, the first is where it is started; `share_mib` is what a job that shares its GPUs may use
    of each.

    `by` "index" numbers GPUs for CUDA as PCI_BUS_ID order does (many programs call int() on it), "uuid" names
    them. Without GPUs CUDA_VISIBLE_DEVICES is empty, which hides all, where leaving it out would show all.
    NVIDIA_VISIBLE_DEVICES says the same to the container toolkit, to which "void" means none.
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
    }
    if len(nodes) > 1:
        added |= {"GPUD_NODES": ",".join(nodes), "GPUD_NODE_COUNT": str(len(nodes))}
    if share_mib is not None:
        added["GPUD_GPU_MEMORY_MIB"] = str(share_mib)
    if index:
        added |= {"GPUD_ARRAY_ID": number, "GPUD_ARRAY_INDEX": index}
    if script is not None:
        added["GPUD_SCRIPT"] = script
    return added
