"""Values: what compares by what it holds, and never changes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

Thing = TypeVar("Thing")


class Key:
    """A value by which much is looked up, and which is large: it works its hash out once."""

    __slots__ = ("_hash",)
    _hash: int


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(*, kw_only: bool = False) -> Callable[[type[Thing]], type[Thing]]:
    """Make a class one of values: a frozen dataclass with slots, as far as mypy and readers are concerned.

    Nothing refuses to change one when it runs: to make a frozen one takes four times as long, and each job that comes
    and goes takes two dozen of them.
    """
    made = dataclass(slots=True, unsafe_hash=True, kw_only=kw_only)
    return lambda plain: _hashed_once(made(plain)) if issubclass(plain, Key) else made(plain)


def _hashed_once(key: type[Thing]) -> type[Thing]:
    work_out: Callable[[Key], int] = key.__hash__

    def hash_once(self: Key) -> int:
        try:
            return self._hash
        except AttributeError:
            self._hash = work_out(self)
            return self._hash

    key.__hash__ = hash_once  # type: ignore[method-assign,assignment]  # no dataclass has one of its own
    return key
