"""Signs of a GPU's health, as NVML tells them: read now and then, for they change slowly. Numbers are nvml.h's."""

from collections.abc import Callable
from typing import Any

from gpud.model.health import Signs

Ask = Callable[..., Any]  # makes the first of these calls that the driver knows; None: there is no such thing

_UNCORRECTED, _SINCE_LOADED = 1, 0  # nvmlMemoryErrorType_t, nvmlEccCounterType_t
_RECOVERY_FIELD = 230  # NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
_RECOVERIES = {
    1: "reset",
    2: "reboot",
    3: "drain of its peers' traffic",
    4: "drain and reset",
    5: "recovery of its IMEX domain",
    6: "reset of its bus",
    7: "reboot",
}
_HARDWARE, _HEAT, _BRAKE = 0x08, 0x20 | 0x40, 0x80  # nvmlClocksEventReasons; 0x04, the power limit, is daily business


def slowed_by(ask: Ask, handle: Any) -> tuple[str, ...] | None:  # noqa: ANN401 - the binding's own, opaque to us
    """Return what keeps a GPU's clocks down beside its power limit."""
    bits = ask(
        ("nvmlDeviceGetCurrentClocksEventReasons", handle),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", handle),
    )
    if bits is None:
        return None
    known = [word for mask, word in ((_HEAT, "heat"), (_BRAKE, "its power brake")) if bits & mask]
    return tuple(known or (["heat or power"] if bits & _HARDWARE else []))


def signs_of(ask: Ask, handle: Any) -> Signs:  # noqa: ANN401 - as above
    """Return a GPU's signs."""
    rows = ask(("nvmlDeviceGetRemappedRows", handle))  # since Ampere; before, pages were retired
    pending = rows[2] if rows is not None else ask(("nvmlDeviceGetRetiredPagesPendingStatus", handle))
    limit_mw = ask(("nvmlDeviceGetEnforcedPowerLimit", handle))
    usual_mw = ask(("nvmlDeviceGetPowerManagementDefaultLimit", handle))
    return Signs(
        ecc_uncorrected=ask(("nvmlDeviceGetTotalEccErrors", handle, _UNCORRECTED, _SINCE_LOADED)),
        remap_pending=None if pending is None else bool(pending),
        remap_failed=None if rows is None else bool(rows[3]),
        pcie_width=ask(("nvmlDeviceGetCurrPcieLinkWidth", handle)),
        pcie_width_max=ask(("nvmlDeviceGetMaxPcieLinkWidth", handle)),
        power_limit_w=None if limit_mw is None else limit_mw / 1000,
        power_default_w=None if usual_mw is None else usual_mw / 1000,
        recovery=_recovery(ask, handle),
    )


def _recovery(ask: Ask, handle: Any) -> str | None:  # noqa: ANN401 - as above
    fields = ask(("nvmlDeviceGetFieldValues", handle, [_RECOVERY_FIELD]))
    if not fields or fields[0].nvmlReturn != 0:
        return None
    return _RECOVERIES.get(int(fields[0].value.uiVal))
