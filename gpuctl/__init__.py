"""gpuctl: the command line of gpud, and the same from Python.

    from gpuctl import Client

    with Client() as gpud:
        for job in gpud.request("list")["jobs"]:
            print(job["id"], job["state"])

`gpud.wire.messages` lists the requests, their fields and their replies.
"""

TYPE_CHECKING = False  # typing takes as long to import as all that Ctrl-C must not fall into
if TYPE_CHECKING:
    from gpuctl.client import Client
    from gpuctl.errors import GpuctlError, NotPermittedError, RefusedError, UnreachableError

__all__ = ["Client", "GpuctlError", "NotPermittedError", "RefusedError", "UnreachableError"]


def __getattr__(name: str) -> object:
    """Return a public name, imported when it is asked for: the command line has a Ctrl-C to look after first."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gpuctl import client, errors  # noqa: PLC0415 - see above

    found: object = getattr(client if name == "Client" else errors, name)
    return found
