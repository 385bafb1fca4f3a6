"""What is asked of the machine: a page of the protocol, whose first, `messages`, says how anything is asked."""

from typing import Literal, NotRequired, TypedDict


class Gpus(TypedDict):
    """Every GPU, freshly read. Reply: `GpusReply`."""

    op: Literal["gpus"]
    id: int
    fresh: NotRequired[bool]


class GpusReply(TypedDict):
    """Every GPU, and why there is none.

    A GPU: `index uuid name node memory_total_mib memory_used_mib memory_declared_mib utilization_percent
    temperature_c power_w health health_reason faults state simulated nvlink pcie numa mig parent jobs processes
    kept_for`. health is one of `healthy degraded draining lost unknown`; a fault has `cause level since reason clears
    person`: what would clear it, and whether a person must look (gpuctl undrain). state is one of `free busy shared
    releasing foreign draining split unhealthy lost unknown`. GPUs of a node with the same `nvlink` reach each other
    over it, with the same `pcie` they share switches, with the same `numa` a socket. A MIG instance has its profile in
    `mig`, and in `parent` the UUID of its GPU, which is `split` and never given out; its index comes after those of
    the GPUs. A process: `pid user command memory_mib kind job since idle_since`, the last two where gpud did not start
    it;
    `foreign_gpu_s` are the GPU-seconds, by uid, that processes used which gpud did not start.
    `kept_for` is a list of whom it is kept for: `pool debug`, `tenant vision`, `reservation 3 in 2h`.
    `problem` says why there are none ("no NVIDIA driver"), or what the configuration says of them that is not so.
    """

    gpus: list[dict[str, object]]
    problem: str | None
    foreign_gpu_s: NotRequired[dict[str, float]]


class Nodes(TypedDict):
    """Every node, with its labels, by key.

    Reply: `nodes`, each with `name cpus cpus_used memory_mib memory_used_mib gpus gpus_free driver state reason
    simulated labels`.
    """

    op: Literal["nodes"]
    id: int


class Status(TypedDict):
    """One screen of everything. Reply: `StatusReply`."""

    op: Literal["status"]
    id: int


class StatusReply(TypedDict):
    """Counts by state, GPUs by state, what is wrong. `paused` is the reason, "" without one, None when running.

    `storage` says why nothing can be made durable, since the last commit failed; None while all is well.
    `launcher` has its `pid`; in `cgroup` the controllers by which it limits a job's own cgroup, None where it can make
    none; the `fence` that jobs get now ("devices", "landlock", None), what was set (`fence_set`), why no device fence
    can be had (`unfenced`), and the indices of GPUs that none can be on, since the driver does not tell which device
    nodes are theirs (`nodes_unknown`); whether logins shall have no GPUs (`login_fence`), and why they still have
    (`logins`).
    """

    version: str
    pid: int
    protocol: list[int]
    started_at: float
    state_dir: str
    socket: str
    config_file: str | None
    simulated: str | None
    system: bool
    policy: str
    paused: str | None
    jobs: dict[str, int]
    gpus: dict[str, int]
    driver: str | None
    problem: str | None
    launcher: dict[str, object]
    memory_mib: int
    storage: str | None


MACHINE: dict[str, type] = {"gpus": Gpus, "nodes": Nodes, "status": Status}
