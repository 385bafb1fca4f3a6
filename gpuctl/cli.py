"""The command line's table of contents; a command's module is imported when it is called, not before.

So `gpuctl submit` pays for itself alone, and `--help` and completion for nobody. To add a command: a module in
`commands`, and a line here.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import click

from gpuctl import output, session
from gpuctl.errors import OWN_FAILURE, GpuctlError, OutputError, ReaderLeftError
from gpuctl.interruption import INTERRUPTED, leave_at_once, unwind_first
from gpud import __version__

# Section, command, its module's name in gpuctl.commands and the attribute there, help. The order is that of --help.
COMMANDS = (
    ("Queue", "submit", "submit:submit", "Queue a command or a script; print the job's id."),
    ("Queue", "run", "run:run", "Submit, show the output, exit as the job exits."),
    ("Queue", "claim", "claim:claim", "Have GPUs by hand for a while, for what you start yourself."),
    ("Queue", "kernel", "kernel:kernel", "Notebooks whose kernels wait their turn for a GPU."),
    ("Queue", "exec", "exec:exec_", "Run a command inside a running job."),
    ("Queue", "attach", "attach:attach", "Come back to a job's terminal, or to its output."),
    ("Look", "status", "status:status", "One screen of everything; also what bare gpuctl shows."),
    ("Look", "list", "list:list_", "Jobs: everybody's unfinished ones, and your own of the last day."),
    ("Look", "show", "show:show", "Everything about a job."),
    ("Look", "why", "why:why", "Why a job waits, and when it will start."),
    ("Look", "logs", "logs:logs", "What a job printed."),
    ("Look", "wait", "wait:wait", "Wait for jobs to end; exit as they exited."),
    ("Look", "group", "group:group", "How far sweeps and other groups of jobs are."),
    ("Look", "watch", "watch:watch", "GPUs and queue, live."),
    ("Look", "progress", "progress:progress", "Tell, inside a job, how far it is."),
    ("Look", "events", "events:events", "What happened."),
    ("Look", "notify", "notify:notify", "Whom gpud told of what; try a target."),
    ("Look", "usage", "usage:usage", "Who used the GPUs, how well, and what it cost."),
    ("Look", "stats", "stats:stats", "How long the queue is and was, and how busy the GPUs."),
    ("Change", "cancel", "change:cancel", "Cancel jobs, whether they wait or run."),
    ("Change", "hold", "change:hold", "Keep waiting jobs from starting."),
    ("Change", "release", "change:release", "Let held jobs start."),
    ("Change", "requeue", "change:requeue", "Run jobs again, from the start."),
    ("Change", "priority", "change:priority", "Set the priority of jobs."),
    ("Change", "update", "update:update", "Change what jobs ask for that wait, and how long running ones may run."),
    ("Change", "signal", "signal:signal_", "Send a signal to running jobs."),
    ("Machine", "gpus", "gpus:gpus", "The GPUs, and what is on them."),
    ("Machine", "nodes", "nodes:nodes", "The machines."),
    ("Machine", "drain", "drain:drain", "Give GPUs or a node no new jobs."),
    ("Machine", "undrain", "drain:undrain", "Give them jobs again."),
    ("Machine", "policy", "policy:policy", "Who goes first: see it, explain it, change it."),
    ("Machine", "tenant", "tenant:tenant", "Who may have how much of the GPUs."),
    ("Machine", "reserve", "reserve:reserve", "Set GPUs aside for a time."),
    ("Machine", "pause", "pause:pause", "Start no more jobs; those that run go on."),
    ("Machine", "resume", "pause:resume", "Start jobs again."),
    ("gpud", "daemon", "daemon:daemon", "Start, stop, restart, ask the daemon."),
    ("gpud", "doctor", "doctor:doctor", "Check this machine for what gpud needs."),
    ("gpud", "demo", "demo:demo", "Watch a queue work, on simulated GPUs."),
    ("gpud", "simulate", "simulate:simulate", "What a policy or other hardware would have done with a trace."),
    ("gpud", "relay", "relay:relay", "The far end of gpuctl -H: gpud's socket on stdin and stdout."),
    ("gpud", "config", "config:config", "The settings in force, and where each is from; change one."),
    ("gpud", "help", "help:help_", "Explain a command, or a topic: states, reasons, ids, variables ..."),
    ("gpud", "man", "man:man", "Write the manual pages."),
    ("gpud", "completion", "completion:completion", "Print the completions of a shell, or install them."),
)

# What hands type: words that stand for a command, and some of its options. Told in a line of --help.
ALIASES = {
    "ls": ("list",),
    "queue": ("list",),
    "ps": ("list", "--state", "starting", "--state", "running", "--state", "stopping"),
    "log": ("logs",),
    "tail": ("logs", "-f"),
    "top": ("watch",),
    "kill": ("cancel",),
    "rm": ("cancel", "--waiting"),
}

# What other queues call it.
_ELSEWHERE = {
    **dict.fromkeys(("sbatch", "qsub", "bsub", "add"), "submit"),
    "enqueue": "submit; of a held job: gpuctl release",
    "switch": "priority",
    "shutdown": "daemon stop",
    **dict.fromkeys(("clean", "clear"), "nothing (what has ended leaves the list by itself)"),
    **dict.fromkeys(("squeue", "qstat", "bjobs", "jobs"), "list"),
    **dict.fromkeys(("scancel", "qdel", "bkill", "stop", "abort", "delete", "del", "remove"), "cancel"),
    **dict.fromkeys(("srun", "salloc"), "run"),
    **dict.fromkeys(("sinfo", "pestat"), "nodes"),
    **dict.fromkeys(("scontrol", "info", "describe", "inspect"), "show"),
    **dict.fromkeys(("sacct", "sreport", "accounting"), "usage"),
    **dict.fromkeys(("follow", "output", "cat"), "logs -f"),
    "history": "list --all",
    **dict.fromkeys(("restart", "retry", "rerun"), "requeue"),
    **dict.fromkeys(("stash", "suspend"), "hold"),
    **dict.fromkeys(("edit", "modify", "change"), "update"),
    **dict.fromkeys(("start", "unhold", "enable"), "release"),
    **dict.fromkeys(("nvidia-smi", "gpustat", "devices"), "gpus"),
    **dict.fromkeys(("settings", "set"), "config"),
    **dict.fromkeys(("monitor", "dashboard", "htop", "nvitop"), "watch"),
    **dict.fromkeys(("version",), "--version"),
}


class Commands(click.Group):
    """A group that knows its commands by the table alone."""

    aliases = ALIASES

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what stands before the command; where that names hosts, the command is theirs, word by word."""
        words = list(args)
        rest = super().parse_args(ctx, args)
        given = ctx.params.pop("host", ())
        if given and not ctx.resilient_parsing:
            from gpuctl.remote import hosts  # noqa: PLC0415 - most gpuds are here

            _, command, _ = self.make_parser(ctx).parse_args(list(words))
            named = hosts.named(given)
            if not named:  # as in -H "$HOST", with nothing in it: not what was meant for here
                raise click.UsageError("-H names no host; write -H dgx1, or leave it out", ctx)
            ctx.exit(hosts.run(ctx, named, command, _without_hosts(words[: len(words) - len(command)])))
        return rest

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click's signature
        """Return the names, in the table's order."""
        return [name for _, name, _, _ in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Return the command, imported now; None when there is none of this name."""
        for _, name, where, _ in COMMANDS:
            if name == cmd_name:
                module, _, attribute = where.partition(":")
                found = __import__(f"gpuctl.commands.{module}", fromlist=[attribute])
                command: click.Command = getattr(found, attribute)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names. Raises UsageError with the nearest names for another word."""
        if args and args[0] in ALIASES:
            words = [_lines(word) if args[0] == "tail" else word for word in args[1:]]
            args = _killed(words) if args[0] == "kill" else [*ALIASES[args[0]], *words]
        elif args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            elsewhere = _ELSEWHERE.get(args[0].lower())
            hint = (
                f"here that is: {'' if elsewhere.startswith('nothing') else 'gpuctl '}{elsewhere}"
                if elsewhere
                else nearest(args[0], [*self.list_commands(ctx), *ALIASES])
            )
            raise click.UsageError(f"there is no command {args[0]!r}; {hint or 'see gpuctl --help'}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the table by its sections, without importing a command."""
        section = None
        rows: list[tuple[str, str]] = []
        for of, name, _, text in (*COMMANDS, (None, "", "", "")):
            if of != section and rows:
                with formatter.section(str(section)):
                    formatter.write_dl(rows)
                rows = []
            section = of
            rows.append((name, text))
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(f"Aliases: {_aliases()}. More: gpuctl help states, gpuctl help durations ...")


def _without_hosts(words: list[str]) -> list[str]:
    """Return the words before a command without those that name hosts."""
    left, given = [], iter(words)
    for word in given:
        if word in ("-H", "--host"):
            next(given, None)
        elif not word.startswith(("-H", "--host=")):
            left.append(word)
    return left


def _lines(word: str) -> str:
    """Return a word of `tail` as `logs` has it: `-50` is so many lines."""
    return f"-n{word[1:]}" if word.startswith("-") and word[1:].isdigit() else word


def _killed(words: list[str]) -> list[str]:
    """Return `kill` as it is meant: `-9 12` is without grace, `-USR1 12` or `-s USR1 12` only a signal."""
    if words[:1] == ["-s"] and len(words) > 1 and not words[1].islower():  # states of jobs are written small
        words = [f"-{words[1]}", *words[2:]]
    word = words[0].removeprefix("-") if words and words[0].startswith("-") else ""
    name = word.removeprefix("SIG")
    if not name or not (name.isdigit() or name.isupper()) or name in ("15", "TERM"):
        return ["cancel", *(words[1:] if name in ("15", "TERM") else words)]
    return ["cancel", "--force", *words[1:]] if name in ("9", "KILL") else ["signal", *words[1:], name]


def _aliases() -> str:
    """Return what the aliases stand for, in a line."""
    meanings: dict[str, list[str]] = {}
    for alias, words in ALIASES.items():
        short = "list, what runs" if alias == "ps" else " ".join(words)
        meanings.setdefault(short, []).append(alias)
    return "; ".join(f"{', '.join(names)} ({meaning})" for meaning, names in meanings.items())


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean ...?" with the known words that look like this one; "" when none does."""
    from difflib import get_close_matches  # noqa: PLC0415 - only on the way to an error

    close = get_close_matches(word, list(dict.fromkeys(known)), n=2)
    return f"did you mean {' or '.join(close)}?" if close else ""


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="gpuctl %(version)s")
@click.option(
    "-H",
    "--host",
    multiple=True,
    envvar="GPUD_HOST",
    metavar="HOST,...",
    help="Do it there, by ssh: dgx1, ssh://USER@HOST:PORT; of several: status, list, watch.",
)
@session.display
@click.pass_context
def cli(context: click.Context) -> int | None:
    """Queue jobs for this machine's GPUs, and look after them.

    Start with `gpuctl submit -- python train.py`; then `gpuctl list`, `gpuctl logs -f`, `gpuctl gpus`.
    """
    context.ensure_object(session.Session)
    if context.color is None:
        context.color = session.color_wanted(os.environ)
    unwind_first()  # the command is imported by now
    if context.invoked_subcommand is not None:
        return None
    group = context.command
    status = group.get_command(context, "status") if isinstance(group, Commands) else None
    return context.invoke(status) if status is not None else None


def main(args: list[str] | None = None) -> NoReturn:
    """Run gpuctl and exit with its status."""
    output.prepare()
    try:
        status: Any = cli.main(args=args, prog_name="gpuctl", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        show_next(error)
        command = error.ctx.command if isinstance(error, click.UsageError) and error.ctx is not None else None
        status = OWN_FAILURE if isinstance(command, JobStatusCommand) else error.exit_code
    except GpuctlError as error:
        if not isinstance(error, ReaderLeftError):
            show_error(error)
        status = error.exit_status
        if isinstance(error, OutputError):
            output.discard()
    except (click.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    leave_at_once()
    sys.exit(status if isinstance(status, int) else 0)


def show_next(error: click.ClickException) -> None:
    """Print what to type, where Click says only what is missing, or that a group has no such command."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return
    hint, path = None, context.command_path
    if isinstance(error, click.MissingParameter):
        from gpuctl.topics import EXAMPLES  # noqa: PLC0415 - only on the way to an error

        example = EXAMPLES.get(path.removeprefix("gpuctl "))
        hint = example and f"for example: {path} {example}"
    elif isinstance(context.command, click.Group) and not isinstance(context.command, Commands):
        hint = "there is: " + ", ".join(f"{path} {name}" for name in context.command.list_commands(context))
    if hint:
        click.echo(f"  hint: {hint}", err=True)


def show_error(error: GpuctlError) -> None:
    """Print what is wrong, and what to do about it."""
    click.echo(f"gpuctl: {session.legible(error.message)}", err=True)
    if error.hint:
        click.echo(f"  hint: {session.legible(error.hint)}", err=True)


class JobStatusCommand(click.Command):
    """A command that exits as its job does: its own failures are 125, so that the two are never confused."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises GpuctlError, with the exit status of an own failure."""
        try:
            return super().invoke(ctx)
        except GpuctlError as error:
            error.exit_status = OWN_FAILURE
            raise
        except BrokenPipeError:  # of what is said on stderr
            raise click.exceptions.Exit(OWN_FAILURE) from None
