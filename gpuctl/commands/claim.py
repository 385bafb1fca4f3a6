"""GPUs by hand: a job that runs nothing, and holds GPUs for what its user starts in a shell of their own."""

import os
import shlex
from math import inf
from typing import Any

import click

from gpuctl.client import Client
from gpuctl.errors import GpuctlError, UsageError
from gpuctl.following.beginning import until_begun
from gpuctl.following.follower import Interrupts
from gpuctl.interruption import INTERRUPTED
from gpuctl.parse import DURATION, JOB, OR_FOREVER
from gpuctl.render.jobs import ENDS, written_end
from gpuctl.session import Session, note, on_terminal
from gpuctl.submitting import options, submission
from gpud.model.units import format_duration

_HELD = ("held", "queued", "starting", "running")
_ROWS_MOST = 10_000


@click.command()
@click.option("--for", "for_s", type=DURATION, default="8h", show_default=True, help="How long you want them.")
@click.option("--idle", type=OR_FOREVER, default="30m", show_default=True, help="Ends when unused for so long.")
@click.option("--release", is_flag=True, help="Give back those you have: of these jobs, or all.")
@options.options_of_claims
@click.argument("jobs", nargs=-1, type=JOB, metavar="[JOB]...")
@click.pass_context
def claim(
    context: click.Context, /, *, for_s: float, idle: float, release: bool, jobs: tuple[str, ...], **given: Any
) -> int:
    """Wait for GPUs, hold them for what you start yourself, and print what your shell must export.

    \b
      eval "$(gpuctl claim -g 1 --for 2h)"
      python -i explore.py
      gpuctl claim --release

    Your own processes on them count as the claim's. It ends when its time is over, when you give it back, or when for
    --idle no process of yours was on them; what still runs there is left alone, and is a stranger to gpud from then on.
    Ctrl-C while it waits cancels it, and so does a terminal that is closed.
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone
    session: Session = context.obj
    if release:
        return _release(session, jobs)
    if jobs:
        raise UsageError("a claim runs nothing", hint="to give one back: --release; to run a command: gpuctl run")
    absent: dict[str, Any] = dict.fromkeys(options.NOT_OF_CLAIMS) | dict.fromkeys(("env", "retry_on"), ())
    fields = submission.fields({**given, **absent, "command": ("claim",)}, literal=True)
    fields |= {"command": [], "claim": True, "time_limit_s": for_s}
    if idle != inf:
        fields["idle_after_s"] = idle
    with session.connect() as client, Interrupts(client, ends=True) as interrupts:
        reply = client.request("submit", nonce=submission.new_nonce(), next=True, **fields)
        if on_terminal():
            note(submission.next_words(reply["job"], reply))
        job = until_begun(client, reply["job"], interrupts=interrupts)["job"]
        fenced = client.request("status")["launcher"]
    if job["state"] in ENDS:
        note(written_end(job))
        return INTERRUPTED if interrupts.count else 1
    if fenced.get("login_fence") and fenced.get("logins") is None:
        note(f"logins open no GPU on this machine; a shell that does: gpuctl exec {job['id']} -- bash")
    exports = exports_of(job)
    if session.json:
        session.print_json(job | {"exports": exports})
    else:
        click.echo("\n".join(f"export {name}={shlex.quote(value)}" for name, value in exports.items()))
        note(f"claim {job['id']}: yours for {format_duration(for_s)}, until: gpuctl claim --release {job['id']}")
    return 0


def exports_of(job: dict[str, Any]) -> dict[str, str]:
    """Return what a shell exports to use the GPUs of a claim."""
    gpus = [pair for part in job["allocation"] for pair in zip(part["gpu_indices"], part["gpu_uuids"], strict=True)]
    uuids = [uuid for _, uuid in gpus]
    by_uuid = job["mig"] is not None or any(index is None for index, _ in gpus)
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(uuids if by_uuid else [str(index) for index, _ in gpus]),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "NVIDIA_VISIBLE_DEVICES": ",".join(uuids) or "void",
        "GPUD_CLAIM": job["id"],
    }


def _release(session: Session, jobs: tuple[str, ...]) -> int:
    """Give claims back; all of one's own where none is named."""
    with session.connect() as client:
        named = list(jobs) or _own(client)
        for job in jobs:
            if not client.request("show", job=job)["job"]["claim"]:
                raise GpuctlError(f"job {job} is no claim", hint=f"gpuctl cancel {job}")
        reply = client.request("cancel", select={"jobs": named}) if named else {"changed": [], "notes": {}}
    if session.json:
        session.print_json({key: reply[key] for key in ("changed", "notes")})
        return 0
    for job in reply["changed"]:
        note(f"claim {job} is given back")
    if os.environ.get("GPUD_CLAIM") in reply["changed"]:
        note("this shell still names its GPUs: unset CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES GPUD_CLAIM")
    for job, why in reply["notes"].items():
        note(f"claim {job} {why}")
    if not named:
        note("you have no claims")
    return 0


def _own(client: Client) -> list[str]:
    rows = client.request("list", mine=True, state=list(_HELD), limit=_ROWS_MOST)["jobs"]
    return [row["id"] for row in rows if row["claim"]]
