"""XIDs as they happen: a wait in the driver that a thread of its own can afford.

NVML tells of those since a GPU was registered, to any user. Nothing wakes the wait but an event and its time-out, so
it is short: who ends, or takes up another driver, does not have to wait for long.
"""

import ctypes
from typing import Any

from gpud.model.gpu import GpuId

WAIT_MS = 1000
_XID = 0x08  # nvmlEventTypeXidCriticalError
_TIMEOUT = 10  # nvmlReturn_t


class NoXidsError(Exception):
    """The driver cannot tell of XIDs."""


class Xids:
    """The event set of one NVML: GPUs may be added from any thread, one thread waits.

    It is never freed: a thread that hung in the driver may come back and register with it, long after that is gone.
    """

    def __init__(self, nvml: Any) -> None:  # noqa: ANN401 - nvidia-ml-py ships no types
        self._nvml = nvml
        self._gpus: dict[int | None, GpuId] = {}
        try:
            self._set = nvml.nvmlEventSetCreate()
        except (nvml.NVMLError, AttributeError):
            self._set = None

    def register(self, handle: Any, gpu: GpuId) -> None:  # noqa: ANN401 - as above
        """Hear of a GPU from now on; nothing where its driver does not tell."""
        nvml, key = self._nvml, _address(handle)
        if self._set is None or self._gpus.get(key) == gpu:
            return
        try:
            if nvml.nvmlDeviceGetSupportedEventTypes(handle) & _XID:
                nvml.nvmlDeviceRegisterEvents(handle, _XID, self._set)
                self._gpus[key] = gpu
        except (nvml.NVMLError, AttributeError):
            return

    def wait(self) -> tuple[GpuId, int] | None:
        """Return an XID and the GPU that it is of, None after a while without. Raises NoXidsError, and NVML's own."""
        if self._set is None:
            raise NoXidsError
        try:
            event = self._nvml.nvmlEventSetWait_v2(self._set, WAIT_MS)
        except AttributeError as error:
            raise NoXidsError from error
        except self._nvml.NVMLError as error:
            if error.value == _TIMEOUT:
                return None
            if isinstance(error, self._nvml.NVMLError_FunctionNotFound | self._nvml.NVMLError_NotSupported):
                raise NoXidsError from error
            raise
        gpu = self._gpus.get(_address(event.device))
        return (gpu, int(event.eventData)) if gpu is not None and event.eventType & _XID else None


def _address(handle: Any) -> int | None:  # noqa: ANN401 - as above
    return ctypes.cast(handle, ctypes.c_void_p).value
