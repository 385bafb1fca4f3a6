"""Change what jobs ask for."""

import re
from typing import Any

import click

from gpuctl.commands.change import change, select, selection
from gpuctl.errors import UsageError
from gpuctl.parse import Parsed, after_of, jobs_argument, parse_begin, parse_positive, variables
from gpuctl.session import Session
from gpuctl.submitting import submission
from gpuctl.submitting.options import options
from gpuctl.submitting.places import mount_of
from gpud.model.units import parse_duration

_CHANGEABLE = (
    *("gpus", "nodes", "gpus_per_node", "gpu_ids", "gpu_memory", "gpu_type", "share", "mig", "cpus", "memory"),
    *("not_gpu", "not_node", "node_label", "pool", "spread", "priority", "name", "time_limit", "estimate", "retries"),
    *("checkpoint_signal", "checkpoint_interval", "notify"),
    *("retry_on", "preemptible", "begin", "after", "array", "key", "label", "env", "env_file", "workdir"),
    *("output", "error", "grace"),
)
_NONE = "none"
_DEFAULT = re.compile(r" \(default: [^)]*\)")
_REMOVABLE = {  # by `none`, and what it is called in a demand
    "gpu_memory": "gpu_memory_mib",
    "gpu_type": "gpu_type",
    "gpu_ids": "gpu_ids",
    "not_gpu": "excluded_gpus",
    "not_node": "excluded_nodes",
    "cpus": "cpus",
    "memory": "memory_mib",
    "pool": "pool",
    "mig": "mig",
}
_EMPTIED = ("notify", "retry_on")  # by `none`


def parse_limit(text: str) -> dict[str, float | bool]:
    """Return a time limit: `4h`, `+2h` or `-30m` for more or less than it is, `none`. Raises ValueError."""
    if text.lower() in ("none", "unlimited"):
        return {"unlimited": True}
    if text[:1] in ("+", "-"):
        more_s = parse_duration(text[1:])
        return {"time_limit_more_s": more_s if text[0] == "+" else -more_s}
    return {"time_limit_s": parse_duration(text)}


def parse_throttle(text: str) -> int:
    """Return how many of an array may run at once, of `%4`; 0: all, of `%none`. Raises ValueError."""
    if text.lower() in ("none", "%none"):
        return 0
    if text[:1] != "%":
        raise ValueError(f"{text!r}: which elements there are stays; how many of them run at once is: %4, %none")
    return parse_positive(text[1:])


def parse_new_begin(text: str) -> float:
    """Return a moment that is not past; of `none` this one. Raises ValueError."""
    return parse_begin("now" if text.lower() == _NONE else text)


def _options(command: Any) -> Any:
    """Give a command those options of `submit` that can be changed later, without their defaults."""

    @options
    def submit() -> None:
        """Bear the options."""

    table = {each.name: each for each in submit.__click_params__}  # type: ignore[attr-defined]  # put there by Click
    limit = table["time_limit"]
    limit.type = Parsed("DUR", parse_limit)
    limit.help = "From its start: 4h; +2h, -30m: more, less than now; none. Of running jobs, too."
    for each in table.values():  # what is not named stays as it is
        each.help = _DEFAULT.sub("", each.help or "")
    table["array"].type = Parsed("%N", parse_throttle)
    table["array"].help = "How many of an array run at once: %4; %none."
    table["key"].help = "What it is in its group; none."
    table["label"].help = "A label to find it by; K= and none take away. May be repeated."
    table["after"].help = "Once these have succeeded, instead: 12,14; or any:12, failed:12; none."
    table["begin"].type = Parsed("TIME", parse_new_begin)
    table["estimate"].type = Parsed("DUR", lambda text: 0.0 if text.lower() == _NONE else parse_duration(text))
    for name in (*_REMOVABLE, *_EMPTIED, "after", "label", "checkpoint_signal"):
        table[name].type = _or_none(table[name].type)
    for name in reversed(_CHANGEABLE):
        command.__click_params__ = [*getattr(command, "__click_params__", []), table[name]]
    return command


def _or_none(kind: Any) -> Parsed:
    """Return the type of an option that takes `none`, too."""

    def parse(text: str) -> Any:
        return _NONE if text.lower() == _NONE else kind.convert(text, None, None)

    return Parsed(kind.name, parse)


