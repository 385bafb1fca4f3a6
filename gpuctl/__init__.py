"""gpuctl: the command line of gpud, and the same from Python.

    from gpuctl import Client

    with Client() as client:
        job = client.submit(["python", "train.py"], gpus=2, time_limit="4h")
        print(job.wait().state, list(job.logs()))

`gpuctl.aio.AsyncClient` is the same for asyncio. What the two do not wrap is asked with `request`: `gpud.wire.messages`
lists the requests, their fields and their replies.
"""

TYPE_CHECKING = False  # typing takes as long to import as all that Ctrl-C must not fall into
if TYPE_CHECKING:
    from gpuctl.api import Client, Job
    from gpuctl.errors import GpuctlError, JobError, NotPermittedError, RefusedError, UnreachableError

__all__ = ["Client", "GpuctlError", "Job", "JobError", "NotPermittedError", "RefusedError", "UnreachableError"]


def __getattr__(name: str) -> object:
    """Return a public name, imported when it is asked for: the command line has a Ctrl-C to look after first."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "api" if name in ("Client", "Job") else "errors"
    found: object = getattr(__import__(f"gpuctl.{module}", fromlist=[name]), name)
    return found


def __dir__() -> list[str]:
    """Return the public names, for whoever completes them: most are not here until they are asked for."""
    return __all__
