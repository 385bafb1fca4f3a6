"""Holds what came over the wire, or out of a file, to its type: exactly, before anything is done with it.

The types on the protocol's page are the only description of a request there is; each is compiled once into a check
that costs microseconds (a submit with 100 variables: under 15). Types are compared with `is`, for True must not pass
for 1; a whole number does for a float, since msgpack writes 3.0 as 3 in some languages.
"""

import math
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from gpud.wire.codec import Message

_Check = Callable[[Any, str], None]

_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    bytes: "bytes",
    list: "a list",
    dict: "a map",
    type(None): "null",
}
_INT_MAX = 2**63 - 1  # what SQLite keeps
# Most numbers with a fraction are times: from the year 68 to the last day of 9999, as every calendar can write them.
_TIMES = (-6e10, 253_402_214_400.0)
_WORD_MOST = 100  # characters of what may be a word misspelt: to compare a longer one takes as long as it is


class Wrong(Exception):  # noqa: N818 - reads as what it is: the request is wrong, nothing failed
    """A request, or a setting, that is not what its type says. `code` is the protocol's; `hint` says what to try."""

    def __init__(self, message: str, hint: str | None = None, code: str = "usage") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def check(kind: type, message: Message) -> None:
    """Return if a message is what the TypedDict `kind` says.

    Raises Wrong, naming the first key that is unknown (with the nearest known one), of another type, or missing.
    """
    _check_of(kind)(message, "")


def check_value(kind: Any, value: object, name: str) -> None:  # noqa: ANN401 - a type, or a form such as list[int]
    """Return if a value is of a type: str, int, list[str], Literal, a TypedDict ... Raises Wrong, calling it `name`."""
    _check_of(kind)(value, name)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return `did you mean 'this'?` for the nearest of the known words, None where none is near."""
    near = get_close_matches(word.lower(), list(known), n=1, cutoff=0.6) if len(word) <= _WORD_MOST else None
    return f"did you mean {near[0]!r}?" if near else None


@cache
def _check_of(kind: Any) -> _Check:  # noqa: ANN401 - as check_value
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        return _typed_map(kind)
    if origin is Literal:
        return _one_of(frozenset(arguments))
    if origin is UnionType:
        return _one_kind_of(arguments)
    if origin is list:
        return _list_of(arguments[0])
    if origin is dict and arguments[0] is str:
        return _map_of(arguments[1])
    if kind is int:
        return _whole
    if kind is float:
        return _number
    if kind in _WORDS:
        return _exactly(kind)
    raise TypeError(f"no check for {kind}")


def _wrong(where: str, wanted: str, value: object) -> Wrong:
    return Wrong(f"{where or 'the message'} must be {wanted}, not {_WORDS.get(type(value), type(value).__name__)}")


def _exactly(kind: type) -> _Check:
    def check_exactly(value: object, where: str) -> None:
        if type(value) is not kind:
            raise _wrong(where, _WORDS[kind], value)

    return check_exactly


def _whole(value: object, where: str) -> None:
    if type(value) is not int:
        raise _wrong(where, _WORDS[int], value)
    if not -_INT_MAX <= value <= _INT_MAX:
        raise Wrong(f"{where} is too large a number: {value}")


def _number(value: object, where: str) -> None:
    if type(value) is not int and type(value) is not float:
        raise _wrong(where, _WORDS[float], value)
    if not math.isfinite(value):
        raise Wrong(f"{where} must be a number, not {value}")
    if not _TIMES[0] <= value <= _TIMES[1]:
        raise Wrong(f"{where} is too large a number: {value:g}")


def _one_of(words: frozenset[str]) -> _Check:
    listed = ", ".join(sorted(words))

    def check_one_of(value: object, where: str) -> None:
        if type(value) is not str or value not in words:
            said = repr(value) if type(value) is str else _WORDS.get(type(value), "that")
            raise Wrong(f"{where} must be one of {listed}; not {said}", nearest(str(value), words))

    return check_one_of


def _one_kind_of(kinds: tuple[type, ...]) -> _Check:
    checks = {kind: _check_of(kind) for kind in kinds}

    def check_one_kind(value: object, where: str) -> None:
        found = checks.get(type(value))
        if found is None:
            raise _wrong(where, " or ".join(_WORDS[kind] for kind in kinds), value)
        found(value, where)

    return check_one_kind


def _list_of(kind: Any) -> _Check:  # noqa: ANN401 - as check_value
    item_check = _check_of(kind)
    passes = {kind} if kind in {str, bytes, bool} else set()

    def check_list(value: object, where: str) -> None:
        if type(value) is not list:
            raise _wrong(where, "a list", value)
        if passes.issuperset(map(type, value)):  # without a call for each
            return
        for at, item in enumerate(value):
            item_check(item, f"{where}[{at}]")

    return check_list


def _map_of(kind: Any) -> _Check:  # noqa: ANN401 - as check_value
    value_check = _check_of(kind)
    passes = {kind} if kind in {str, bytes, bool} else set()

    def check_map(value: object, where: str) -> None:
        if type(value) is not dict:
            raise _wrong(where, "a map", value)
        if not {str}.issuperset(map(type, value)):
            raise Wrong(f"every key of {where} must be text")
        if passes.issuperset(map(type, value.values())):
            return
        for key, item in value.items():
            value_check(item, f"{where}.{key}")

    return check_map


def _typed_map(kind: Any) -> _Check:  # noqa: ANN401 - a TypedDict class
    checks = {key: _check_of(hint) for key, hint in get_type_hints(kind).items()}
    required: frozenset[str] = kind.__required_keys__

    def check_typed_map(value: object, where: str) -> None:
        if type(value) is not dict:
            raise _wrong(where, "a map", value)
        prefix = f"{where}." if where else ""
        for key, item in value.items():
            known = checks.get(key)
            if known is None:
                raise Wrong(f"unknown key {_shown(prefix, key)}", nearest(str(key), checks))
            known(item, prefix + key)
        if not value.keys() >= required:
            missing = ", ".join(_shown(prefix, key) for key in sorted(required - value.keys()))
            raise Wrong(f"missing: {missing}")

    return check_typed_map


def _shown(prefix: str, key: object) -> str:
    return repr(prefix + key if isinstance(key, str) else key)
