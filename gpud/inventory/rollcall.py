"""What GPUs say when each is asked who it is: which there are, and what is wrong with the rest."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from gpud.inventory.nvml import FORBIDDEN, Device, GpuLostError

NOT_ANSWERING = "not answering: a call into the NVIDIA driver does not return"


@dataclass(frozen=True, slots=True)
class Roll:
    """The GPUs that we manage, by the driver's index, each before its instances, and what is wrong with the list.

    `silent`: there are others, that do not say who they are. `forbidden`: there are some that this user may not use.
    """

    devices: list[Device]
    problem: str | None
    silent: bool = False
    forbidden: bool = False


def call_roll(
    answers: Mapping[int, Future[tuple[Device, ...]]], known: Sequence[Device], only: Collection[int] | None, count: int
) -> Roll:
    """Judge what the GPUs of these indices, of so many, say by now.

    One that does not say who it is may be any that was `known` before and is not among the others: those stay.
    """
    found, silent, lost, forbidden = list[Device](), dict[int, str](), set[int](), set[int]()
    for index, answer in answers.items():
        try:
            devices = answer.result(timeout=0)
        except TimeoutError:
            silent[index] = f"GPU {index} is {NOT_ANSWERING}"
        except Exception as error:  # noqa: BLE001 - GpuLostError, GpuFailedError, what the binding cannot read
            silent[index] = f"GPU {index} cannot be identified: {error}"
            lost |= {index} if isinstance(error, GpuLostError) else set()
        else:
            twins = {device.gpu.id for device in devices} & {device.gpu.id for device in found}
            if twins:
                silent[index] = f"GPU {index} has the UUID of another: {', '.join(twins)}"
            else:
                found += devices
                forbidden |= set() if devices else {index}
    # Who runs on one that we may not use any more runs on: it is not gone.
    silent |= {each.at: f"GPU {each.at}: {FORBIDDEN}" for each in known if each.at in forbidden}
    there = {device.gpu.id for device in found}
    kept = [device for device in known if silent and (device.gpu.parent or device.gpu.id) not in there]
    unknown = silent.keys() - {device.at for device in kept}
    problems = [silent[index] for index in sorted(unknown)] if count else ["the NVIDIA driver has no GPU"]
    missing = sorted(index for index in only or () if index >= count > 0)
    problems += [f"gpus names GPU {index}, and there are {count}" for index in missing]
    none = bool(forbidden) and not found and not kept
    problems += [f"this user may use none of {count}: see who may open /dev/nvidia*"] if none else []
    there_are = sorted([*found, *kept], key=lambda device: device.at)
    return Roll(there_are, "; ".join(problems) or None, none or not unknown <= lost, bool(forbidden))


def numbered(devices: Sequence[Device], count: int) -> list[Device]:
    """Return GPUs as the driver numbers them, and their instances from there on: every index is one device's."""
    numbers = itertools.count(count)
    return [
        device if device.gpu.mig is None else replace(device, gpu=replace(device.gpu, index=next(numbers)))
        for device in devices
    ]
