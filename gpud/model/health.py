"""What a GPU tells of its own health, beside how busy it is: counters, links and limits that change slowly."""

from gpud.model.value import value


@value(kw_only=True)
class Signs:
    """One look at what changes slowly; None: this board, mode or driver has no such thing.

    `ecc_uncorrected` counts memory errors that could not be corrected, since the driver was loaded. `remap_pending`:
    memory that failed is replaced (rows remapped, pages retired) at the next reset; `remap_failed`: there is no more to
    replace it with. `recovery` is what the driver says must be done: "reset", "reboot", ...
    """

    ecc_uncorrected: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None
    recovery: str | None = None
