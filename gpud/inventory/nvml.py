"""The NVIDIA Management Library (NVML), call by call.

A call has five outcomes: a value; nothing, because this board, mode or driver has no such thing (None here, never
0); a GPU that is lost; another failure; and no return at all, which is for the caller to notice. Names and numbers
are those of nvml.h; calls are made through nvidia-ml-py, which looks up the newest symbol by name, so that what an
older driver lacks is asked again by its older name.
"""

import ctypes
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gpud.inventory.machine import instance_devices, physical_memory_mib
from gpud.inventory.processes import Held
from gpud.inventory.signs import signs_of, slowed_by
from gpud.inventory.version import installed_version
from gpud.inventory.xids import Xids
from gpud.model.gpu import Gpu, GpuId, nominal_mib
from gpud.model.health import Signs
from gpud.model.units import Mib

_NVIDIA_MAJOR = 195  # Linux's Documentation/admin-guide/devices.txt
_TEMPERATURE_GPU = 0
_P2P_NVLINK, _P2P_OK = 2, 0  # nvmlGpuP2PCapsIndex_t, nvmlGpuP2PStatus_t
_AFFINITY_NODE = 0  # nvmlAffinityScope_t
_WORDS = 4  # of a set of NUMA nodes: 256, Linux has at most 1024 and machines with GPUs a dozen
_PROCESSES, _NOT_SAID = 1024, 2**64 - 1  # on one GPU at most; NVML_VALUE_NOT_AVAILABLE
_GPUS = 256  # of one machine at most; who says more did not count
FORBIDDEN = "this user may not use it: see who may open /dev/nvidia*"
_MOST_PERCENT, _MOST_C, _MOST_MW = 100, 200, 10_000_000  # what is above was not measured: all bits set, mostly
_PROFILE = re.compile(r"\bMIG ([\w.+]+)$")  # in an instance's name: "NVIDIA A100-SXM4-40GB MIG 1g.5gb"

# nvmlReturn_t
_GPU_IS_LOST, _GPU_NOT_FOUND, _RESET_REQUIRED = 15, 28, 16
_LOST = frozenset({_GPU_IS_LOST, _GPU_NOT_FOUND})
_NOT_SUPPORTED, _NO_PERMISSION, _NO_DATA = 3, 4, 21
_ABSENT = frozenset({_NOT_SUPPORTED, _NO_PERMISSION, _NO_DATA})
_INVALID_ARGUMENT, _NOT_FOUND = 2, 6
# What drivers say of a call, or an index, that is not MIG's.
_NOT_OF_INSTANCES = _ABSENT | {_INVALID_ARGUMENT, _NOT_FOUND}
_FUNCTION_NOT_FOUND, _VERSION_MISMATCH, _DEPRECATED = 13, 25, 26
_OTHER_VERSION = frozenset({_FUNCTION_NOT_FOUND, _VERSION_MISMATCH, _DEPRECATED})
_DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND, _LIB_RM_VERSION_MISMATCH = 9, 12, 18

_NO_DRIVER = {
    _LIBRARY_NOT_FOUND: "no NVIDIA driver: libnvidia-ml.so.1 is not installed",
    _DRIVER_NOT_LOADED: "no NVIDIA driver: its kernel module is not loaded (try: modprobe nvidia)",
    _LIB_RM_VERSION_MISMATCH: "reboot needed: the NVIDIA driver's library and kernel module are of two versions, as "
    "after an upgrade (or reload the module and restart gpud)",
    _FUNCTION_NOT_FOUND: "no NVIDIA driver: nvml_library is no libnvidia-ml.so.1",
    _NO_PERMISSION: "no access to the NVIDIA driver: this user may not open /dev/nvidiactl",
}


class NoDriverError(Exception):
    """There is no driver to ask; the message is for people."""


class DriverReplacedError(NoDriverError):
    """The driver's library and its kernel module are of two versions."""


class GpuLostError(Exception):
    """The GPU fell off the bus, or is not among the driver's any more."""


class GpuFailedError(Exception):
    """A call failed in a way that says nothing good about its GPU: `reset` and `split` are as in Unreadable."""

    reset = split = False


class GpuNeedsResetError(GpuFailedError):
    """The GPU must be reset before it can be used again."""

    reset = True


