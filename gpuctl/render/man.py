"""The command tree as manual pages: what `--help` says, in the macros of man(7).

A page for gpuctl, with the topics and exit statuses, and one for each command; what is within a command (`daemon
start`) has a section of its command's page.
"""

from collections.abc import Iterator

import click

from gpuctl.topics import TOPICS

_MARK = "\b"  # Click's, for lines to leave alone


def pages(command: click.Group, version: str) -> dict[str, str]:
    """Return every page by its file's name: `gpuctl.1`, `gpuctl-submit.1` ..."""
    root = click.Context(command, info_name="gpuctl", **command.context_settings)
    commands = [(name, found) for name in command.list_commands(root) if (found := command.get_command(root, name))]
    overview = [_heading("gpuctl", version), *_named("gpuctl", "queue jobs for GPUs, and look after them")]
    overview += [".SH SYNOPSIS", ".B gpuctl", "[OPTIONS] COMMAND [ARGS]...", *_described(command)]
    overview += [".SH COMMANDS"]
    for name, found in commands:
        overview += [".TP", f".BR gpuctl\\-{_escaped(name)} (1)", _text(found.get_short_help_str(200))]
    aliases: dict[str, tuple[str, ...]] = getattr(command, "aliases", {})
    overview += [".SH ALIASES"]
    for alias, words in aliases.items():
        overview += [".TP", f".B gpuctl {_escaped(alias)}", _text(f"gpuctl {' '.join(words)}")]
    overview += [".SH OPTIONS", *_options(command, root)]
    for name, (about, text) in TOPICS.items():
        overview += [f".SH {_escaped(name.upper())}", _text(f"{about[0].upper()}{about[1:]}."), *_verbatim(text)]
    overview += _see_also(f"gpuctl-{name}" for name, _ in commands)
    made = {"gpuctl.1": "\n".join(overview) + "\n"}
    for name, found in commands:
        context = click.Context(found, info_name=name, parent=root, **found.context_settings)
        lines = [_heading(f"gpuctl-{name}", version), *_named(f"gpuctl-{name}", found.get_short_help_str(200))]
        lines += _body(found, context, "SH")
        if isinstance(found, click.Group):
            for inner_name in found.list_commands(context):
                inner = found.get_command(context, inner_name)
                if inner is not None:
                    lines.append(f".SH {_escaped(f'{name} {inner_name}'.upper())}")
                    inside = click.Context(inner, info_name=inner_name, parent=context, **inner.context_settings)
                    lines += _body(inner, inside, "SS")
        made[f"gpuctl-{name}.1"] = "\n".join([*lines, *_see_also(["gpuctl"])]) + "\n"
    return made


def _heading(name: str, version: str) -> str:
    return f'.TH "{_escaped(name.upper())}" 1 "" "gpud {_escaped(version)}" "gpud"'


def _named(name: str, about: str) -> list[str]:
    return [".SH NAME", f"{_escaped(name)} \\- {_text(about.rstrip('.'))}"]


def _body(command: click.Command, context: click.Context, section: str) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f".{section} SYNOPSIS" if section == "SH" else ".PP"]
    lines += [f".B {_escaped(context.command_path)}", _text(usage), *_described(command, section)]
    options = _options(command, context)
    return [*lines, *([f".{section} OPTIONS"] if options else []), *options]


def _described(command: click.Command, section: str = "SH") -> list[str]:
    """Return what a command says of itself: paragraphs, and what is marked as to be left alone."""
    lines = [f".{section} DESCRIPTION"] if section == "SH" else []
    for paragraph in (command.help or "").replace("\r", "").split("\n\n"):
        if paragraph.lstrip(" \n").startswith(_MARK):
            lines += _verbatim(paragraph.replace(_MARK, ""))
        elif paragraph.strip():
            lines += [".PP", _text(" ".join(paragraph.split()))]
    return lines


def _options(command: click.Command, context: click.Context) -> list[str]:
    lines: list[str] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            lines += [".TP", f".B {_escaped(record[0])}", _text(record[1])]
    return lines


def _verbatim(text: str) -> list[str]:
    return [".PP", ".nf", *(_text(line) if line else "" for line in text.strip("\n").split("\n")), ".fi"]


def _see_also(names: Iterator[str] | list[str]) -> list[str]:
    listed = [f".BR {_escaped(name)} (1)," for name in names]
    return [".SH SEE ALSO", *listed[:-1], *(line.rstrip(",") for line in listed[-1:])]


def _escaped(text: str) -> str:
    """Return text in which nothing is an escape of roff's, and a minus can be copied."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")


def _text(line: str) -> str:
    """Return a line of text: one that begins with a dot is no request."""
    escaped = _escaped(line)
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped
