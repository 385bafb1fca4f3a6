"""GPUs that exist on paper: for demonstrations, for tests, and for trying a policy before buying the hardware.

Everything about them is a function of the specification, the time and the jobs they were told of: the same
specification has the same UUIDs after a restart, and a reading needs no state.
"""

import hashlib
import re
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

from gpud.inventory.machine import this_node
from gpud.inventory.protocol import Post
from gpud.model.gpu import Gpu, GpuId, Node, NodeName, Reading, Unreadable, nominal_mib
from gpud.model.observations import GpuSeen, NodeSeen
from gpud.model.units import Mib, Timestamp

CPUS_PER_GPU = 16
MEMORY_PER_GPU_MIB = 128 * 1024
GPUS_MAX = 65_536
_SLICES = 7  # of a GPU that MIG splits
_TERM = re.compile(
    r"(?:(?:(?P<nodes>\d{1,6})x)?(?P<gpus>\d{1,6})x)?(?P<model>[a-z][^:]*)(?P<instances>(?::[\dx]*\d+g\.\d+gb)*)",
    re.IGNORECASE,
)
_INSTANCES = re.compile(r"(?:(?P<count>\d)x)?(?P<profile>(?P<slices>\d)g\.(?P<gib>\d{1,3})gb)")


@dataclass(frozen=True, slots=True)
class Model:
    """A GPU one can buy: what NVML calls it, the memory that NVML reports, and watts idle and at the limit.

    `nvlink`: those of one machine are linked. `mig`: it can be split.
    """

    name: str
    memory_mib: Mib
    idle_w: int
    limit_w: int
    nvlink: bool = False
    mig: bool = False


# Names and sizes as nvidia-smi prints them with drivers 525 to 570, ECC as shipped (on for data centre boards);
# power limits from NVIDIA's data sheets, idle power as seen in published nvidia-smi output.
CATALOGUE = {
    "B200": Model("NVIDIA B200", Mib(183_359), 140, 1000, nvlink=True, mig=True),
    "H200": Model("NVIDIA H200", Mib(143_771), 75, 700, nvlink=True, mig=True),
    "H100": Model("NVIDIA H100 80GB HBM3", Mib(81_559), 70, 700, nvlink=True, mig=True),
    "A100-80GB": Model("NVIDIA A100-SXM4-80GB", Mib(81_920), 60, 400, nvlink=True, mig=True),
    "A100-40GB": Model("NVIDIA A100-SXM4-40GB", Mib(40_960), 50, 400, nvlink=True, mig=True),
    "L40S": Model("NVIDIA L40S", Mib(46_068), 35, 350),
    "L4": Model("NVIDIA L4", Mib(23_034), 16, 72),
    "A10": Model("NVIDIA A10", Mib(23_028), 20, 150),
    "A6000": Model("NVIDIA RTX A6000", Mib(49_140), 22, 300),
    "V100": Model("Tesla V100-SXM2-16GB", Mib(16_384), 40, 300, nvlink=True),
    "V100-32GB": Model("Tesla V100-SXM2-32GB", Mib(32_768), 40, 300, nvlink=True),
    "T4": Model("Tesla T4", Mib(15_360), 10, 70),
    "RTX5090": Model("NVIDIA GeForce RTX 5090", Mib(32_607), 25, 575),
    "RTX4090": Model("NVIDIA GeForce RTX 4090", Mib(24_564), 20, 450),
    "RTX3090": Model("NVIDIA GeForce RTX 3090", Mib(24_576), 25, 350),
}
Plan = tuple[str, tuple[str, ...]]  # a GPU's model, and the profiles of its instances
_BY_NAME = {model.name: model for model in CATALOGUE.values()}


