"""What has ended a moment ago. Whoever asks that it run again may have looked at the store before that."""

from collections import OrderedDict
from dataclasses import replace
from typing import TypeVar

from gpud.model.job import End, JobId, array_of
from gpud.model.spec import ArrayState, LoadedJob

Value = TypeVar("Value")

_REMEMBERED = 4_096


class Recent:
    """The jobs and arrays that ended last, as they were then."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[JobId, tuple[int, End]] = OrderedDict()
        self._arrays: OrderedDict[JobId, ArrayState] = OrderedDict()

    def ended(self, job: JobId, attempt: int, end: End) -> None:
        """Remember which attempt of a job, or an element, was its last, and how that ended."""
        _remember(self._jobs, job, (attempt, end))

    def over(self, array: JobId, state: ArrayState) -> None:
        """Remember the counts of an array that is over."""
        _remember(self._arrays, array, state)

    def as_it_is(self, loaded: LoadedJob) -> LoadedJob:
        """Return a job that is over as it is now, not as it was when somebody looked."""
        attempt, end = self._jobs.get(loaded.job, (0, None))
        if attempt > loaded.place.attempt:
            loaded = replace(loaded, place=replace(loaded.place, attempt=attempt), end=end)
        state = self._arrays.get(array_of(loaded.job))
        return loaded if state is None else replace(loaded, array=state)


def _remember(known: OrderedDict[JobId, Value], key: JobId, value: Value) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > _REMEMBERED:
        known.popitem(last=False)  # of a plain dict the first is found behind all that were there before it
