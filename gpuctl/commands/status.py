"""One screen of everything: is it well, what runs, what waits."""

import time
from typing import Any

import click

from gpuctl import session
from gpuctl.render import gpus as render_gpus
from gpuctl.render import jobs as render_jobs
from gpuctl.render.plain import reply
from gpuctl.render.text import clean, plural
from gpuctl.session import Session
from gpud.model.units import format_duration

_JOBS_SHOWN = 15
_GPUS_SHOWN = 16


@click.command()
@session.options
@click.pass_obj
def status(session: Session) -> None:
    """Show one screen of everything: gpud, the GPUs, the queue."""
    with session.connect() as client:
        answer = reply(client.request("status"))
        if session.json:
            session.print_json(answer)
            return
        gpus = client.request("gpus", fresh=True)
        jobs = client.request("list", limit=_JOBS_SHOWN)
    click.echo("\n".join([*_heading(answer), "", *_gpus(gpus), "", *_jobs(jobs, answer)]))


def _heading(answer: dict[str, Any]) -> list[str]:
    up = format_duration(time.time() - answer["started_at"])
    lines = [
        f"gpud {answer['version']}, up {up}" + (f", simulates {answer['simulated']}" if answer["simulated"] else "")
    ]
    if answer["paused"] is not None:
        lines.append("paused" + (f": {clean(answer['paused'])}" if answer["paused"] else "") + " (gpuctl resume)")
    if answer["problem"]:
        lines.append(clean(str(answer["problem"])))
    return lines


def _gpus(reply: dict[str, Any]) -> list[str]:
    gpus = reply["gpus"]
    if not gpus:
        return [f"no GPUs: {reply['problem'] or 'none was found'}"]
    if len(gpus) > _GPUS_SHOWN:
        return [render_gpus.summary(gpus) + " (gpuctl gpus)"]
    return render_gpus.rows(gpus)


def _jobs(reply: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{count} {state}" for state, count in answer["jobs"].items() if count)
    if not reply["jobs"]:
        return ["no jobs; queue one: gpuctl submit -- python train.py"]
    more = [f"{plural(reply['more'], 'job')} more (gpuctl list)"] if reply["more"] else []
    return [f"jobs: {counts}" if counts else "jobs", *render_jobs.rows(reply["jobs"]), *more]