def parse_nodes(spec: str, node: NodeName) -> tuple[Node, ...]:
    """Return the nodes of `4xRTX4090`, `2x8xH100` (nodes x GPUs) or a mix of such terms.

    Terms without a number of nodes share one node: `4xH100,2xA10` is one machine, `2x8xH100,4xL40S` is three. One
    machine is called `node`, several `sim-1`, `sim-2`. What MIG splits each GPU into stands behind its model:
    `2xA100-80GB:3g.40gb:4x1g.10gb`. Raises ValueError for what is not understood, naming the nearest models in the
    catalogue.
    """
    machines: list[list[Plan]] = []
    shared: list[Plan] = []
    for term in spec.split(","):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise ValueError(f"{spec!r} is no simulated machine; write 4xRTX4090, or 2x8xH100 (nodes x GPUs)")
        model = _model(match["model"])
        plan = model, _instances(model, match["instances"].lower())
        nodes, gpus = (int(match[group] or 1) for group in ("nodes", "gpus"))
        if not 0 < nodes * gpus <= GPUS_MAX:
            raise ValueError(f"{term.strip()!r}: a simulated machine has from 1 to {GPUS_MAX} GPUs")
        if match["nodes"]:
            machines += [[plan] * gpus] * nodes
        else:
            shared += [plan] * gpus
    machines += [shared] if shared else []
    names = [node] if len(machines) == 1 else [NodeName(f"sim-{number}") for number in range(1, len(machines) + 1)]
    return tuple(_node(name, at, plans) for at, (name, plans) in enumerate(zip(names, machines, strict=True)))


def _model(text: str) -> str:
    plain = {_plain(name): name for name in CATALOGUE}
    wanted = _plain(text)
    if wanted in plain:
        return plain[wanted]
    near = [name for name in plain if name.startswith(wanted)] or get_close_matches(wanted, plain, cutoff=0.5)
    hint = f"did you mean {' or '.join(plain[name] for name in near)}?" if near else "write 4xRTX4090, or 2x8xH100"
    raise ValueError(f"there is no simulated GPU {text!r}; {hint}")


def _instances(model: str, text: str) -> tuple[str, ...]:
    """Return the profiles of `:3g.40gb:4x1g.10gb`. Raises ValueError where a GPU of that model has not so much."""
    found: list[re.Match[str]] = []
    for part in text.split(":")[1:]:
        match = _INSTANCES.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no simulated MIG instance; write 2g.20gb, or 3x2g.20gb")
        found += [match] * int(match["count"] or 1)
    if found and not CATALOGUE[model].mig:
        able = ", ".join(name for name, each in CATALOGUE.items() if each.mig)
        raise ValueError(f"MIG does not split a simulated {model}; those that it does: {able}")
    gib = nominal_mib(CATALOGUE[model].memory_mib) >> 10
    if sum(int(each["slices"]) for each in found) > _SLICES or sum(int(each["gib"]) for each in found) > gib:
        raise ValueError(f"a simulated {model} has {_SLICES} slices and {gib}gb for MIG instances, and no more")
    return tuple(each["profile"] for each in found)


def _plain(name: str) -> str:
    """Return a model's name as people mean it: `rtx-4090` is RTX4090."""
    return "".join(char for char in name.upper() if char.isalnum())


def _node(name: NodeName, ordinal: int, plans: list[Plan]) -> Node:
    """Return a machine of two sockets, with what servers have of these GPUs: NVLink, a PCIe switch for every two."""
    gpus, parts, alike = [], [], Counter(plans)
    for index, (model, profiles) in enumerate(plans):
        bought = CATALOGUE[model]
        gpu = Gpu(
            id=_uuid("GPU", ordinal, index, model),
            index=index,
            name=bought.name,
            memory_total_mib=bought.memory_mib,
            pci_id=f"{index >> 8:08X}:{index & 255:02X}:00.0",
            simulated=True,
            nvlink=f"nvlink-{model}" if bought.nvlink and not profiles and alike[model, profiles] > 1 else None,
            pcie=f"pcie-{index // 2}" if len(plans) > 1 and "GeForce" not in bought.name else None,
            numa=2 * index // len(plans),
            split=bool(profiles),
        )
        gpus.append(gpu)
        parts += [_instance(gpu, ordinal, number, profile) for number, profile in enumerate(profiles)]
    devices = (*gpus, *(replace(part, index=len(gpus) + at) for at, part in enumerate(parts)))
    count = len(gpus)
    return Node(name=name, cpus=CPUS_PER_GPU * count, memory_mib=Mib(MEMORY_PER_GPU_MIB * count), gpus=devices)


