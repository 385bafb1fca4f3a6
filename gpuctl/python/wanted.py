"""What the Python interfaces ask gpud for: the options of `gpuctl submit` by their names, jobs, and filters.

Options mean what they mean on the command line, and are understood by the same code: `time_limit="2h"`, or a number
of seconds; `gpu_memory="24G"`, or a number of MiB. Shared by `gpuctl.api` and `gpuctl.aio`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import index
from typing import Any, Protocol, TypedDict

import click

from gpuctl.errors import GpuctlError, UsageError
from gpuctl.submitting import submission

Duration = str | float | timedelta
Words = str | Iterable[str]


class Named(Protocol):
    """Whatever has a job's id."""

    id: str


JobLike = Named | str | int
Jobs = JobLike | Iterable[JobLike]
_MOST = 10_000  # rows that gpud lists at once
_NOT_OURS = frozenset({"file", "dry_run"})
Command = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Options(TypedDict, total=False):
    """The options of `gpuctl submit`, which `gpuctl submit --help` explains; each may be left out.

    `env` adds to this process's environment, which the job gets; `label` takes a mapping, too. Several of `after`,
    `notify` and `retry_on` are given as a list; `after` also takes a job, or jobs.
    """

    gpus: float | str
    nodes: int
    gpus_per_node: int
    gpu_ids: Words | Iterable[int]
    gpu_memory: str | float
    gpu_type: str
    share: bool
    mig: str
    cpus: int
    memory: str | float
    not_gpu: Words | Iterable[int]
    not_node: Words
    node_label: Mapping[str, str] | Words
    pool: str
    spread: bool
    priority: int
    name: str
    time_limit: Duration
    estimate: Duration
    retries: int
    retry_on: Words
    after: Jobs
    tenant: str
    preemptible: bool
    array: str
    begin: str | datetime | timedelta
    hold: bool
    group: str
    key: str
    notify: Words
    label: Mapping[str, str] | Words
    env: Mapping[str, str] | Words
    env_file: str | os.PathLike[str]
    workdir: str | os.PathLike[str]
    output: str | os.PathLike[str]
    error: str | os.PathLike[str]
    grace: Duration
    checkpoint_signal: str | int
    checkpoint_interval: Duration


class Filters(TypedDict, total=False):
    """Which jobs are meant, beside their ids, or without: `mine=True`, `state="failed"`."""

    mine: bool
    user: str
    state: Words
    group: str


class Listed(Filters, total=False):
    """Which jobs are listed; `since` is seconds since 1970, `labels` are `K=V` or `K`."""

    all: bool
    name: str
    labels: Words
    since: float | datetime
    limit: int


def job(command: Command, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `submit` request. Raises UsageError, and TypeError for an option that there is not.

    A list is a command with its arguments, run as it is; a single word a script (or a program).
    """
    from gpuctl.commands.submit import submit  # noqa: PLC0415 - the table of options, needed to submit alone

    literal = not isinstance(command, str | os.PathLike)
    run = [os.fspath(command)] if isinstance(command, str | os.PathLike) else list(map(_word, command))
    if not run:
        raise UsageError("nothing to run", hint='write: client.submit(["python", "train.py"])')
    if not literal and " " in run[0].strip() and not os.path.exists(run[0]):
        hint = f'write: client.submit(["bash", "-c", {run[0]!r}])'
        raise UsageError(f"{run[0]!r} is no script; a command is a list of words, run without a shell", hint=hint)
    given = _understood(submit, options, ["--", *run])
    if given["key"] is not None and given["group"] is None:
        raise UsageError("a key names a job in its group", hint='add group="NAME"')
    return submission.fields(given, literal=literal)


def _word(word: object) -> str:
    """Return a word of a command. Raises TypeError."""
    if not isinstance(word, str | bytes | os.PathLike):
        raise TypeError(f"a command is a list of words: write {str(word)!r}, not {word!r}")
    return os.fsdecode(word)


def changes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an `update` request, without its selection. Raises UsageError, TypeError."""
    from gpuctl.commands import update  # noqa: PLC0415 - as above

    options = {"to_group" if name == "group" else name: value for name, value in options.items()}
    return update.fields(_understood(update.update, options, []))


def _understood(command: click.Command, options: Mapping[str, Any], words: list[str]) -> dict[str, Any]:
    """Return the parameters that a command gets from these options. Raises UsageError, TypeError."""
    known = {each.name: each for each in command.params if isinstance(each, click.Option) and each.expose_value}
    asked: list[str] = []
    for name, value in options.items():
        option = known.get(name)
        if option is None or name in _NOT_OURS:
            raise TypeError(f"{command.name} has no option {name!r}; gpuctl {command.name} --help tells all")
        if value is not None:
            asked += _words(option, value)
    try:
        given = command.make_context(str(command.name), [*asked, *words]).params
    except click.UsageError as error:
        raise UsageError(error.format_message()) from error
    return {name: value for name, value in given.items() if name not in _NOT_OURS}


def _words(option: click.Option, value: object) -> list[str]:
    """Return an option as one would type it."""
    long = max(option.opts, key=len)
    if option.is_flag:
        return [long] if value else [max(option.secondary_opts, key=len)] if option.secondary_opts else []
    if isinstance(value, Mapping):
        return [f"{long}={key}={each}" for key, each in value.items()]
    several = [value] if _is_one(value) else list(value)  # type: ignore[call-overload]  # an iterable
    written = [_written(each) for each in several]
    if option.multiple:
        return [f"{long}={each}" for each in written]
    return [f"{long}={','.join(written)}"]


def _is_one(value: object) -> bool:
    return isinstance(value, str | os.PathLike) or not isinstance(value, Iterable)


def _written(value: object) -> str:
    if isinstance(value, timedelta):
        return str(value.total_seconds())
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    return str(getattr(value, "id", value))


def ids(jobs: Jobs) -> list[str]:
    """Return the ids of jobs."""
    each = [jobs] if _is_one(jobs) else list(jobs)  # type: ignore[arg-type]  # told apart by _is_one
    return [_written(one) for one in each]


def number(method: str, value: object) -> int:
    """Return a signal, or a priority, which stands in front of the jobs. Raises TypeError."""
    try:
        return index(value)  # type: ignore[arg-type]  # what has none raises
    except TypeError:
        raise TypeError(f"a number stands in front of the jobs: client.{method}(10, job), not {value!r}") from None


def selection(jobs: Sequence[Jobs], filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Selection map of a change. Raises UsageError when it would be everything by oversight."""
    named = [job for some in jobs for job in ids(some)]
    select = ({"jobs": named} if named else {}) | listing(filters)
    if not select:
        raise UsageError("no job named", hint="name jobs, or say which: mine=True, user=, state=, group=")
    if jobs and not named:
        raise GpuctlError("no jobs are in what was given")
    return select


def listed(jobs: Sequence[Jobs], filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `list` request."""
    named = [job for some in jobs for job in ids(some)]
    return {"limit": _MOST} | ({"jobs": named} if jobs else {}) | listing(filters)


def listing(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters of a request."""
    asked = dict(filters)
    for key in ("state", "labels"):
        if key in asked:
            asked[key] = ids(asked[key])
    if isinstance(asked.get("since"), datetime):
        asked["since"] = asked["since"].timestamp()
    return {key: value for key, value in asked.items() if value not in (None, False, [])}
