"""XIDs: the errors that NVIDIA's driver reports of a GPU by number, and what is to be done about each.

From NVIDIA's catalogue (docs.nvidia.com/deploy/xid-errors). Those that a program causes say nothing about the GPU: 13,
31, 43, 45, 68 and 109 are what NVIDIA's device plugin for Kubernetes leaves out too. An XID that is not listed here is
taken for the hardware's, as that plugin does.
"""

from enum import StrEnum
from typing import NamedTuple


class Remedy(StrEnum):
    """What NVIDIA says must be done; nothing where it is the program's doing, or only to be known."""

    NOTHING = ""
    WATCH = "watch"  # the GPU goes on, and is the last to be used
    RESET = "reset"
    REBOOT = "reboot"
    INSPECT = "inspect"


class Xid(NamedTuple):
    """An entry of the catalogue."""

    says: str
    remedy: Remedy = Remedy.NOTHING


FALLEN = 79
RECOVERY_CHANGED = 154  # what the driver now wants is among a GPU's signs
_UNKNOWN = Xid("not known to gpud; docs.nvidia.com/deploy/xid-errors explains it", Remedy.INSPECT)
_LISTED = {
    8: Xid("GPU stopped processing"),
    13: Xid("graphics engine exception, mostly of a program"),
    31: Xid("GPU memory page fault, mostly of a program"),
    32: Xid("invalid push buffer"),
    38: Xid("driver firmware error", Remedy.INSPECT),
    43: Xid("GPU stopped processing, by a fault of a program"),
    44: Xid("graphics engine fault during a context switch", Remedy.INSPECT),
    45: Xid("a program was ended, mostly after an earlier error"),
    46: Xid("GPU stopped processing", Remedy.RESET),
    48: Xid("double-bit memory error", Remedy.RESET),
    56: Xid("display engine error", Remedy.INSPECT),
    57: Xid("memory interface could not be programmed", Remedy.INSPECT),
    58: Xid("memory interface is unstable", Remedy.INSPECT),
    61: Xid("internal micro-controller stopped or warned", Remedy.INSPECT),
    62: Xid("internal micro-controller halted", Remedy.RESET),
    63: Xid("failed memory is to be replaced"),  # whether a reset is due is among the signs
    64: Xid("failed memory could not be replaced", Remedy.RESET),
    65: Xid("video processor exception", Remedy.INSPECT),
    68: Xid("video processor exception, mostly of a program"),
    69: Xid("graphics engine class error, mostly of a program"),
    74: Xid("NVLink error", Remedy.RESET),
    78: Xid("virtual GPU could not be started", Remedy.INSPECT),
    FALLEN: Xid("GPU has fallen off the bus", Remedy.REBOOT),
    80: Xid("corrupted data was sent to the GPU", Remedy.INSPECT),
    81: Xid("VGA subsystem error", Remedy.INSPECT),
    92: Xid("high rate of single-bit memory errors", Remedy.WATCH),
    94: Xid("contained memory error: the program that met it is gone", Remedy.WATCH),
    95: Xid("uncontained memory error", Remedy.RESET),
    109: Xid("context switch timed out, mostly of a program"),
    110: Xid("security fault", Remedy.RESET),
    119: Xid("GPU system processor does not answer", Remedy.RESET),
    120: Xid("GPU system processor failed", Remedy.RESET),
    121: Xid("chip-to-chip link error that was corrected"),
    137: Xid("NVLink fault of a program"),
    140: Xid("unrecovered memory error", Remedy.RESET),
    143: Xid("GPU could not be initialised", Remedy.RESET),
    RECOVERY_CHANGED: Xid("the driver changed what it wants done about the GPU"),
    155: Xid("NVLink software error", Remedy.RESET),
    156: Xid("resource retirement event", Remedy.RESET),
    157: Xid("resource retirement that failed"),
    158: Xid("GPU fatal time-out", Remedy.RESET),
}
_DO = {
    Remedy.WATCH: "if it comes again, a reset; then gpuctl undrain",
    Remedy.RESET: "a reset (nvidia-smi --gpu-reset) and gpuctl undrain, or a reboot",
    Remedy.REBOOT: "a reboot",
    Remedy.INSPECT: "a look at the hardware and its log (dmesg), then gpuctl undrain",
}


def entry(number: int) -> Xid:
    """Return what is known of an XID."""
    return _LISTED.get(number, _UNKNOWN)


def to_do(remedy: Remedy) -> str:
    """Return a remedy in words: what would clear the fault."""
    return _DO[remedy]