def _instance(gpu: Gpu, ordinal: int, number: int, profile: str) -> Gpu:
    return replace(
        gpu,
        id=_uuid("MIG", ordinal, gpu.index, f"{number}/{profile}"),
        name=f"{gpu.name} MIG {profile}",
        memory_total_mib=Mib(int(profile.partition(".")[2].removesuffix("gb")) * 973),  # 95 % of what its profile says
        mig=profile,
        parent=gpu.id,
        split=False,
    )


def _uuid(kind: str, ordinal: int, index: int, model: str) -> GpuId:
    """Return a UUID that a reader knows for simulated (5111), the same for the same place in the specification.

    The node's name is left out: a laptop that changes its name with the network keeps its GPUs.
    """
    digits = "5111" + hashlib.sha256(f"{ordinal}/{index}/{model}".encode()).hexdigest()
    return GpuId(f"{kind}-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}")


class SimulatedInventory:
    """An inventory of simulated GPUs that look busy while they hold jobs."""

    def __init__(self, *, clock: Callable[[], Timestamp], spec: str, node: NodeName | None = None) -> None:
        """Read the specification (see `parse_nodes`, whose ValueError it raises); `clock` dates the readings."""
        self.nodes = parse_nodes(spec, node or this_node())
        self._clock = clock
        self._gpus = {gpu.id: (seen.name, gpu) for seen in self.nodes for gpu in seen.gpus}
        self._jobs: dict[GpuId, int] = {}
        self._post: Post | None = None
        self._changed = threading.Condition()
        self._watching: threading.Thread | None = None
        self._every_s: float | None = None

    def start(self, post: Post) -> None:
        """Post every node and a first reading of every GPU, before it returns."""
        self._post = post
        for node in self.nodes:
            post(NodeSeen(node))
        self.read(self._gpus)

    def read(self, gpus: Iterable[GpuId]) -> None:
        """Post a reading of each, before it returns."""
        for gpu in gpus:
            self._read(gpu)

    def watch(self, every_s: float | None) -> None:
        """Post readings of every GPU from a thread of its own, now and every `every_s` seconds, until told None."""
        with self._changed:
            self._every_s = every_s
            self._changed.notify()
            if every_s is not None and self._watching is None:
                self._watching = threading.Thread(target=self._keep_reading, name="gpud-simulated", daemon=True)
                self._watching.start()

    def follow(self, jobs: Mapping[GpuId, int]) -> None:
        """Let readings from now on show these numbers of jobs."""
        self._jobs = dict(jobs)

    def close(self) -> None:
        """Post nothing more."""
        with self._changed:
            self._post = None
            self._every_s = None
            self._changed.notify()

    def _keep_reading(self) -> None:
        with self._changed:
            while self._every_s is not None:
                self.read(self._gpus)
                self._changed.wait(self._every_s)
            self._watching = None

    def _read(self, gpu: GpuId) -> None:
        at = self._clock()
        if gpu in self._gpus:
            node, known = self._gpus[gpu]
            reading: Reading | Unreadable = reading_of(known, self._jobs.get(gpu, 0), at)
        else:
            node, reading = self.nodes[0].name, Unreadable(at, "there is no such GPU", lost=True)
        with self._changed:
            if self._post is not None:
                self._post(GpuSeen(node, gpu, reading))


def reading_of(gpu: Gpu, jobs: int, at: Timestamp) -> Reading:
    """Return what a GPU that holds `jobs` jobs shows: a little different for each GPU, and every two seconds.

    Of an instance, and of how busy a split GPU is, real ones tell as little.
    """
    model = _BY_NAME[gpu.name.partition(" MIG ")[0]]
    part = gpu.mig is not None
    own = zlib.crc32(gpu.id.encode()) % 100 / 100
    wave = zlib.crc32(f"{gpu.id}{int(at) // 2}".encode()) % 100 / 100
    load = 0.88 + 0.1 * wave if jobs else 0.0
    return Reading(
        at=at,
        memory_used_mib=Mib(round(gpu.memory_total_mib * (0.6 + 0.3 * own)) if jobs else 4),
        utilization_percent=None if part or gpu.split else round(100 * load),
        temperature_c=None if part else round(30 + 6 * own + 38 * load),
        power_w=None if part else round(model.idle_w + (model.limit_w - model.idle_w) * 0.9 * load + 2 * wave, 1),
        processes=(),
    )
