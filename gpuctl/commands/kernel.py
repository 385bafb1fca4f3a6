"""Jupyter kernels that wait their turn for a GPU: a kernelspec whose program is `gpuctl run`."""

import json
import os
import shutil
import sys
from typing import Any

import click

from gpuctl import session
from gpuctl.commands.run import run
from gpuctl.errors import GpuctlError, UsageError
from gpuctl.session import Session, note

_IMMEDIATE_S = 30  # Jupyter itself waits 60 s for a kernel


@click.group()
def kernel() -> None:
    """Notebooks, in Jupyter or VS Code, whose kernels wait their turn for a GPU."""


@kernel.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})
@click.option("--name", default="gpud", show_default=True, help="The directory of the kernelspec.")
@click.option("--display-name", metavar="TEXT", help="What notebooks show (default: Python 3 (gpud: OPTIONS)).")
@click.option("--python", metavar="PROGRAM", help="Whose ipykernel runs (default: the python that your shell finds).")
@click.option("--remove", is_flag=True, help="Remove the kernelspec of this name instead.")
@click.argument("given", nargs=-1, type=click.UNPROCESSED, metavar="[RUN OPTIONS]...")
@session.options
@click.pass_obj
def install(
    session: Session, name: str, display_name: str | None, python: str | None, remove: bool, given: tuple[str, ...]
) -> None:
    """Write a kernelspec for your notebooks: a kernel is then a job, with these options of gpuctl run.

    \b
      gpuctl kernel install -g 1 --time-limit 8h
      gpuctl kernel install --name big --python ~/venv/bin/python -g 4 --gpu-memory 40G

    A kernel that cannot start within 30 seconds (--immediate=SECONDS) fails, and says why. Interrupting it interrupts
    the job, and shutting it down ends it; `gpuctl list` shows it like any other. Jupyter need not be installed here.
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise UsageError(f"{name!r} cannot name a kernelspec", hint="letters, digits, - _ and .")
    folder = os.path.join(_data_dir(), "kernels", name)
    path = os.path.join(folder, "kernel.json")
    if remove:
        if not os.path.exists(path):
            raise GpuctlError(f"there is no kernelspec {folder}", hint="jupyter kernelspec list")
        shutil.rmtree(folder)
        note(f"removed {folder}")
        return
    try:
        options = run.make_context("run", [*given, "--", "true"]).params
    except click.UsageError as error:  # told now, and not when a notebook is opened
        raise UsageError(error.format_message(), hint="options are those of gpuctl run") from None
    if [*options["command"]] != ["true"]:
        hint = "leave the command out; another Python: --python PROGRAM"
        raise UsageError(f"{options['command'][0]!r} is no option: what a kernel runs is ipykernel", hint=hint)
    program = _program(python)
    asked = ["run", f"--immediate={_IMMEDIATE_S}", "--pass-signals", "-n", f"kernel-{name}"]
    words = [sys.executable, "-P", "-m", "gpuctl", *asked]  # -P: a notebook may stand beside a click.py
    # A kernel ends when JPY_PARENT_PID is not its parent, which in a job it never is.
    ipykernel = ["env", "-u", "JPY_PARENT_PID", program, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec: dict[str, Any] = {
        "argv": [*words, *given, "--", *ipykernel],
        "display_name": display_name or f"Python 3 (gpud: {' '.join(given) or '-g 1'})",
        "language": "python",
        "interrupt_mode": "signal",
        "metadata": {"debugger": True},
    }
    try:
        os.makedirs(folder, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(spec, indent=1) + "\n")
    except OSError as error:
        raise GpuctlError(f"cannot write {path}: {error.strerror}", hint="see $JUPYTER_DATA_DIR") from error
    if session.json:
        session.print_json({"path": path, **spec})
        return
    click.echo(path)
    note(f"notebooks have the kernel {spec['display_name']!r} now; it needs ipykernel in {program}")


def _program(python: str | None) -> str:
    """Return the Python that kernels run in. Raises UsageError where there is none."""
    for word in [python] if python is not None else ["python", "python3"]:
        found = shutil.which(os.path.expanduser(word))
        if found is not None:
            return os.path.abspath(found)
    raise UsageError(f"there is no program {python or 'python'}", hint="--python PATH")


def _data_dir() -> str:
    """Return where Jupyter looks for what users install (jupyter_core.paths.jupyter_data_dir)."""
    named = os.environ.get("JUPYTER_DATA_DIR")
    if named:
        return named
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(home, "jupyter")
