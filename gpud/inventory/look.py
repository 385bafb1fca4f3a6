"""One look at a GPU: what its driver shows, and whose the processes on it are."""

from gpud.inventory.lease import Lease
from gpud.inventory.nvml import Device, GpuFailedError, GpuLostError
from gpud.inventory.processes import describe
from gpud.inventory.users import UserNames
from gpud.model.gpu import Reading, Unreadable
from gpud.model.units import Timestamp


def look(
    device: Device, lease: Lease, known: frozenset[int], users: UserNames, at: Timestamp, *, wants_signs: bool
) -> tuple[Reading | Unreadable, frozenset[int]]:
    """Look at a GPU, and return what was seen with the pids that `describe` wants to know of next time.

    Raises DriverReplacedError.
    """
    processes = None
    try:
        sample = device.sample()
        signs = device.signs() if wants_signs else None
    except GpuLostError as error:
        return Unreadable(at, str(error), lost=True), known
    except GpuFailedError as error:
        return Unreadable(at, str(error), reset=error.reset, split=error.split), known
    if sample.held is not None:
        processes, known = describe(sample.held, known, users)
        processes = lease.with_holder(processes, users)
    reading = Reading(
        at=at,
        memory_used_mib=sample.memory_used_mib,
        utilization_percent=sample.utilization_percent,
        temperature_c=sample.temperature_c,
        power_w=sample.power_w,
        processes=processes,
        lease=lease.holder(),
        slowed=sample.slowed,
        signs=signs,
    )
    return reading, known