@click.command(context_settings={"ignore_unknown_options": False})
@jobs_argument()
@selection
@_options
@click.option("--to-group", metavar="NAME", help="Put it into this group; none.")
@click.pass_obj
def update(
    session: Session,
    /,
    jobs: tuple[str, ...],
    mine: bool,
    user: str | None,
    state: tuple[str, ...],
    group: str | None,
    **given: Any,
) -> None:
    """Change what waiting jobs ask for; they keep their place. What is not named stays as it is.

    Of a running job the time limit, the priority and whom it tells can be changed: gpuctl update 12 --time-limit +2h.
    It is not prolonged into a reservation of others that it ends before now.
    Of an array it is what has not started that changes. `none` takes away what was asked for: --gpu-type none,
    --after none, --begin none, --notify none. --group says which jobs are meant; to put them into another, say
    --to-group.
    """
    asked = fields(given)
    into = f"to put them into it: --to-group {group}" if jobs and group else None
    if not asked:
        raise UsageError(
            "nothing to change is named", hint=into or "for example: gpuctl update 12 --gpus 2 --time-limit 4h"
        )
    none = f"none of these jobs is in group {group}; {into}" if into else "no such jobs"
    change(session, "update", "changed", select(jobs, mine, user, state, group), none=none, must=True, **asked)


def fields(given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an `update` request. Raises UsageError."""
    for name in (*_EMPTIED, "after"):
        if _NONE in given[name] and len(given[name]) > 1:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} none, and {option} with a value, are not both possible", hint="leave none out")
    for name in ("output", "error"):
        if given[name] == _NONE:
            hint = "name another file; one that is called so is ./none"
            raise UsageError(f"--{name} none: where it goes can be changed, and not taken away", hint=hint)
    workdir = submission.directory(given["workdir"])
    if given["workdir"] is not None:
        submission.expect_directories(workdir)
    said = variables(given["env"], given["env_file"])
    if given["workdir"] is not None:
        said["PWD"] = workdir
    without = [key for name, key in _REMOVABLE.items() if given[name] in (_NONE, (_NONE,))]
    saved = (
        submission.checkpoint(given | {"time_limit": None})
        if given["checkpoint_signal"] != _NONE
        else {
            "checkpoint_signal": 0,
            "checkpoint_every_s": given["checkpoint_interval"],
        }
    )
    kept: dict[str, Any] = {
        name: None if value == _NONE else () if value == (_NONE,) else value for name, value in given.items()
    }
    demand = submission.part_of_demand(kept) | ({"without": without} if without else {})
    optional = {
        "demand": demand,
        "name": given["name"],
        "priority": given["priority"],
        "estimate_s": given["estimate"],
        "grace_s": given["grace"],
        "preemptible": given["preemptible"],
        "retries": given["retries"],
        "retry_on": [kind for kinds in kept["retry_on"] for kind in kinds],
        "begin_at": given["begin"],
        **saved,
        "notify": submission.told_of(kept),
        **_labels(given["label"]),
        "group": _word(given["to_group"]),
        "key": _word(given["key"]),
        "throttle": given["array"],
        "variables": said,
        "workdir": None if given["workdir"] is None else workdir,
        "mount": None if given["workdir"] is None else mount_of(workdir),
        "output": submission.path_pattern(given["output"], "--output", workdir),
        "error": submission.path_pattern(given["error"], "--error", workdir),
    }
    asked = {key: value for key, value in optional.items() if value is not None and value not in ({}, [])}
    asked |= {name: [] for name in _EMPTIED if given[name] == (_NONE,)}
    return asked | _after(given["after"]) | (given["time_limit"] or {})


def _after(given: tuple[Any, ...]) -> dict[str, Any]:
    after = {} if _NONE in given else after_of(given)
    return {} if after is None else {"after": after}


def _labels(given: tuple[Any, ...]) -> dict[str, Any]:
    """Return the labels to add, and those to take away: `K=`, and of `none` all."""
    said = dict(label for label in given if label != _NONE)
    gone = [key for key, value in said.items() if not value]
    return {
        "labels": {key: value for key, value in said.items() if value},
        "unlabel": ["*"] if _NONE in given else gone,
    }


def _word(text: str | None) -> str | None:
    """Return a name as it goes to gpud: `none` is "", and no name none."""
    if text == "":
        raise UsageError("a group, or a key, without a name", hint="write: none")
    return "" if text is not None and text.lower() == _NONE else text
