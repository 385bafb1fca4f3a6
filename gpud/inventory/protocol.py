"""What the daemon asks of an inventory, whichever vendor's it is.

An inventory only tells: it posts what it sees, decides nothing, and never holds up its caller. It may post from
any thread, so `post` must be thread-safe and quick.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from gpud.model.gpu import GpuId
from gpud.model.observations import GpuSeen, NodeSeen, XidSeen

Post = Callable[[NodeSeen | GpuSeen | XidSeen], None]


class Inventory(Protocol):
    """The GPUs of one node (or, simulated, of several) and what is going on on them."""

    def start(self, post: Post) -> None:
        """Begin to look: a `NodeSeen` for each node comes first, then a `GpuSeen` for each of its GPUs.

        A node whose GPUs cannot be seen comes with its `problem`, and again without once they can.
        """

    def read(self, gpus: Iterable[GpuId]) -> None:
        """Look at these GPUs now; a `GpuSeen` answers for each, of a look that began after this call.

        Requests that find a look in flight share the next one.
        """

    def watch(self, every_s: float | None) -> None:
        """Look at every GPU now and every `every_s` seconds, until told None."""

    def follow(self, jobs: Mapping[GpuId, int]) -> None:
        """Know which GPUs hold how many jobs. Simulated readings follow it; real ones need not be told."""

    def close(self) -> None:
        """Post nothing more. Returns at once, even where a vendor's call hangs."""
