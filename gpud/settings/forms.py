"""How settings are written: in a file (TOML), and in the text of a variable or an option."""

import os
import resource
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from gpud.core.policies.parameters import Kind, Parameter
from gpud.model.units import parse_duration, parse_size
from gpud.model.window import Pool
from gpud.wire.notices import check_rule


@dataclass(frozen=True, slots=True)
class Form:
    """How a setting is written: `toml` in a file, `read` from the text of a variable or an option.

    `value` makes of either what `Config` holds. Both raise ValueError, saying what would have been understood.
    """

    toml: Any
    read: Callable[[str], object]
    value: Callable[[Any], object] = lambda value: value
    shown: str = ""


class _PoolTable(TypedDict):
    gpus: list[int | str]
    max_time: NotRequired[str]


class _NodeTable(TypedDict):
    labels: dict[str, str]


Labels = tuple[tuple[str, str], ...]


def _labels(tables: dict[str, _NodeTable]) -> tuple[tuple[str, Labels], ...]:
    return tuple((name, tuple(sorted(table["labels"].items()))) for name, table in sorted(tables.items()))


def _pools(tables: dict[str, _PoolTable]) -> tuple[Pool, ...]:
    named = [(name, str(word)) for name, table in sorted(tables.items()) for word in table["gpus"]]
    for (one, first), (other, second) in combinations(named, 2):
        if one != other and _same(first, second):
            raise ValueError(f"the pools {one} and {other} both have GPU {second}; no job could get it")
    return tuple(
        Pool(
            name=name,
            gpus=tuple(str(word) for word in table["gpus"]),
            max_time_s=parse_duration(table["max_time"]) if "max_time" in table else None,
        )
        for name, table in sorted(tables.items())
    )


def _same(one: str, other: str) -> bool:
    """Return whether two words mean a GPU in common, as far as words tell: `3` is that of every node."""
    return one == other or any(
        whole.startswith(f"{part}:") or (part.isdigit() and whole.endswith(f":{part}"))
        for part, whole in ((one, other), (other, one))
    )


def _prices(table: dict[str, float]) -> tuple[tuple[str, float], ...]:
    below = next((name for name, price in table.items() if price < 0), None)
    if below is not None:
        raise ValueError(f"the price of {below} is below 0")
    return tuple(table.items())


def _inline(text: str) -> object:
    """Return a table that is written on one line: {debug = {gpus = [3]}}."""
    return tomllib.loads(f"it = {text}")["it"]


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError(f"{text!r} is neither yes nor no")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _indices(text: str) -> list[int]:
    words = _words(text)
    if not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError(f"{text!r} is not a list of GPUs; write 0,2,3")
    return [int(word) for word in words]


def _gpus(indices: list[int]) -> tuple[int, ...]:
    if any(index < 0 for index in indices) or len(set(indices)) != len(indices):
        raise ValueError("GPUs are counted from 0, and named once")
    return tuple(indices)


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _no_less(value: int) -> int:
    if value < 0:
        raise ValueError(f"{value} is out of range; 0 or more is wanted")
    return value


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


_LIMIT_NAMES = frozenset(name.removeprefix("RLIMIT_") for name in dir(resource) if name.startswith("RLIMIT_"))


def _limits(table: dict[str, int | str]) -> tuple[tuple[str, int, int], ...]:
    """Return limits of processes as name, soft and hard value (-1: none); `soft:hard`, or one for both."""
    found = []
    for name, said in sorted(table.items()):
        if name not in _LIMIT_NAMES:
            raise ValueError(f"{name!r} is no limit; there are: {', '.join(sorted(_LIMIT_NAMES))}")
        soft, _, hard = str(said).partition(":")
        try:
            low, high = (-1 if word == "unlimited" else _no_less(int(word)) for word in (soft, hard or soft))
        except ValueError:
            raise ValueError(f"{name} cannot be {said!r}; write a number, 'unlimited', or 'SOFT:HARD'") from None
        if 0 <= high < low or low < 0 <= high:
            raise ValueError(f"{name} cannot be {said!r}: the soft limit is above the hard one")
        found.append((name, low, high))
    return tuple(found)


def _targets(words: list[str]) -> tuple[str, ...]:
    for word in words:
        check_rule("end", word)
    return tuple(words)


def _size(text: str) -> int | None:
    return None if text.strip().lower() == "unlimited" else parse_size(text)


def choice(*words: str) -> Form:
    """Return how one of some words is written."""
    return Form(Literal[words], str, shown="{" + ",".join(words) + "}")


def path(text: str) -> str:
    """Return a path of a variable or an option, which is meant from where one stands."""
    return str(Path(text).expanduser().absolute())


def _full_path(text: str) -> str:
    path = str(Path(text).expanduser())
    if not path.startswith("/"):
        raise ValueError(f"{text!r} is not a full path; begin it with / or ~")
    return os.path.normpath(path)


TEXT = Form(str, str, shown="TEXT")
PATH = Form(str, path, _full_path, shown="PATH")
FLAG = Form(bool, _flag)
GPUS = Form(list[int], _indices, _gpus, shown="0,2,3")
NAMES = Form(list[str], _words, tuple, shown="NAME,NAME")
TARGETS = Form(list[str], _words, _targets, shown="TARGET,TARGET")
SIZE = Form(str, str, _size, shown="SIZE")
DURATION = Form(str, str, parse_duration, shown="DURATION")
COUNT = Form(int, _count, _no_less, shown="N")
POOLS = Form(dict[str, _PoolTable], _inline, _pools, shown="TABLE")
LIMITS = Form(dict[str, int | str], _inline, _limits, shown="TABLE")
PRICES = Form(dict[str, float], _inline, _prices, shown="TABLE")
NODES = Form(dict[str, _NodeTable], _inline, _labels, shown="TABLE")


def of_parameter(of: Parameter) -> Form:
    """Return how a parameter is written, as everywhere else that it can be set."""
    form = _FORMS[of.kind]

    def value(said: object) -> object:
        number = of.read(str(said))
        if number is None:
            raise ValueError(f"it cannot be {said!r}; {of.wanted}")
        return of.typed(number)

    return Form(form.toml, form.read, value, form.shown)


_FORMS = {
    Kind.NUMBER: Form(float, _rate, shown="NUMBER"),
    Kind.DURATION: Form(str, str, shown="DURATION"),
    Kind.COUNT: COUNT,
    Kind.FLAG: FLAG,
}
