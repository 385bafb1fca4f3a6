"""gpuctl: the command line of gpud, and the same from Python.

    from gpuctl import Client

    with Client() as gpud:
        for job in gpud.request("list")["jobs"]:
            print(job["id"], job["state"])

`gpud.wire.messages` lists the requests, their fields and their replies.
"""

from gpuctl.client import Client
from gpuctl.errors import GpuctlError, NotPermittedError, RefusedError, UnreachableError

__all__ = ["Client", "GpuctlError", "NotPermittedError", "RefusedError", "UnreachableError"]
