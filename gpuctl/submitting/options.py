"""Everything that a job can be submitted with, as options of a command: `submit`, `run`, and who else asks for jobs."""

from collections.abc import Callable
from typing import Any

import click

from gpuctl import session
from gpuctl.parse import (
    AFTER,
    BEGIN,
    CHECKPOINT,
    COUNT,
    DURATION,
    GPUS,
    GRACE,
    KINDS,
    LABEL,
    LIMIT,
    POSITIVE,
    PRIORITY,
    RETRIES,
    RULE,
    SIZE,
)

Options = Callable[..., Any]


def options(command: Options) -> Options:
    """Give a command everything that a job can be submitted with."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def options_of_claims(command: Options) -> Options:
    """Give a command what a job without a command can be submitted with."""
    command = options(command)
    params = command.__click_params__  # type: ignore[attr-defined]  # where Click keeps them
    params[:] = [param for param in params if param.name not in NOT_OF_CLAIMS]
    return command


NOT_OF_CLAIMS = frozenset(("command", "array", "retries", "retry_on", "output", "error", "env", "env_file"))
NOT_OF_CLAIMS |= {"workdir", "time_limit", "estimate", "key", "grace", "checkpoint_signal", "checkpoint_interval"}

_OPTIONS = (
    click.option("-g", "--gpus", type=GPUS, help="GPUs in total, or a part of one: 0.25 (default: 1; 0: none)."),
    click.option("--nodes", type=POSITIVE, help="Nodes that it needs at once, with as many GPUs on each (default: 1)."),
    click.option("--gpus-per-node", type=COUNT, help="GPUs on each node."),
    click.option("--gpu-ids", metavar="LIST", multiple=True, help="Only these GPUs: 0,1, NODE:0, or UUID prefixes."),
    click.option("--gpu-memory", type=SIZE, help="Memory that each GPU must have: 24G; with --share, what it takes."),
    click.option("--gpu-type", metavar="PATTERN", help="What its name must contain: H100, 'A100|H100', 'A100*80*'."),
    click.option("--share", is_flag=True, help="Share each GPU with others: --gpu-memory of it is enough."),
    click.option("--mig", metavar="PROFILE", help="MIG instances instead of GPUs: 2g.10gb."),
    click.option("--cpus", type=POSITIVE, help="CPUs to count for it on each node (default: none; with -g 0: one)."),
    click.option("--memory", type=SIZE, help="Memory of each node: 64G."),
    click.option("--not-gpu", metavar="LIST", multiple=True, help="None of these GPUs; may be repeated."),
    click.option("--not-node", metavar="LIST", multiple=True, help="None of these nodes; may be repeated."),
    click.option("--node-label", type=LABEL, multiple=True, help="A label that its nodes must have; may be repeated."),
    click.option("--pool", metavar="NAME", help="GPUs of this pool of the configuration."),
    click.option("--spread/--pack", default=None, help="Where the most is free, or the least (default: --pack)."),
    click.option("-p", "--priority", type=PRIORITY, help="Higher goes first (default: 0)."),
    click.option("-n", "--name", help="What to call it (default: its program, or the script that it runs)."),
    click.option("-t", "--time-limit", type=LIMIT, help="Stop it after this time: 90 (s), 10m, 1d12h, HH:MM[:SS]."),
    click.option("--estimate", type=DURATION, help="How long you expect it to run; nothing happens when that is over."),
    click.option("--checkpoint-signal", type=CHECKPOINT, help="Have it save before it is stopped: USR1, USR1@5m."),
    click.option("--checkpoint-interval", type=DURATION, help="Send it that signal this often, too."),
    click.option("--retries", type=RETRIES, help="Start it again so often when it fails."),
    click.option("--retry-on", type=KINDS, multiple=True, help="Only when it fails so: failure, oom, lost, exit:75."),
    click.option(
        "--after",
        type=AFTER,
        multiple=True,
        help="Once these have succeeded: 12,14; or any:12, failed:12; singleton: all of its name.",
    ),
    click.option("--tenant", metavar="NAME", help="For whom it runs, where you are in several tenants."),
    click.option(
        "--preemptible/--no-preemptible",
        default=None,
        help="Whether others may preempt it (default: no; under las: yes).",
    ),
    click.option("--array", metavar="SPEC", help="Many at once: 0-9, 0-9:2, 1,3,5; %8 for eight at a time."),
    click.option("--begin", type=BEGIN, help="Not before: 18:30, 2026-05-01T18:30, 2h (from now)."),
    click.option("--hold", is_flag=True, help="Wait until it is released."),
    click.option("--group", metavar="NAME", help="The sweep, or whatever else, that it is a part of."),
    click.option(
        "--key",
        metavar="KEY",
        help="What it is in its group; not queued again unless it failed.",
    ),
    click.option("--notify", type=RULE, multiple=True, help="Tell: failure=https://..., see gpuctl notify."),
    click.option("--label", type=LABEL, multiple=True, help="A label to find it by; may be repeated."),
    click.option("-e", "--env", metavar="K=V", multiple=True, help="Set a variable; may be repeated."),
    click.option("--env-file", metavar="FILE", help="Set the variables of a file, K=V a line."),
    click.option("-C", "--workdir", metavar="DIR", help="Where it runs (default: here)."),
    click.option("-o", "--output", metavar="FILE", help="Where its output goes; %j id, %A array, %a index, %x name."),
    click.option("--error", metavar="FILE", help="Where its errors go (default: with the output)."),
    click.option("--grace", type=GRACE, help="Time between TERM and KILL when it is stopped (default: 30s)."),
    click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND [ARGS]..."),
    session.options,
)


# What sbatch, pueue and task-spooler call it, and what that is here.
_OTHERS_SAY = """
    --gres=--gpus -G=--gpus --dependency=--after -d=--after --time=--time-limit --mem=--memory --mem-per-cpu=--memory
    --cpus-per-task=--cpus -c=--cpus --job-name=--name -J=--name -N=--nodes -a=--array --chdir=--workdir -D=--workdir
    --constraint=--gpu-type --exclude=--not-node -x=--not-node --account=--tenant -A=--tenant --partition=--pool
    --export=--env --nice=--priority --requeue=--retries --signal=--checkpoint-signal --mail-type=--notify
    --mail-user=--notify --comment=--label --test-only=--dry-run -b=--begin -H=--hold --gpus-per-task=--gpus
    --timeout=--time-limit --vram=--gpu-memory --gpu=--gpus --cwd=--workdir --delay=--begin --stashed=--hold
    -L=--name -E=--error"""
_ELSEWHERE = dict(pair.split("=") for pair in _OTHERS_SAY.split()) | {
    "--wrap": "-- bash -c COMMAND",
    **dict.fromkeys(("--follow", "-W", "--wait"), "gpuctl run"),
    "--immediate": "gpuctl run --immediate",
    **dict.fromkeys(("--parsable", "--print-task-id", "--quiet", "-q"), "nothing (the id alone is printed)"),
    "--no-requeue": "nothing (only --retries tries again)",
    "--exclusive": "nothing (a job's GPUs are its own)",
    "--ntasks": "a line #SBATCH --ntasks=N in the script",
}


_EARLY = {"-g", "--gpus", "--gpu-memory", "--gpu-type", "--time-limit", "--array", "--dry-run"}  # hardly one's own


class WordsCommand(click.Command):
    """A command whose options end at the first word, and that knows whether `--` stood before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; leave in `ctx.meta` whether the command is to be taken literally."""
        ctx.allow_interspersed_args = False
        before = list(args)
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name not in _ELSEWHERE:
                raise
            name, here = error.option_name, _ELSEWHERE[error.option_name]
            raise click.UsageError(f"there is no option {name!r}; here that is: {here}", ctx) from None
        words = len(ctx.params.get("command") or ())
        literal = ctx.meta["gpuctl.literal"] = 0 < words < len(before) and before[-words - 1] == "--"
        behind = {word.partition("=")[0] for word in before[len(before) - words + 1 :]}
        for late in () if literal else sorted(_EARLY & behind):
            session.note_once(f"{late} stands behind the command, and is its own: gpuctl's options come before that")
        return rest
