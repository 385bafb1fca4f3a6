"""What an attempt made of the GPUs that it held, as far as they were looked at meanwhile."""

from gpud.model.gpu import GpuId
from gpud.model.units import Mib, Seconds
from gpud.model.value import value


@value(kw_only=True)
class GpuUse:
    """What readings of one GPU told while an attempt held it; what they could not tell is None.

    They stand for `seen_s` of its time: less than it ran for where gpud was away. `busy_s` is that time by how busy the
    GPU was (half an hour at 50 % is a quarter of an hour), known for `known_s` of it, and `idle_s` the time at 0 %;
    `busiest_percent` is the most that was seen. Of a GPU that others shared at the moment only the memory is
    known, of the attempt's own processes. `energy_j` adds up what the board drew.
    """

    gpu: GpuId
    readings: int
    seen_s: Seconds
    known_s: Seconds = 0.0
    busy_s: Seconds = 0.0
    idle_s: Seconds = 0.0
    busiest_percent: int | None = None
    memory_peak_mib: Mib | None = None
    energy_j: float | None = None
