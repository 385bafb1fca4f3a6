"""What a policy, or other hardware, would have done with a trace of jobs: replayed through gpud's own core."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from gpuctl import session
from gpuctl.client import socket_path
from gpuctl.errors import OutputError, UsageError
from gpuctl.parse import DURATION, POSITIVE, SINCE, Parsed
from gpuctl.render import plot, simulation
from gpuctl.session import Session, note
from gpuctl.simulating import Simulations
from gpud.wire import address

_PLACEMENTS = ("best-fit", "fgd (knows the mix)", "fgd-blind (learns it)", "spread")
_HISTORY = "history"


def _listed(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ValueError("nothing is named")
    return words


def _metrics(text: str) -> list[str]:
    words = _listed(text)
    unknown = [word for word in words if word not in simulation.KEYS]
    if unknown:
        raise ValueError(f"there is no figure {unknown[0]!r}; there is: {', '.join(simulation.KEYS)}")
    return words


def _setting(text: str) -> str:
    key, _, value = text.partition("=")
    if not key or not value:
        raise ValueError(f"{text!r} is no setting; write NAME=VALUE")
    return text


def _over(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise ValueError(f"{text!r} is no multiple of what there is; write 1.3 for 130 %")
    return value


@click.command()
@click.argument("traces", nargs=-1, metavar="TRACE...")
@click.option("--cluster", metavar="SPEC|FILE", help="The GPUs: 8x8xV100 (nodes x GPUs), or a CSV file of nodes.")
@click.option(
    "--policy",
    "policies",
    metavar="NAME,...",
    type=Parsed("NAME", _listed),
    default="priority",
    show_default=True,
    help="gpud's policies; fifo, tiresias; srtf, srsf, sjf-oracle, easy-oracle, which know how long jobs run.",
)
@click.option("--history", is_flag=True, help="This gpud's own finished jobs instead of a trace.")
@click.option(
    "--since", metavar="TIME", type=SINCE, default="28d", show_default=True, help="With --history: how far back."
)
@click.option("--until", metavar="DUR", type=DURATION, help="Stop at this moment of the trace.")
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    type=Parsed("NAME=VALUE", _setting),
    help="A parameter of a policy.",
)
@click.option(
    "--rules",
    type=click.Choice(["physical", "muri"]),
    default="physical",
    show_default=True,
    help="What being preempted costs and how often it happens: 60 s, each minute; or as the Muri paper has it.",
)
@click.option(
    "--saturate", metavar="X", type=Parsed("X", _over), help="Only pack: place X times what there is, none leaves."
)
@click.option(
    "--seeds", metavar="N", type=POSITIVE, default="5", show_default=True, help="With --saturate: orders tried."
)
@click.option(
    "--placement",
    "placements",
    metavar="NAME,...",
    type=Parsed("NAME", _listed),
    default="best-fit",
    show_default=True,
    help=f"With --saturate: {', '.join(_PLACEMENTS)}.",
)
@click.option(
    "--metric",
    "metrics",
    metavar="KEY,...",
    type=Parsed("KEY", _metrics),
    help="Only these figures, by their JSON keys.",
)
@click.option("--plot", "drawing", metavar="FILE", help="Draw queue, use and waits into an SVG file.")
@session.options
@click.pass_obj
def simulate(
    session: Session,
    traces: tuple[str, ...],
    cluster: str | None,
    policies: list[str],
    history: bool,
    since: float,
    until: float | None,
    settings: tuple[str, ...],
    rules: str,
    saturate: float | None,
    seeds: int,
    placements: list[str],
    metrics: list[str] | None,
    drawing: str | None,
) -> None:
    """Replay traces of jobs under one or several policies, and compare what comes of it.

    A trace is a CSV file (submit_s,duration_s,gpus,... with a header) or an SWF file. The scheduler is gpud's own;
    only the clock and the jobs are not real.
    """
    if bool(traces) == history:
        raise UsageError(
            "name a trace, or --history", hint="gpuctl simulate trace.csv --cluster 8x8xV100 --policy fcfs,sjf"
        )
    if not history and cluster is None:
        raise UsageError("name the GPUs to simulate", hint="--cluster 8x8xV100, or --cluster nodes.csv")
    if saturate is not None and (history or drawing):
        raise UsageError("--saturate packs a trace's jobs once; it has no history and no time to draw")
    if drawing is not None:
        _check_writable(drawing)
    sources = [["--history", _database(session), "--since", str(since)]] if history else [[trace] for trace in traces]
    shared = [] if cluster is None else ["--cluster", cluster]
    if saturate is not None:
        words = ["--saturate", str(saturate), "--seeds", str(seeds)]
        calls = [[*source, *shared, *words, "--placement", name] for source in sources for name in placements]
    else:
        words = [word for setting in settings for word in ("--set", setting)]
        words += ["--rules", rules, *([] if until is None else ["--until", str(until)])]
        words += ["--series"] if drawing is not None else []
        calls = [[*source, *shared, *words, "--policy", name] for source in sources for name in policies]
    results = _run(calls, [_name(call) for call in calls])
    if drawing is not None:
        _draw(drawing, results)
    _show(session, results, metrics or [], packed=saturate is not None)


def _name(call: Sequence[str]) -> str:
    what = _HISTORY if call[0] == "--history" else os.path.basename(call[0])
    return f"{what} {call[-1]}"


def _run(calls: Sequence[Sequence[str]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the results, with a bar for each on stderr meanwhile, where a person looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks = [progress.add_task(name, total=1.0) for name in names]
        tell: Callable[[int, float], None] = lambda at, part: progress.update(tasks[at], completed=part)  # noqa: E731 - typed
        return Simulations(calls, tell).results()


def _show(session: Session, results: list[dict[str, Any]], metrics: list[str], *, packed: bool) -> None:
    if session.json:
        session.print_json([{key: value for key, value in result.items() if key != "curves"} for result in results])
        return
    click.echo("\n".join(simulation.packed(results) if packed else simulation.tables(results, metrics)))
    for trace, skipped in {result["trace"]: result.get("skipped", 0) for result in results}.items():
        if skipped:
            note(f"{trace}: {skipped} jobs that never ran are left out")


def _database(session: Session) -> str:
    """Return the path of the store of the gpud that is meant."""
    path = socket_path(session.socket)
    folder = address.SYSTEM_STATE if path == address.SYSTEM_SOCKET else os.path.dirname(path)
    for each in (folder, address.state_dir()):
        if os.path.exists(os.path.join(each, "gpud.db")):
            return os.path.join(each, "gpud.db")
    raise UsageError(f"there is no history in {folder}", hint="name its gpud: --socket PATH")


def _check_writable(path: str) -> None:
    """Raise UsageError now, not after a minute of work, for a drawing that could not be written."""
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise UsageError(f"cannot write {path}")


def _draw(path: str, results: Sequence[dict[str, Any]]) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(plot.svg(results))
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}") from error
    note(f"drawn: {path}")
