"""What a policy, or other hardware, would have done with a trace of jobs: replayed through gpud's own core."""

import os
import stat
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from gpuctl import session
from gpuctl.client import socket_path
from gpuctl.errors import FAILED, OutputError, UnreachableError, UsageError
from gpuctl.parse import DURATION, POSITIVE, SINCE, Parsed
from gpuctl.render import plot, simulation
from gpuctl.render.plain import reply
from gpuctl.session import Session, note
from gpuctl.simulating import Simulations
from gpud.wire import address

_PLACEMENTS = ("best-fit", "fgd (knows the mix)", "fgd-blind (learns it)", "spread")
_HISTORY = "history"
# Options that mean something in one of the two experiments alone.
_PACKING = ("seeds", "placements")
_REPLAYING = ("policies", "history", "until", "settings", "shares", "rules", "metrics", "drawing")


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


def _over(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise ValueError(f"{text!r} is no multiple of what there is; write 1.3 for 130 %")
    return value


_PARTS = ("jobs", "unfinished", "refused", "skipped")  # into which a trace's jobs fall
_TOLD = (
    ("skipped", "never ran, and are left out"),
    ("refused", "were refused: they never fit these GPUs"),
    ("rounded", "span nodes, and were rounded up to the same number of GPUs on each"),
)


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
    metavar="KEY=VALUE",
    multiple=True,
    help="A parameter of a policy, as in gpuctl policy, or what gpud keeps to: starvation=0; may be repeated.",
)
@click.option(
    "--share",
    "shares",
    metavar="TENANT=SHARE",
    multiple=True,
    help="A tenant's share under fair_share; may be repeated.",
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
    help="Only these figures, by their JSON keys; docs/simulate.md says what they are.",
)
@click.option("--plot", "drawing", metavar="FILE", help="Draw queue, use and waits into an SVG file.")
@session.options
@click.pass_context
def simulate(
    context: click.Context,
    traces: tuple[str, ...],
    cluster: str | None,
    policies: list[str],
    history: bool,
    since: float,
    until: float | None,
    settings: tuple[str, ...],
    shares: tuple[str, ...],
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
    session: Session = context.obj
    _check(context, traces, cluster, drawing, history=history, packed=saturate is not None)
    sources = [["--history", _database(session), "--since", str(since)]] if history else [[trace] for trace in traces]
    shared = [] if cluster is None else [f"--cluster={cluster}"]
    if saturate is not None:
        words = ["--saturate", str(saturate), "--seeds", str(seeds)]
        calls = [[*source, *shared, *words, f"--placement={name}"] for source in sources for name in placements]
    else:
        words = [f"--set={setting}" for setting in settings] + [f"--share={share}" for share in shares]
        words += [f"--among={name}" for name in policies]
        words += ["--rules", rules, *([] if until is None else ["--until", str(until)])]
        words += ["--series"] if drawing is not None else []
        calls = [[*source, *shared, *words, f"--policy={name}"] for source in sources for name in policies]
    results = [result for result in _run(calls, [_name(call) for call in calls]) if result is not None]
    if drawing is not None and results:
        _draw(drawing, results)
    _show(session, results, metrics or [], packed=saturate is not None)
    if results and all(result.get("refused") and not _taken(result) for result in results):
        context.exit(FAILED)


def _check(
    context: click.Context,
    traces: Sequence[str],
    cluster: str | None,
    drawing: str | None,
    *,
    history: bool,
    packed: bool,
) -> None:
    """Raise UsageError for what cannot be meant together."""
    if traces and history:
        raise UsageError("--history takes no trace: its jobs are this gpud's own", hint=f"leave out {traces[0]}")
    if not traces and not history:
        raise UsageError(
            "name a trace, or --history", hint="gpuctl simulate trace.csv --cluster 8x8xV100 --policy fcfs,sjf"
        )
    if not history and cluster is None:
        raise UsageError("name the GPUs to simulate", hint="--cluster 8x8xV100, or --cluster nodes.csv")
    for name in _REPLAYING if packed else _PACKING:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = next(each.opts[0] for each in context.command.params if each.name == name)
            if packed:
                raise UsageError(f"{option} means nothing with --saturate, which packs a trace's jobs once")
            raise UsageError(f"{option} is for packing", hint="with --saturate 1.3")
    if not history and context.get_parameter_source("since") is ParameterSource.COMMANDLINE:
        raise UsageError("--since is for the history", hint="--history; of a trace: --until")
    for name in (*traces, *([] if cluster is None else [cluster])):
        what = "standard input" if name == "-" else "a pipe" if _is_pipe(name) else None
        if what is not None:
            raise UsageError(f"{name} is {what}, and each policy reads what it is given by itself", hint="write a file")
    if drawing is not None:
        _check_writable(drawing)


def _is_pipe(name: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False


def _name(call: Sequence[str]) -> str:
    what = _HISTORY if call[0] == "--history" else os.path.basename(call[0])
    return f"{what} {call[-1].partition('=')[2]}"


def _run(calls: Sequence[Sequence[str]], names: Sequence[str]) -> list[dict[str, Any] | None]:
    """Return the results, with a bar for each on stderr meanwhile, where a person looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks = [progress.add_task(name, total=1.0) for name in names]
        tell: Callable[[int, float], None] = lambda at, part: progress.update(tasks[at], completed=part)  # noqa: E731 - typed
        return Simulations(calls, tell).results()


def _show(session: Session, results: list[dict[str, Any]], metrics: list[str], *, packed: bool) -> None:
    if session.json:
        wanted = {"trace", "policy", *metrics}
        session.print_json(
            [
                {key: value for key, value in result.items() if key != "curves" and (not metrics or key in wanted)}
                for result in results
            ]
        )
    elif results:
        click.echo("\n".join(simulation.packed(results) if packed else simulation.tables(results, metrics)))
    if not results:
        note("no job that ran has ended there since then; further back: --since 8w")
    told = [
        f"{result['trace']}: {result[key]} of {sum(result.get(part, 0) for part in _PARTS)} jobs {why}"
        for result in results
        for key, why in _TOLD
        if result.get(key)
    ]
    for words in dict.fromkeys(told):
        note(words)


def _taken(result: dict[str, Any]) -> int:
    """Return how many jobs came and were not refused."""
    jobs: int = result["jobs"] + result["unfinished"]
    return jobs


def _database(session: Session) -> str:
    """Return the path of the store of the gpud that is meant: as it says; of one that is down, as usual."""
    try:
        with session.connect(start=False) as client:
            folder = reply(client.request("status"))["state_dir"]
    except UnreachableError:
        path = socket_path(session.socket)
        folder = address.SYSTEM_STATE if path == address.SYSTEM_SOCKET else os.path.dirname(path)
    if not os.path.exists(os.path.join(folder, "gpud.db")):
        raise UsageError(f"there is no history in {folder}", hint="name its gpud: --socket PATH")
    return os.path.join(folder, "gpud.db")


def _check_writable(path: str) -> None:
    """Raise UsageError now, not after a minute of work, for a drawing that could not be written."""
    if not path.lower().endswith(".svg"):
        raise UsageError(f"a drawing is an SVG file, and {path} is named otherwise", hint="--plot out.svg")
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