class GpuSplitError(GpuFailedError):
    """The GPU is in MIG mode, and was not when it was identified."""

    split = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What NVML says of a GPU at one moment; None where it has no such thing."""

    memory_used_mib: Mib | None
    utilization_percent: int | None
    temperature_c: int | None
    power_w: float | None
    held: tuple[Held, ...] | None
    slowed: tuple[str, ...] | None = None


class _ProcessV1(ctypes.Structure):
    """nvmlProcessInfo_v1_t."""

    _fields_ = (("pid", ctypes.c_uint), ("usedGpuMemory", ctypes.c_ulonglong))


class Nvml:
    """The library, loaded and initialised once: a GPU without clients and persistence costs seconds to wake."""

    def __init__(self, library: str | None = None) -> None:
        """Load libnvidia-ml.so.1, or the file `library`. Raises NoDriverError."""
        self._nvml = _binding()
        try:
            if library is not None and self._nvml.nvmlLib is None:  # once: the binding remembers its functions
                self._nvml.nvmlLib = ctypes.CDLL(library)
            self._nvml.nvmlInit()
            self.driver = _text(self._nvml.nvmlSystemGetDriverVersion())
        except OSError as error:
            raise NoDriverError(f"no NVIDIA driver: nvml_library cannot be loaded: {error}") from error
        except self._nvml.NVMLError as error:
            raise _no_driver(error, "no NVIDIA driver") from error
        self._library = library
        self.replaced = False  # as the node is known by
        self.xids = Xids(self._nvml)

    def check_version(self) -> None:
        """Raise DriverReplacedError where the driver that is loaded is not the one that is installed any more.

        Programs that are started then find a library that cannot talk to the kernel, while those that run go on.
        """
        try:
            now = _text(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError as error:
            if error.value == _LIB_RM_VERSION_MISMATCH:
                raise _no_driver(error, "") from error
            return
        installed = installed_version(self._library)
        if now != self.driver:
            raise DriverReplacedError(f"reboot needed: the NVIDIA driver was {self.driver}, and is {now} now")
        if installed is not None and installed != now:
            raise DriverReplacedError(
                f"reboot needed: the NVIDIA driver is {now}, and the version that is installed is {installed}"
            )
        self.replaced = False

    def count(self) -> int:
        """Return how many GPUs the driver has, lost and forbidden ones included. Raises NoDriverError."""
        try:
            count = int(self._nvml.nvmlDeviceGetCount())
        except self._nvml.NVMLError as error:
            raise _no_driver(error, "the NVIDIA driver lists no GPUs") from error
        if count > _GPUS:
            raise NoDriverError(f"the NVIDIA driver makes no sense: it counts {count} GPUs")
        return count

    def devices(self, index: int) -> "tuple[Device, ...]":
        """Return the GPU at an index, and after it the MIG instances on it; nothing for one that we may not use.

        Raises GpuLostError and GpuFailedError for one that cannot be identified.
        """
        handle = self._ask(("nvmlDeviceGetHandleByIndex", index))
        if handle is None:
            return ()
        memory = self._memory(handle)
        pci = self._detail(("nvmlDeviceGetPciInfo", handle))
        modes = self._detail(("nvmlDeviceGetMigMode", handle))
        minor = self._detail(("nvmlDeviceGetMinorNumber", handle))
        gpu = Gpu(
            id=self._uuid(handle),
            index=index,
            name=_text(self._detail(("nvmlDeviceGetName", handle)) or "NVIDIA GPU"),
            # A GPU that has no memory of its own uses the machine's (GB10, Jetson).
            memory_total_mib=_mib(memory.total) if memory is not None else physical_memory_mib(),
            pci_id=_text(pci.busId) if pci is not None else None,
            split=modes is not None and bool(modes[0]),
            devices=() if minor is None else ((_NVIDIA_MAJOR, int(minor)),),
        )
        self.xids.register(handle, gpu.id)
        instances = self._instances(gpu, handle) if gpu.split else ()
        return Device(gpu, self, handle, index, divisible=modes is not None), *instances

    def _instances(self, parent: Gpu, handle: Any) -> "Iterator[Device]":  # noqa: ANN401 - the binding's own, opaque to us
        """Yield the MIG instances that there are. Their indices have gaps, and the parent's is all they share here."""
        for at in range(self._ask(("nvmlDeviceGetMaxMigDeviceCount", handle)) or 0):
            own = self._ask(("nvmlDeviceGetMigDeviceHandleByIndex", handle, at), absent=_NOT_OF_INSTANCES)
            if own is None:
                continue
            name = _text(self._detail(("nvmlDeviceGetName", own)) or parent.name)
            memory = self._memory(own)
            attributes = self._detail(("nvmlDeviceGetAttributes", own))
            numbers = [self._detail((f"nvmlDeviceGet{kind}InstanceId", own)) for kind in ("Gpu", "Compute")]
            total = Mib(attributes.memorySizeMB if attributes is not None else 0)
            instance = Gpu(
                id=self._uuid(own),
                index=parent.index,
                name=name,
                memory_total_mib=_mib(memory.total) if memory is not None else total,
                pci_id=parent.pci_id,
                mig=_profile(name, attributes),
                parent=parent.id,
                devices=instance_devices(parent.devices, *numbers),
            )
            yield Device(instance, self, own, parent.index, divisible=True)

    def _uuid(self, handle: Any) -> GpuId:  # noqa: ANN401 - as above
        uuid = self._ask(("nvmlDeviceGetUUID", handle))
        if not uuid:
            raise GpuFailedError("it has no UUID")
        return GpuId(_text(uuid))

    def nvlinked(self, one: Any, other: Any) -> bool:  # noqa: ANN401 - as above
        """Return whether two GPUs are known to reach each other over NVLink."""
        return bool(self._link("nvmlDeviceGetP2PStatus", one, other, _P2P_NVLINK) == _P2P_OK)

    def common_ancestor(self, one: Any, other: Any) -> int | None:  # noqa: ANN401 - as above
        """Return where the PCIe paths to two GPUs meet, as nvmlGpuTopologyLevel_t."""
        level: int | None = self._link("nvmlDeviceGetTopologyCommonAncestor", one, other)
        return level

    def memory_node(self, handle: Any) -> int | None:  # noqa: ANN401 - as above
        """Return the NUMA node whose memory is next to a GPU.

        Not nvmlDeviceGetNumaNodeId: that is the node which a GPU's own memory makes (Grace Hopper).
        """
        words = self._link("nvmlDeviceGetMemoryAffinity", handle, _WORDS, _AFFINITY_NODE)
        nodes = sum(int(word) << 64 * at for at, word in enumerate(words)) if words is not None else 0
        return (nodes & -nodes).bit_length() - 1 if nodes else None

    def _link(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401 - as above
        """Ask about a link: whatever goes wrong, it is only not known."""
        try:
            return self._ask((name, *arguments))
        except (GpuFailedError, GpuLostError):
            return None

    def _check_identity(self, device: "Device") -> None:
        """Raise GpuFailedError where a GPU's number is another's by now: a job that is told it would be on that one."""
        handle = device.handle if device.gpu.mig is not None else self._ask(("nvmlDeviceGetHandleByIndex", device.at))
        if handle is None:
            raise GpuFailedError(FORBIDDEN)
        if self._uuid(handle) != device.gpu.id:
            raise GpuFailedError("the driver has numbered its GPUs anew")

    def sample(self, device: "Device") -> Sample:
        """Return what the GPU shows now. Raises GpuLostError, GpuFailedError; DriverReplacedError until it is known."""
        if not self.replaced:
            self.check_version()
        self._check_identity(device)
        gpu, handle = device.gpu, device.handle
        if gpu.mig is not None:
            used = _used(self._memory(handle))
            held = self._held(handle, _NOT_OF_INSTANCES)
            return Sample(memory_used_mib=used, utilization_percent=None, temperature_c=None, power_w=None, held=held)
        modes = self._detail(("nvmlDeviceGetMigMode", handle))
        if modes is not None and modes[0] and not gpu.split:
            raise GpuSplitError("it was put into MIG mode, and its instances are not known yet")
        utilization = self._detail(("nvmlDeviceGetUtilizationRates", handle))
        temperature = self._detail(
            ("nvmlDeviceGetTemperature", handle, _TEMPERATURE_GPU),
            ("nvmlDeviceGetTemperatureV", handle, _TEMPERATURE_GPU),
        )
        power_mw = self._detail(("nvmlDeviceGetPowerUsage", handle))
        return Sample(
            memory_used_mib=_used(self._memory(handle)),
            utilization_percent=_up_to(_MOST_PERCENT, utilization.gpu) if utilization is not None else None,
            temperature_c=_up_to(_MOST_C, temperature),
            power_w=power_mw / 1000 if _up_to(_MOST_MW, power_mw) is not None else None,
            held=self._held(handle),
            slowed=slowed_by(self._detail, handle),
        )

    def signs(self, handle: Any) -> Signs:  # noqa: ANN401 - as above
        """Return the signs of a GPU's health. Raises GpuLostError."""
        return signs_of(self._detail, handle)

    def _memory(self, handle: Any) -> Any:  # noqa: ANN401 - as above
        """Return total and used bytes: without what the driver reserves (v2), or with it where it is too old."""
        return self._ask(
            ("nvmlDeviceGetMemoryInfo", handle, self._nvml.nvmlMemory_v2),
            ("nvmlDeviceGetMemoryInfo", handle),
        )

    def _held(self, handle: Any, absent: frozenset[int] = _ABSENT) -> tuple[Held, ...] | None:  # noqa: ANN401 - as above
        """Return the pids on the GPU; None where the driver does not list those that compute."""
        found: dict[int, Held] = {}
        for kind in ("Graphics", "MPSCompute", "Compute"):
            name = f"nvmlDeviceGet{kind}RunningProcesses"
            listed = self._ask((f"{name}_v3", handle), (f"{name}_v2", handle), absent=absent)  # v3 since R510
            listed = self._listed_v1(name, handle) if listed is None else listed
            if listed is None and kind == "Compute":
                return None
            for process in listed or ():  # one that computes and draws is in two lists
                used = process.usedGpuMemory
                memory = _mib(used) if used not in {None, _NOT_SAID} else None
                found[process.pid] = Held(process.pid, memory, compute=kind != "Graphics")
        return tuple(found[pid] for pid in sorted(found))

    def _listed_v1(self, name: str, handle: Any) -> Any:  # noqa: ANN401 - as above
        """Return what drivers before R455 list, by a call that nvidia-ml-py lacks; None where there is no such list."""
        call = getattr(self._nvml.nvmlLib, name, None)
        listed, count = (_ProcessV1 * _PROCESSES)(), ctypes.c_uint(_PROCESSES)
        return listed[: count.value] if call and call(handle, ctypes.byref(count), listed) == 0 else None

    def _detail(self, *calls: tuple[Any, ...]) -> Any:  # noqa: ANN401 - whatever the call gives
        """Ask for what a GPU can do without: some boards fail for good here (power on laptops), and work."""
        try:
            return self._ask(*calls)
        except GpuFailedError:
            return None

    def _ask(self, *calls: tuple[Any, ...], absent: frozenset[int] = _ABSENT) -> Any:  # noqa: ANN401 - whatever the call gives
        """Return what the first call gives that binding and driver both know; None if there is no such thing.

        `absent` is what a driver answers where there is none.
        """
        for name, *arguments in calls:
            try:
                return getattr(self._nvml, name)(*arguments)
            except (
                AttributeError,
                ctypes.ArgumentError,
                UnicodeDecodeError,
            ):  # a binding of another age, or a bug in it
                continue
            except self._nvml.NVMLError as error:
                if error.value in _OTHER_VERSION:
                    continue
                if error.value in absent:
                    return None
                if error.value in _LOST:
                    raise GpuLostError(f"the driver has lost it ({error})") from error
                if error.value == _RESET_REQUIRED:
                    raise GpuNeedsResetError("it needs a reset (nvidia-smi --gpu-reset)") from error
                raise GpuFailedError(f"{name} failed: {error}") from error
        return None


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU or an instance, and by which handle which library knows it.

    `at` is the GPU's index for the driver, and `divisible` whether MIG can split it.
    """

    gpu: Gpu
    nvml: Nvml
    handle: Any
    at: int
    divisible: bool = False

    def sample(self) -> Sample:
        """Return what the GPU shows now. Raises GpuLostError, GpuFailedError and DriverReplacedError."""
        return self.nvml.sample(self)

    def signs(self) -> Signs | None:
        """Return the signs of its health; instances have none of their own. Raises GpuLostError."""
        return self.nvml.signs(self.handle) if self.gpu.mig is None else None


def _no_driver(error: Any, said: str) -> NoDriverError:  # noqa: ANN401 - the binding's NVMLError
    kind = DriverReplacedError if error.value == _LIB_RM_VERSION_MISMATCH else NoDriverError
    return kind(_NO_DRIVER.get(error.value, f"{said}: {error}"))


def _binding() -> Any:  # noqa: ANN401 - nvidia-ml-py ships no types
    """Import nvidia-ml-py, late: 8,000 lines that a machine without GPUs need not wait for."""
    try:
        binding = importlib.import_module("pynvml")
    except ImportError as error:
        raise NoDriverError(f"nvidia-ml-py cannot be imported: {error}") from error
    if not hasattr(binding, "_nvmlGetFunctionPointer"):  # a name that only nvidia-ml-py's own module has
        raise NoDriverError("the package pynvml hides nvidia-ml-py: remove it (pip uninstall pynvml), restart gpud")
    return binding


def _profile(name: str, attributes: Any) -> str:  # noqa: ANN401 - as above
    """Return an instance's profile: as its name says it, else as NVIDIA would call what it has ("1c.3g.20gb")."""
    named = _PROFILE.search(name)
    if named is not None:
        return named[1].lower()
    if attributes is None:
        return "unknown"
    slices, own = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
    part = f"{own}c." if 0 < own < slices else ""
    return f"{part}{slices}g.{nominal_mib(Mib(attributes.memorySizeMB)) >> 10}gb"


def _text(raw: str | bytes) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw


def _up_to(most: int, told: int | None) -> int | None:
    return int(told) if told is not None and told <= most else None


def _used(memory: Any) -> Mib | None:  # noqa: ANN401 - as above
    return _mib(memory.used) if memory is not None and memory.used <= memory.total else None


def _mib(size_bytes: int) -> Mib:
    return Mib(size_bytes >> 20)
