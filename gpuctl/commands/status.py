"""One screen of everything: is it well, what runs, what waits."""

import time
from typing import Any

import click

from gpuctl import session
from gpuctl.overview import look, unshown
from gpuctl.render import gpus as render_gpus, jobs as render_jobs
from gpuctl.render.text import clean, plural, terminal_height
from gpuctl.session import Session
from gpud.model.units import format_duration

_JOBS_SHOWN = 15
_GPUS_SHOWN = 16
_JSON_JOBS = 1_000  # that run, that wait, that have ended


@click.command()
@session.display
@click.pass_obj
def status(session: Session) -> None:
    """Show one screen of everything: gpud, the GPUs, the queue.

    With --json: `jobs` and `gpus` are counts by state, `job_list` and `gpu_list` are what is behind them.
    """
    with session.connect() as client:
        seen = look(client, most=_JSON_JOBS if session.json else _JOBS_SHOWN, fresh=True)
    if session.json:
        session.print_json({**seen["status"], "gpu_list": seen["gpus"], "job_list": seen["jobs"]})
        return
    height = terminal_height() - 1  # the prompt's line
    above = [*_heading(seen["status"]), "", *_gpus(seen, height // 2), ""]
    click.echo("\n".join([*above, *_jobs(seen, height - len(above))]))


def _heading(answer: dict[str, Any]) -> list[str]:
    up = format_duration(time.time() - answer["started_at"])
    simulated = f", simulates {answer['simulated']}" if answer["simulated"] else ""
    lines = [f"gpud {answer['version']}, up {up}{simulated}"]
    if answer["paused"] is not None:
        reason = f": {clean(answer['paused'])}" if answer["paused"] else ""
        lines.append(f"paused{reason} (gpuctl resume)")
    if answer.get("storage"):
        lines.append(clean(answer["storage"]))
    if answer["problem"]:
        lines.append(clean(answer["problem"]))
    return lines


def _gpus(seen: dict[str, Any], room: int) -> list[str]:
    gpus = seen["gpus"]
    if not gpus:
        return ["no GPUs"]
    if len(gpus) > min(_GPUS_SHOWN, room - 1):
        return [f"{render_gpus.summary(gpus)} (gpuctl gpus)"]
    return render_gpus.rows(gpus)


def _jobs(seen: dict[str, Any], room: int) -> list[str]:
    jobs = seen["jobs"][: max(1, min(_JOBS_SHOWN, room - 3))]  # beside the counts, the headings, and how many more
    if not jobs:
        return ["no jobs; queue one: gpuctl submit -- python train.py"]
    counts = ", ".join(f"{count} {state}" for state, count in seen["status"]["jobs"].items() if count)
    more = unshown(seen, len(jobs))
    return [
        f"jobs: {counts}",
        *render_jobs.rows(jobs),
        *([f"{plural(more, 'job')} more (gpuctl list)"] if more else []),
    ]
